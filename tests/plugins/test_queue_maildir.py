"""What `queue/maildir` writes, where, and what it leaves when something fails."""

import errno
import mailbox
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.queue import _maildirsize
from qpsmtpd.plugins.queue.maildir import SharedSyncs, _NoFolderError
from qpsmtpd.protocol import Mailbox
from qpsmtpd.session.message import Message
from qpsmtpd.testing import make_site

CONTENT = b"Subject: x\r\nMessage-Id: <id@x>\r\n\r\nbody\r\n..dot\r\n\xff\x00\r\n.\r\n"
RECIPIENTS = ("<user@dest.example>", "<we ird+x@dest.example>")


@pytest.fixture
def deliver(kit, tmp_path):
    """Send a message through `queue/maildir` with these arguments; give the last reply."""

    def deliver(arguments="", recipients=RECIPIENTS, content=CONTENT, config=None):
        made = kit(f"queue/maildir {tmp_path}/md {arguments}", config=config)
        deliver.logged = made.logged
        client = made.connect()
        client.send(b"EHLO c.example\r\nMAIL FROM:<sender@client.example>\r\n")
        for recipient in recipients:
            client.send(f"RCPT TO:{recipient}\r\n".encode())
        client.send(b"DATA\r\n")
        return client.send(content)

    return deliver


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


def places(directory):
    return [str(path.parent.relative_to(directory)) for path in files(directory)]


def without_trace(data):
    """A stored message without the fields a server adds, which end at the Subject."""
    head, _, rest = data.partition(b"Authentication-Results: ")
    return head + b"Subject: " + rest.partition(b"\nSubject: ")[2]


def test_a_message_is_stored_once_byte_for_byte_under_its_envelope(deliver, tmp_path):
    assert deliver() == b"250 2.0.0 Queued! <id@x>\r\n"
    (path,) = files(tmp_path / "md")
    assert path.parent == tmp_path / "md" / "new"
    assert without_trace(path.read_bytes()) == (
        b"Return-Path: <sender@client.example>\nDelivered-To: we ird+x@dest.example\nDelivered-To: user@dest.example\n"
        b"Subject: x\nMessage-Id: <id@x>\n\nbody\n.dot\n\xff\x00\n"
    )


def test_other_programs_can_read_it(deliver, tmp_path):
    deliver()
    (message,) = mailbox.Maildir(tmp_path / "md", create=False)
    assert (message["subject"], message["return-path"]) == ("x", "<sender@client.example>")
    assert message["received"].startswith("from ")


def test_a_large_message_comes_from_its_spool_file(deliver, tmp_path):
    body = b"0123456789\r\n" * 100_000
    assert deliver(content=b"Subject: x\r\n\r\n" + body + b".\r\n", config={"size_threshold": ("10000",)})[:3] == b"250"
    (path,) = files(tmp_path / "md")
    assert path.read_bytes().partition(b"\n\n")[2] == body.replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("%d/%l", ["dest.example/user/new", "dest.example/we_ird+x/new"]),
        ("%u", ["user@dest.example/new", "we_ird+x@dest.example/new"]),
        ("%d", ["dest.example/new", "dest.example/new"]),
        ("all/%%%l", ["all/%user/new", "all/%we_ird+x/new"]),
    ],
)
def test_with_a_subdirectory_each_recipient_gets_a_copy(deliver, tmp_path, arguments, expected):
    assert deliver(arguments)[:3] == b"250"
    assert places(tmp_path / "md") == expected
    delivered = [
        line for path in files(tmp_path / "md") for line in path.read_bytes().splitlines() if b"Delivered" in line
    ]
    assert sorted(delivered) == [b"Delivered-To: user@dest.example", b"Delivered-To: we ird+x@dest.example"]


def test_a_recipient_named_twice_gets_one_copy_and_case_makes_no_second_maildir(deliver, tmp_path):
    deliver("%d/%l", ("<user@dest.example>", "<user@dest.example>", "<User@DEST.example>"))
    assert places(tmp_path / "md") == ["dest.example/user/new"] * 2


def test_letters_of_any_script_keep_mailboxes_apart(kit, tmp_path):
    plugin = kit(f"queue/maildir {tmp_path} %d/%l").site.plugins[0]
    assert plugin._folder(Mailbox("müller", "dest.example")) != plugin._folder(Mailbox("möller", "dest.example"))


