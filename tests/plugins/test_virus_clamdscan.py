"""What `virus/clamdscan` tells clamd, and what comes of its answers."""

import array
import os
import socket
import stat
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanning import Daemon, Keep, queued, receive_exactly, receive_until, saying

from qpsmtpd import Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.protocol import parse_reply

CONTENT = b"Subject: x\r\n\r\nsomething\r\n"
MULTIPART = b"Content-Type: MULTIPART/mixed;\r\n boundary=a\r\n\r\n--a\r\n\r\nx\r\n--a--\r\n"


class Clamd:
    """Speaks as clamd does, and keeps what it was given."""

    def __init__(self, verdict=b"stream: OK", version=b"ClamAV 1.4.3/27000/Tue"):
        self.verdict, self.version = verdict, version
        self.scanned = []

    def __call__(self, connection):
        assert receive_until(connection, b"\0") == b"zIDSESSION"
        assert receive_until(connection, b"\0") == b"zVERSION"
        connection.sendall(b"1: " + self.version + b"\0")
        command, _, argument = receive_until(connection, b"\0").partition(b" ")
        self.scanned.append(getattr(self, command.decode())(connection, argument))
        connection.sendall(b"2: " + self.verdict + b"\0")

    def zINSTREAM(self, connection, _):  # noqa: N802
        data = b""
        while size := struct.unpack("!I", receive_exactly(connection, 4))[0]:
            data += receive_exactly(connection, size)
        return data

    def zFILDES(self, connection, _):  # noqa: N802
        _, ((_, _, found),), *_ = connection.recvmsg(1, socket.CMSG_LEN(4))
        (descriptor,) = array.array("i", found)
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def zSCAN(self, connection, path):  # noqa: N802
        return Path(os.fsdecode(path)).read_bytes()


class Karma(Plugin):
    notes: object = None

    def hook_disconnect(self, transaction):
        Karma.notes = dict(self.connection.notes)


@pytest.fixture
def scan(kit):
    """Deliver a message through the plugin, with a daemon: gives the last reply, the message kept, and the stage."""

    def scan(talk, args="", content=CONTENT, plugins=()):
        with Daemon(talk) as daemon:
            stage = kit(
                *plugins, Karma, f"virus/clamdscan clamd_port {daemon.port} {args}", Keep, config={"me": ["mx.example"]}
            )
            client = stage.connect()
            reply = client.deliver(content)[-1]
            if not client.closed:
                client.say("QUIT")
        return reply, queued(), stage

    return scan


def test_a_clean_message_passes_and_says_so(scan):
    clamd = Clamd()
    reply, message, stage = scan(clamd)
    assert reply.code == 250
    assert message.startswith(b"X-Virus-Found: No\r\nX-Virus-Checked: by ClamAV 1.4.3 on mx.example\r\n")
    assert message.endswith(clamd.scanned[0])
    assert clamd.scanned[0].endswith(CONTENT)
    assert stage.logged("virus::clamdscan: pass, clean")


def test_a_virus_is_refused_and_the_client_is_marked(scan):
    reply, message, stage = scan(Clamd(b"stream: Eicar-Signature FOUND"))
    assert (reply.code, reply.text) == (554, "Virus found: Eicar-Signature")
    assert message == b""
    assert Karma.notes["naughty"] == "Virus found: Eicar-Signature"
    assert Karma.notes["karma"] == -1
    assert stage.logged("fail, found virus Eicar-Signature")


@pytest.mark.parametrize("args", ["deny_viruses no", "reject 0"])
def test_a_virus_may_be_let_pass_with_a_warning(scan, args):
    reply, message, stage = scan(Clamd(b"stream: Eicar-Signature FOUND"), args)
    assert reply.code == 250
    assert message.startswith(b"X-Virus-Found: Yes\r\nX-Virus-Details: Eicar-Signature\r\n")
    assert b"X-Virus-Checked" not in message
    assert "naughty" not in Karma.notes
    assert Karma.notes["karma"] == -1
    assert stage.logged("found virus Eicar-Signature")


def test_reject_type_says_how_to_refuse(scan):
    reply, _, _ = scan(Clamd(b"stream: V FOUND"), "reject_type soft")
    assert reply.code == 451


def test_what_the_message_says_itself_of_viruses_is_removed(scan):
    forged = b"X-Virus-Found: No\r\nX-VIRUS-Checked: by me\r\n" + CONTENT
    assert b"by me" not in scan(Clamd(), content=forged)[1]
    _, message, _ = scan(Clamd(), "scan_all no", content=forged)  # not even scanned
    assert b"X-Virus" not in message
    assert b"by me" not in message


def test_a_message_above_the_limit_is_not_scanned(scan):
    clamd = Clamd()
    reply, _, stage = scan(clamd, "max_size 1", content=CONTENT + b"x" * 998 + b"\r\n")
    assert reply.code == 250
    assert not clamd.scanned
    assert stage.logged("skip, too big (1025)")
    scan(clamd, "max_size 1", content=CONTENT + b"x" * 997 + b"\r\n")
    assert len(clamd.scanned) == 1


@pytest.mark.parametrize(("content", "count"), [(CONTENT, 0), (MULTIPART, 1), (b"Content-Type: x\r\n" + MULTIPART, 1)])
def test_messages_of_one_part_may_be_left_out(scan, content, count):
    clamd = Clamd()
    _, _, stage = scan(clamd, "scan_all no", content=content)
    assert len(clamd.scanned) == count
    assert bool(stage.logged("skip, not multipart")) is not bool(count)


