"""`qpsmtpd compare`, by its command line, against servers of ours that are wrong on purpose."""

import contextlib
import json
import re
import socket
import socketserver
import threading

import pytest

from qpsmtpd.cli import main
from qpsmtpd.compare.cases import CASES, generated
from qpsmtpd.compare.minimal import minimise
from qpsmtpd.testing.dialogue import unescape

FAST = ("--settle", "0.05", "--patience", "1", "--delivery", "3")


class Toy(socketserver.StreamRequestHandler):
    """A server of SMTP that reads lines as text files have them, and delivers into a Maildir."""

    ends = (b".\n", b".\r\n")
    hostile = b""

    def handle(self):
        with contextlib.suppress(OSError):
            self.wfile.write(b"220 toy\r\n")
            sender, recipients = None, []
            while line := self.rfile.readline():
                verb = line[:4].upper().strip()
                if verb == b"MAIL":
                    sender, recipients = address(line), []
                elif verb == b"RCPT":
                    recipients.append(address(line))
                if verb == b"QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                if verb == b"DATA" and recipients:
                    self.wfile.write(b"354 go on\r\n")
                    content = list(iter(self.line, None))
                    self.server.deliver(sender, recipients, b"".join(content))
                    sender, recipients = None, []
                self.wfile.write(self.hostile or b"250 fine\r\n")

    def line(self):
        line = self.rfile.readline()
        if not line or line in self.ends:
            return None
        return line.removeprefix(b".")


class Strict(Toy):
    ends = (b".\r\n",)


class Hostile(Toy):
    hostile = b"250 <script>alert(1)</script>\x1b[31m\xff\r\n"


class Flood(Toy):
    def handle(self):
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * 4096)


class Mute(Toy):
    def handle(self):
        self.rfile.read()


class Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        """Say nothing of clients that are gone before the goodbye."""


def address(line):
    found = re.search(rb"<([^>]*)>", line)
    return found[1] if found else b""


@pytest.fixture
def maildir(tmp_path):
    path = tmp_path / "mail"
    (path / "new").mkdir(parents=True)
    return path


@pytest.fixture
def toy(maildir):
    """A server of a class above: `toy(Toy)` gives HOST:PORT. `deliver` writes into the Maildir."""
    numbers = iter(range(10_000))

    def deliver(sender, recipients, content):
        new = maildir / f"tmp-{next(numbers)}"
        new.write_bytes(b"X-MailFrom: %b\nX-RcptTo: %b\n%b" % (sender, recipients[0], content))
        new.rename(maildir / "new" / new.name)

    with contextlib.ExitStack() as stack:

        def start(kind, deliver=deliver):
            server = Listener(("127.0.0.1", 0), kind)
            server.deliver = deliver
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return f"127.0.0.1:{server.server_address[1]}"

        yield start


def compared(tmp_path, *arguments):
    """The exit status, and the report for programs."""
    status = main(["compare", *arguments, *FAST, "--json", str(tmp_path / "report.json")])
    return status, json.loads((tmp_path / "report.json").read_text())


def test_the_hole_of_a_naive_server_is_found_and_its_dialogue_made_small(toy, maildir, tmp_path, capsys):
    status, report = compared(tmp_path, f"toy={toy(Toy)},maildir={maildir}", "--only", "smuggling/lf-dot-*")
    assert status == 2
    worst = report["findings"][0]
    assert worst["smuggled"] == ["toy"]
    assert worst["behaviour"] == {"qpsmtpd": "no messages", "qpsmtpd-normalize": "1 message", "toy": "2 messages"}
    assert "smuggling/lf-dot-lf" in worst["cases"]
    smallest = report["minimal"][0]
    writes = b"".join(map(unescape, smallest["writes"]))
    assert len(writes) == smallest["octets"] < 100
    assert smallest["messages"] == {"qpsmtpd": 0, "toy": 2}
    assert re.search(rb"\n\.\nMAIL", writes)
    assert b"\r\n.\r\n" not in writes
    shown = capsys.readouterr().out
    assert "2 messages  <- SMUGGLED" in shown
    assert f"smallest dialogue of {smallest['case']} found at toy, {smallest['octets']} octets" in shown


def test_the_smallest_dialogue_still_shows_the_hole(toy, maildir, tmp_path):
    _, report = compared(tmp_path, f"toy={toy(Toy)},maildir={maildir}", "--only", "smuggling/lf-dot-lf")
    before = len(list(maildir.glob("new/*")))
    # A stranger plays it by hand, to the same server.
    with socket.create_connection(("127.0.0.1", int(report["targets"]["toy"].split(":")[1].split(",")[0]))) as client:
        lines = client.makefile("rb")
        assert lines.readline() == b"220 toy\r\n"
        for write in report["minimal"][0]["writes"]:
            client.sendall(unescape(write))
            lines.readline()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(4096)
        while client.recv(4096):
            pass
    assert len(list(maildir.glob("new/*"))) == before + 2