def test_the_postmaster_without_a_domain_is_at_this_host(deliver, tmp_path):
    deliver("%u", ("<postmaster>",))
    assert places(tmp_path / "md") == ["postmaster@mx.example.test/new"]


@pytest.mark.parametrize(("arguments", "mode"), [("", 0o700), ("%l 755", 0o755), ("%l 0770", 0o770)])
def test_directories_and_files_have_the_mode_asked_for(deliver, tmp_path, arguments, mode):
    old = os.umask(0)
    try:
        deliver(arguments)
    finally:
        os.umask(old)
    made = [tmp_path / "md", *(tmp_path / "md").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_dir()} == {mode}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made if path.is_file()} == {mode & 0o666}


def test_a_relative_path_is_that_of_the_start(kit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    client = kit("queue/maildir mail").connect()
    monkeypatch.chdir("/")
    client.send(b"EHLO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@d.example>\r\nDATA\r\n")
    assert client.send(CONTENT)[:3] == b"250"
    (path,) = files(tmp_path / "mail")
    assert path.read_bytes().startswith(b"Return-Path: <>\nDelivered-To: b@d.example\n")


@pytest.mark.parametrize(
    ("field", "told"),
    [
        (b"Message-Id: <a@b> x", b"<a@b>"),
        (b"Message-Id:\r\n <a@b>", b"<a@b>"),
        (b"Message-Id: " + b"a" * 900, b"a" * 200),
    ],
)
def test_the_client_is_told_the_message_id_on_one_short_line(deliver, field, told):
    assert deliver(content=field + b"\r\n\r\n.\r\n") == b"250 2.0.0 Queued! " + told + b"\r\n"


def test_without_a_message_id_the_transaction_is_named(deliver):
    assert deliver(content=b"\r\n.\r\n").startswith(b"250 2.0.0 Queued! ")
    (line,) = deliver.logged("pass, queued as ")
    assert "M0P" in line


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks /proc which file a descriptor is")
def test_data_is_safe_before_it_shows_and_all_is_safe_before_the_reply(deliver, tmp_path, monkeypatch):
    done = []

    def record(name, function):
        def call(*args, **kwargs):
            what = args[0] if name == "link" else Path(f"/proc/self/fd/{args[0]}").readlink()
            done.append((name, Path(what).relative_to(tmp_path).parts))
            return function(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    record("fsync", os.fsync)
    record("link", os.link)
    deliver("%l", ("<b@d.example>",))
    (path,) = files(tmp_path / "md")
    assert done == [
        ("fsync", ()), ("fsync", ("md",)), ("fsync", ("md", "b")), ("fsync", ("md", "b")), ("fsync", ("md", "b")),
        ("fsync", ("md", "b", "tmp", path.name)),
        ("link", ("md", "b", "tmp", path.name)),
        ("fsync", ("md", "b", "new")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status"), [(errno.ENOSPC, b"4.3.1"), (errno.EDQUOT, b"4.2.2"), (errno.EIO, b"4.3.0")]
)
@pytest.mark.parametrize("call", ["write", "fsync", "close", "link", "mkdir", "open"])
@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_whatever_call_fails_the_client_may_try_again_and_nothing_is_left(
    deliver, tmp_path, monkeypatch, call, number, error, status
):
    real, count = getattr(os, call), 0

    def fail(*args, **kwargs):
        nonlocal count
        count += 1
        if count == number:
            if call == "close":
                real(*args)
            raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        reply = deliver("%l", ("<a@d.example>", "<b@d.example>", "<c@d.example>"))
    if count < number:  # there are not that many calls
        assert reply[:3] == b"250"
        return
    assert reply == b"452 " + status + b" the message cannot be stored now, please try again later\r\n"
    assert files(tmp_path / "md") == []
    assert deliver.logged("(queue) queue::maildir: error, ")
    assert deliver.logged(os.strerror(error))


def test_a_disk_that_takes_only_a_part_at_a_time_gets_all_of_it(deliver, tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    deliver()
    (path,) = files(tmp_path / "md")
    assert without_trace(path.read_bytes()).endswith(b"Subject: x\nMessage-Id: <id@x>\n\nbody\n.dot\n\xff\x00\n")


@pytest.mark.parametrize(
    ("quota", "fits"),
    [
        ("100000S", True),
        ("100000S,3C\n100 2", True),
        ("100000S,3C\n100 2\n50 1", False),
        ("100000S,3C\n100 2\n50 1\n-50 -1", True),
        ("1000S\n900 1", False),
        ("1000S\n100000 1\n-100000 -1", True),
        ("10S", False),
        ("0S,0C", True),
        ("NOQUOTA\n100 1", True),
        ("", True),
        ("\xff\n\xff", True),
    ],
)
def test_the_quota_of_a_maildir_is_heeded(deliver, tmp_path, quota, fits):
    file = tmp_path / "md" / "b" / "maildirsize"
    file.parent.mkdir(parents=True)
    file.write_text(f"{quota}\n")
    reply = deliver("%l", ("<a@d.example>", "<b@d.example>"))
    assert reply.startswith(b"250" if fits else b"452 4.2.2 the message cannot be stored")
    mails = [path for path in files(tmp_path / "md") if path != file]
    assert [path.parent.parent.name for path in mails] == (["a", "b"] if fits else [])
    noted = f"{mails[1].stat().st_size} 1\n" if fits else ""
    assert file.read_text() == f"{quota}\n{noted}"
    assert fits or deliver.logged(os.strerror(errno.EDQUOT))


def test_a_quota_that_cannot_be_noted_costs_no_mail(deliver, tmp_path):
    (tmp_path / "md" / "maildirsize").mkdir(parents=True)
    assert deliver()[:3] == b"250"
    assert places(tmp_path / "md") == ["new"]


def test_a_message_that_breaks_off_is_452(deliver, tmp_path, monkeypatch):
    def broken(self):
        yield b"Subject: x\n"
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Message, "lf_chunks", broken)
    assert deliver()[:3] == b"452"
    assert files(tmp_path) == []


@pytest.mark.parametrize("place", ["md", "md/new", "md/tmp", "md/cur", "md/user"])
def test_a_file_in_the_place_of_a_directory_is_452(deliver, tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    assert deliver("%l" if place == "md/user" else "")[:3] == b"452"
    assert files(tmp_path) == [tmp_path / place]


def test_a_filesystem_without_links_is_served_by_renaming(deliver, tmp_path, monkeypatch):
    def link(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert deliver("%l")[:3] == b"250"
    assert places(tmp_path / "md") == ["user/new", "we_ird+x/new"]


def test_a_name_that_is_taken_is_never_overwritten(deliver, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    assert deliver()[:3] == b"250"
    (path,) = files(tmp_path / "md")
    path.write_bytes(b"precious")
    assert deliver()[:3] == b"452"  # a new counter, the same clock: the same name
    assert files(tmp_path / "md") == [path]
    assert path.read_bytes() == b"precious"


def test_the_counter_alone_keeps_two_messages_of_one_process_apart(kit, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    made = kit(f"queue/maildir {tmp_path}/md")
    plugin = made.site.plugins[0]
    transaction = made.connect().session.transaction
    one, two = (plugin._copy(plugin._root, transaction, ()) for _ in range(2))
    assert one.name != two.name
    plugin._deliver([one], transaction)
    Path(two.tmp).write_bytes(b"another process is writing this")
    with pytest.raises(FileExistsError):
        plugin._deliver([two], transaction)
    assert Path(two.tmp).read_bytes() == b"another process is writing this"


def test_twenty_threads_write_four_hundred_messages(kit, tmp_path):
    made = kit(f"queue/maildir {tmp_path}/md")
    plugin = made.site.plugins[0]
    transaction = made.connect().session.transaction

    def write():
        for _ in range(20):
            plugin._deliver([plugin._copy(plugin._root, transaction, ())], transaction)

    threads = [threading.Thread(target=write) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places(tmp_path / "md") == ["new"] * 400


ODD = st.text() | st.text("./\\%ldu~ \0\n@:", max_size=8) | st.sampled_from([".", "..", "", "../x", "/etc", "a/../b"])


@given(ODD, ODD | st.none(), st.sampled_from(["%l", "%d", "%u", "%d/%l", "%l/%d", "x/%l", "%l%l"]))
def test_no_recipient_leads_out_of_the_directory(local, domain, subdir):
    (plugin,) = make_site(f"queue/maildir /var/mail/hosts {subdir}").plugins
    try:
        named = plugin._folder(Mailbox(local, domain))
    except _NoFolderError:
        return
    folder, root = Path(named), Path(plugin._root)
    assert os.path.normpath(named) == named
    assert folder.parts[: len(root.parts)] == root.parts
    assert len(folder.parts) == len(root.parts) + subdir.count("/") + 1
    assert folder != root
    assert "\0" not in named


def test_an_address_that_makes_no_directory_is_refused_for_good(deliver, tmp_path):
    assert deliver("%l", ('<".."@dest.example>', "<user@dest.example>")).startswith(b"552")
    assert files(tmp_path / "md") == []
    assert deliver("%l", ('<"../../x"@dest.example>',)).startswith(b"250")
    assert places(tmp_path / "md") == [".._.._x/new"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "its arguments are: PATH"),
        ("md nosub", "must hold %l, %d or %u"),
        ("md %s", "must hold %l, %d or %u"),
        ("md %l/%", "must hold %l, %d or %u"),
        ("md ../%l", "must be names with single slashes"),
        ("md /%l", "must be names with single slashes"),
        ("md %l//%d", "must be names with single slashes"),
        ("md %l rwx", "is no octal mode"),
        ("md %l 077", "is no octal mode"),
        ("md %l 888", "is no octal mode"),
        ("md %l 700 more", "too many positional arguments"),
    ],
)
def test_bad_arguments_are_refused_at_load(kit, arguments, message):
    with pytest.raises(ConfigError, match=rf"plugins:1: queue/maildir: .*{message}"):
        kit(f"queue/maildir {arguments}")


class Disk:
    """A directory whose syncs begin, and wait to be let through."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.begun = threading.Semaphore(0)
        self.through = threading.Semaphore(0)
        self.syncs = 0

    def sync(self, directory):
        self.syncs += 1
        self.begun.release()
        assert self.through.acquire(timeout=10)
        if self.faults and (fault := self.faults.pop(0)):
            raise fault


class Counted(dict):
    """Tells how often it has been asked by `setdefault`."""

    asked = 0

    def setdefault(self, key, value):
        self.asked += 1
        return super().setdefault(key, value)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_messages_that_come_at_the_same_time_share_a_sync(threads, until, tmp_path):
    disk = Disk()
    syncs = SharedSyncs(disk.sync)
    syncs._coming = Counted()
    first = threads.submit(syncs.sync, tmp_path)
    assert disk.begun.acquire(timeout=10)
    others = [threads.submit(syncs.sync, tmp_path) for _ in range(6)]
    until(lambda: syncs._coming.asked == 7)
    disk.through.release()
    assert disk.begun.acquire(timeout=10)
    first.result(10)
    assert not any(other.done() for other in others), "the sync they wait for has only begun"
    disk.through.release()
    for other in others:
        other.result(10)
    assert disk.syncs == 2
    assert not syncs._running
    assert not syncs._coming


def test_a_sync_that_fails_fails_for_all_who_shared_it_and_for_nobody_else(threads, until, tmp_path):
    disk = Disk(None, OSError(errno.EIO, "broken"))
    syncs = SharedSyncs(disk.sync)
    syncs._coming = Counted()
    first = threads.submit(syncs.sync, tmp_path)
    assert disk.begun.acquire(timeout=10)
    others = [threads.submit(syncs.sync, tmp_path) for _ in range(3)]
    until(lambda: syncs._coming.asked == 4)
    disk.through.release(3)
    first.result(10)
    for other in others:
        with pytest.raises(OSError, match="broken"):
            other.result(10)
    threads.submit(syncs.sync, tmp_path).result(10)
    assert disk.syncs == 3


def test_directories_are_synced_side_by_side(threads, tmp_path):
    disk = Disk()
    syncs = SharedSyncs(disk.sync)
    both = [threads.submit(syncs.sync, tmp_path / name) for name in ("a", "b")]
    assert disk.begun.acquire(timeout=10)
    assert disk.begun.acquire(timeout=10), "the second waits for the first"
    disk.through.release(2)
    for each in both:
        each.result(10)


def test_a_pipe_in_place_of_the_quota_holds_up_nobody(tmp_path):
    os.mkfifo(tmp_path / "maildirsize")
    answers = []

    def ask():
        answers.append(_maildirsize.has_room(str(tmp_path), 1))
        answers.append(_maildirsize.count(str(tmp_path), 1))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(5)
    assert answers == [True, None]


def test_a_link_in_place_of_the_quota_leads_nowhere(tmp_path):
    other = tmp_path / "other"
    other.write_text("1S\n5 1\n")
    (tmp_path / "maildirsize").symlink_to(other)
    assert _maildirsize.has_room(str(tmp_path), 100)
    _maildirsize.count(str(tmp_path), 100)
    assert other.read_text() == "1S\n5 1\n"