def test_a_marked_client_is_not_scanned(scan):
    class Mark(Plugin):
        def hook_connect(self, transaction):
            self.is_naughty("we know you")

    clamd = Clamd()
    _, _, stage = scan(clamd, plugins=[Mark])
    assert not clamd.scanned
    assert stage.logged("skip, naughty")


@pytest.mark.parametrize("args", ["transfer stream", "transfer descriptor", "transfer path"])
def test_the_message_may_be_handed_over_in_three_ways(kit, tmp_path, args):
    clamd = Clamd(b"fd[10]: Test: 1 FOUND")
    with Daemon(clamd, path=tmp_path / "clamd") as _:
        stage = kit(f"virus/clamdscan clamd_socket {tmp_path}/clamd {args}", Keep)
        reply = stage.connect().deliver(CONTENT)[-1]
    assert reply.code == 554
    assert clamd.scanned[0].endswith(CONTENT)


@pytest.mark.parametrize(
    ("perms", "folder", "file"), [("0700", 0o700, 0o600), ("0710", 0o710, 0o640), ("0751", 0o711, 0o644)]
)
def test_who_may_enter_the_spool_directory_may_read_the_file(kit, tmp_path, perms, folder, file):
    modes = []

    class Look(Clamd):
        def zSCAN(self, connection, path):  # noqa: N802
            modes.extend(
                stat.S_IMODE(each.stat().st_mode) for each in (Path(os.fsdecode(path)).parent, Path(os.fsdecode(path)))
            )

    spool = tmp_path / "spool"
    spool.mkdir()
    spool.chmod(int(perms, 8))
    with Daemon(Look()) as daemon:
        stage = kit(
            f"virus/clamdscan clamd_port {daemon.port} transfer path",
            config={"spool_dir": [str(spool)], "spool_perms": [perms]},
        )
        stage.connect().deliver(CONTENT)
    assert modes == [folder, file]


def test_a_large_message_is_sent_in_pieces(scan):
    clamd = Clamd()
    content = CONTENT + (b"x" * 98 + b"\r\n") * 5000
    assert scan(clamd, content=content)[0].code == 250
    assert clamd.scanned[0].endswith(content)


@pytest.mark.parametrize(("args", "code"), [("", 250), ("defer_on_error no", 250), ("defer_on_error yes", 451)])
@pytest.mark.parametrize(
    "verdict",
    [b"stream: Can't open file ERROR", b"INSTREAM size limit exceeded. ERROR", b"", b"OK", b"FOUND", b": OK", b"stream: OKAY"],
)  # fmt: skip
def test_a_scan_that_fails_lets_the_message_pass_or_defers_it(scan, args, code, verdict):
    reply, message, stage = scan(Clamd(verdict), args)
    assert reply.code == code
    assert stage.logged("clamdscan: error, 127.0.0.1:")
    assert b"X-Virus" not in message


@pytest.mark.parametrize(("args", "code"), [("", 250), ("defer_on_error yes", 451)])
def test_a_daemon_that_is_down_lets_the_message_pass_or_defers_it(kit, tmp_path, args, code):
    stage = kit(f"virus/clamdscan clamd_socket {tmp_path}/none {args}")
    assert stage.connect().deliver(CONTENT)[-1].code == code
    assert stage.logged(f"error, {tmp_path}/none: No such file or directory")


def test_a_daemon_that_says_nothing_is_an_error(scan):
    reply, _, stage = scan(lambda connection: connection.recv(1 << 20) and connection.recv(1), "timeout 0.05")
    assert reply.code == 250
    assert stage.logged("clamdscan: error, 127.0.0.1:")


@pytest.mark.parametrize(
    ("args", "message"),
    [("clamd_port x", "clamd_port 'x' is no whole number"), ("clamd_port 70000", "70000"), ("clamd_socket x/y", "neither"),
     ("max_size 0", "max_size '0'"), ("deny_viruses maybe", "neither yes nor no"), ("transfer post", "is none of stream"),
     ("transfer descriptor clamd_port 3310", "needs a Unix socket"), ("timeout 0", "timeout"), ("clamd_sock x", "unknown argument")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"virus/clamdscan {args}")
    assert message in str(caught.value)


def test_whatever_the_daemon_says_no_field_and_no_reply_is_broken(kit):
    pieces = st.sampled_from(
        [b"1: ", b"2: ", b"\0", b"stream: ", b" FOUND", b"OK", b"\r\n", b"\nX-Evil: 1\r\n", b"/", b"ClamAV"]
    )
    with Daemon(None) as daemon:
        stage = kit(f"virus/clamdscan clamd_port {daemon.port} timeout 5 deny_viruses no", Keep)
        refusing = kit(f"virus/clamdscan clamd_port {daemon.port} timeout 5 defer_on_error yes")

        @given(st.binary(max_size=60) | st.lists(pieces | st.binary(max_size=5), max_size=12).map(b"".join))
        def check(answer):
            daemon.talk = saying(answer)
            assert stage.connect().deliver(CONTENT)[-1].code == 250
            head = queued().partition(b"\r\n\r\n")[0]
            names = [line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in b" \t"]
            assert set(names) <= {
                b"X-Virus-Found", b"X-Virus-Checked", b"X-Virus-Details", b"Authentication-Results", b"Received", b"Subject",
            }  # fmt: skip
            assert head.replace(b"\r\n", b"").isascii()
            client = refusing.connect()
            client.say("EHLO c.example")
            client.send(b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
            reply = parse_reply(client.send(CONTENT + b".\r\n"))
            assert reply.code in (250, 451, 554)

        check()