def test_a_server_that_reads_lines_but_ends_content_rightly_is_not_deceived(toy, maildir, tmp_path):
    status, report = compared(
        tmp_path, f"toy={toy(Strict)},maildir={maildir}", "--only", "smuggling/crlf-dot-cr*", "--probes", "0"
    )
    assert status == 0
    assert not any(finding["smuggled"] for finding in report["findings"])
    control = next(case for case in report["cases"] if case["name"] == "smuggling/crlf-dot-crlf")
    assert {outcome["framing"] for outcome in control["outcomes"].values()} == {"2 messages"}


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_a_server_may_relay_to_a_sink_that_the_command_opens(toy, tmp_path, protocol):
    with socket.socket() as holder:  # bound and never listened on: nobody else is given the port
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]

        def relay(sender, recipients, content):
            with socket.create_connection(("127.0.0.1", port)) as sink:
                said = sink.makefile("rb")
                said.readline()
                hello = b"LHLO" if protocol == "lmtp" else b"HELO"
                content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                for line in (
                    hello + b" toy",
                    b"MAIL FROM:<%b>" % sender,
                    b"RCPT TO:<%b>" % recipients[0],
                    b"DATA",
                    content + b".",
                ):
                    sink.sendall(line + b"\r\n")
                    while said.readline()[3:4] == b"-":
                        pass

        where = f"toy={toy(Toy, relay)},{protocol}=127.0.0.1:{port}"
        status, report = compared(tmp_path, where, "--only", "smuggling/lf-dot-lf", "--probes", "0")
    assert status == 2
    (case,) = report["cases"]
    seen = case["outcomes"]["toy"]["messages"]
    assert [each["sender"] for each in seen] == ["c@three.example", "a@one.example"]
    assert all(each["recipients"] == ["RECIPIENT"] for each in seen)


def test_what_a_server_says_is_escaped_in_every_report(toy, tmp_path, capsys):
    page = tmp_path / "report.html"
    _, report = compared(tmp_path, f"toy={toy(Hostile)}", "--only", "line-*", "--html", str(page))
    text = page.read_text()
    assert "<script" not in text
    assert "\x1b" not in text + capsys.readouterr().out
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\xff\\r\\n" in text
    assert not re.search(r"""(?:src|href)=|@import|url\(""", text)
    assert report["cases"][0]["outcomes"]["toy"]["messages"] is None


@pytest.mark.parametrize(("kind", "ending"), [(Flood, "said too much"), (Mute, "silent")])
def test_a_server_that_floods_or_is_silent_is_a_result(toy, tmp_path, kind, ending):
    _, report = compared(tmp_path, f"toy={toy(kind)}", "--only", "plain")
    assert report["cases"][0]["outcomes"]["toy"]["ending"] == ending


def test_a_discreet_report_names_no_dialogue(toy, maildir, tmp_path, capsys):
    page = tmp_path / "report.html"
    where = f"toy={toy(Toy)},maildir={maildir}"
    _, report = compared(tmp_path, where, "--only", "smuggling/lf-dot-*", "--discreet", "--html", str(page))
    assert report["findings"]
    assert "cases" not in report
    assert "lf-dot" not in json.dumps(report) + page.read_text() + capsys.readouterr().out


def test_mail_that_was_there_before_is_not_even_opened(toy, maildir, tmp_path):
    (maildir / "new" / "old").mkdir()  # to open it as a file fails
    _, report = compared(tmp_path, f"toy={toy(Toy)},maildir={maildir}", "--only", "plain")
    assert report["cases"][0]["outcomes"]["toy"]["framing"] == "1 message"


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("192.0.2.1:25", "is not this machine"),
        ("127.0.0.1:25,smtp=192.0.2.1:25", "is not this machine"),
        ("127.0.0.1", "is not HOST:PORT"),
        ("127.0.0.1:99999", "is not HOST:PORT"),
        ("127.0.0.1:1,mbox=/x", "is not [NAME=]HOST:PORT"),
        ("127.0.0.1:1,maildir=/nowhere/at/all", "is no directory"),
    ],
)
def test_a_target_that_cannot_be_played_to_is_refused_with_the_reason(target, complaint, capsys):
    assert main(["compare", target]) == 1
    assert complaint in capsys.readouterr().err


def test_two_servers_of_one_name_and_a_pattern_that_matches_nothing_are_refused(toy, capsys):
    where = toy(Strict)
    assert main(["compare", f"x={where}", f"x={where}"]) == 1
    assert main(["compare", where, "--only", "nothing"]) == 1
    assert "two targets are called x" in (said := capsys.readouterr().err)
    assert "no case matches" in said


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_case_marks_all_of_its_messages(case):
    token, recipient = b"0123456789", b"r@two.example"
    dialogue = b"".join(case.dialogue(token, recipient))
    assert b"%(" not in dialogue
    if b"DATA" in dialogue and case.name != "content-empty":
        assert token in dialogue


def test_our_core_takes_nothing_for_an_end_that_is_none(toy, maildir, tmp_path):
    where = f"toy={toy(Strict)},maildir={maildir}"
    _, report = compared(tmp_path, where, "--only", "smuggling/*", "--probes", "0", "--settle", "0.02")
    for name in ("qpsmtpd", "qpsmtpd-normalize"):
        assert [case["name"] for case in report["cases"] if case["outcomes"][name]["smuggled"]] == []


def test_generated_cases_depend_on_the_seed_alone_and_hold_no_end_mark():
    assert generated(50, 1) == generated(50, 1) != generated(50, 2)
    for case in generated(500, 3):
        assert b"\r\n.\r\n" not in case.variant.octets


def test_minimising_stops_when_the_probes_are_spent():
    asked = []

    def shows(writes):
        asked.append(writes)
        return b"x" in b"".join(writes)

    small = minimise([b"abcdefx", b"ghi"], lambda _: True, shows, 100)
    assert small == [b"x"]
    asked.clear()
    assert b"x" in b"".join(minimise([b"abcdefx", b"ghi"], lambda _: True, shows, 3))
    assert len(asked) == 3
