"""A session in memory: hooks, faults of plugins, the envelope, notes, limits of time."""

import errno

import pytest

from qpsmtpd import DECLINED, DENY, DENY_DISCONNECT, DENYSOFT, DONE, OK, Pause, Plugin, blocking
from qpsmtpd.session.connection import Peer
from qpsmtpd.session.effects import SHUTTING_DOWN, TIMED_OUT, CallBlocking, Receive
from qpsmtpd.session.session import Session
from qpsmtpd.testing import Client, make_site
from qpsmtpd.testing.memory import Clock

CONTENT = b"Subject: hi\r\n\r\nbody\r\n.\r\n"
ENVELOPE = (b"EHLO c.example\r\n", b"MAIL FROM:<a@c.example>\r\n", b"RCPT TO:<b@d.example>\r\n", b"DATA\r\n")


class Base(Plugin):
    """Accepts everything."""

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK, "queued"


@pytest.fixture
def log():
    return []


@pytest.fixture
def site(log):
    """Make a site from plugin classes; those before `Base` are asked first."""

    def make(*classes, config=None, clock=None):
        return make_site(*classes, Base, log=log, config=config, clock=clock)

    return make


def play(client, *lines):
    return [client.send(line) for line in lines]


def codes(replies):
    return [reply[:3].decode() for reply in replies]


def test_a_message_is_accepted_and_the_connection_closed(site):
    client = Client(site())
    assert client.replies == b"220 mx.example.test ESMTP qpsmtpd\r\n"
    assert codes(play(client, *ENVELOPE, CONTENT, b"QUIT\r\n")) == ["250", "250", "250", "354", "250", "221"]
    assert client.closed


def test_the_first_answer_that_is_not_declined_ends_the_chain(site):
    asked = []

    class First(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            asked.append("first")
            return DECLINED

    class Second(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            asked.append("second")
            return DENY, "no mail from you"

    class Third(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            asked.append("third")
            return OK

    client = Client(site(First, Second, Third))
    assert play(client, *ENVELOPE[:2])[1] == b"550 5.7.1 no mail from you\r\n"
    assert asked == ["first", "second"]


def test_deny_and_ok_hooks_follow_each_answer_with_plugin_code_and_text(site):
    seen = []

    class Watcher(Plugin):
        def hook_ok(self, transaction, plugin, code, text):
            seen.append(("ok", plugin, code, text))
            return DENY  # changes nothing

        def hook_deny(self, transaction, plugin, code, text):
            seen.append(("deny", plugin, code, text))

    class Careful(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            return (DENYSOFT, "one", "two") if recipient.user == "x" else DECLINED

    client = Client(site(Watcher, Careful))
    replies = play(client, *ENVELOPE[:3], b"RCPT TO:<x@d.example>\r\n")
    assert replies[3] == b"450-4.7.1 one\r\n450 4.7.1 two\r\n"
    assert seen == [("ok", "Careful", DECLINED, ""), ("ok", "Base", OK, ""), ("deny", "Careful", DENYSOFT, "one")]


class Raises(Plugin):
    def hook_data_post(self, transaction):
        raise RuntimeError("out of \x1b[31mcheese\r\n")


class Nonsense(Plugin):
    def hook_data_post(self, transaction):
        return 42


class WrongText(Plugin):
    def hook_data_post(self, transaction):
        return OK, 7


class Empty(Plugin):
    def hook_data_post(self, transaction):
        return ()


class Bytes(Plugin):
    def hook_data_post(self, transaction):
        return DENY, b"bytes"


@pytest.mark.parametrize("fault", [Raises, Nonsense, WrongText, Empty, Bytes])
def test_a_failing_plugin_gives_451_with_a_traceback_and_queues_nothing(site, log, fault):
    queued = []

    class Queue(Plugin):
        def hook_queue(self, transaction):
            queued.append(1)
            return OK

    client = Client(site(fault, Queue))
    assert codes(play(client, *ENVELOPE, CONTENT, b"NOOP\r\n", b"QUIT\r\n"))[4:] == ["451", "250", "221"]
    assert not queued
    text = "\n".join(log)
    assert f"(data_post) {fault.__name__}: error, the hook failed:" in text
    assert "Traceback (most recent call last):" in text
    assert all(line.endswith("\n") and line[:-1].isprintable() for line in log)


def test_a_failing_queue_plugin_never_reports_success_and_ends_the_chain(site):
    class Broken(Plugin):
        def hook_queue(self, transaction):
            raise OSError(errno.ENOSPC, "no space left")

    client = Client(site(Broken))
    assert codes(play(client, *ENVELOPE, CONTENT))[4] == "451"


def test_disconnect_hooks_run_although_one_of_them_fails(site):
    ran = []

    class Failing(Plugin):
        def hook_disconnect(self, transaction):
            raise RuntimeError

        def hook_post_connection(self, transaction):
            raise RuntimeError

    class Later(Plugin):
        def hook_disconnect(self, transaction):
            ran.append("disconnect")

        def hook_post_connection(self, transaction):
            ran.append("post-connection")

    client = Client(site(Failing, Later))
    client.send(b"QUIT\r\n")
    assert ran == ["disconnect", "post-connection"]
    assert client.closed


@pytest.mark.parametrize("end", [b"QUIT\r\n", b"", "timeout", "deny"])
def test_however_a_session_ends_disconnect_and_post_connection_run_once(site, end):
    ran = []

    class Watch(Plugin):
        def hook_disconnect(self, transaction):
            ran.append("disconnect")

        def hook_post_connection(self, transaction):
            ran.append("post")

        def hook_noop(self, transaction):
            return DENY_DISCONNECT

    watched = site(Watch)
    client = Client(watched)
    if end == "timeout":
        client.interrupt(TIMED_OUT)
    else:
        client.send(b"NOOP\r\n" if end == "deny" else end)
    assert client.closed
    assert ran == ["disconnect", "post"]
    assert watched.census.total == 0


def test_the_transaction_has_the_envelope_the_message_and_a_trace_field(site):
    seen = {}

    class Look(Plugin):
        def hook_queue(self, transaction):
            seen.update(
                sender=transaction.sender.address,
                recipients=[r.address for r in transaction.recipients],
                received=transaction.header.get("Received"),
                raw=b"".join(transaction.chunks()),
                size=transaction.data_size,
                parameters=dict(transaction.sender_parameters),
            )
            return DECLINED

    client = Client(site(Look), Peer("192.0.2.10", 1, "192.0.2.1", 25, "client.example"))
    play(client, b"EHLO ev\x1bil.example\r\n", b"MAIL FROM:<a@c.example> SIZE=40\r\n", *ENVELOPE[2:], CONTENT)
    assert seen["sender"] == "a@c.example"
    assert seen["recipients"] == ["b@d.example"]
    assert seen["parameters"] == {"size": "40"}
    assert seen["received"].startswith(
        "from ev?il.example (client.example [192.0.2.10])\r\n\tby mx.example.test (qpsmtpd) with ESMTP id "
    )
    assert "\r\n\tfor <b@d.example>;\r\n\tThu, 01 Jan 2026" in seen["received"]
    assert seen["raw"].endswith(b"\r\nSubject: hi\r\n\r\nbody\r\n")
    assert seen["size"] == len(CONTENT) - 3


def test_several_recipients_are_not_told_to_each_other(site):
    received = []

    class Look(Plugin):
        def hook_queue(self, transaction):
            received.append(transaction.header.get("Received"))
            return DECLINED

    client = Client(site(Look))
    play(client, *ENVELOPE[:3], b"RCPT TO:<c@d.example>\r\n", b"DATA\r\n", CONTENT)
    assert "@d.example" not in received[0]


def test_a_plugin_may_make_the_trace_field(site):
    fields = []

    class Make(Plugin):
        def hook_received_line(self, transaction, protocol, authentication, tls):
            return OK, f"by plugin with {protocol}", "more; date"

        def hook_queue(self, transaction):
            fields.append(transaction.header.get("Received"))
            return DECLINED

    play(Client(site(Make)), *ENVELOPE, CONTENT)
    assert fields == ["by plugin with ESMTP\r\n\tmore; date"]


def test_notes_live_as_long_as_their_owner(site):
    seen = []

    class Notes(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            seen.append((self.connection.notes.get("k"), transaction.notes.get("k")))
            self.connection.notes["k"] = self.transaction.notes["k"] = sender.user

    client = Client(site(Notes))
    play(client, ENVELOPE[0], b"MAIL FROM:<one@x>\r\n", b"RSET\r\n", b"MAIL FROM:<two@x>\r\n")
    assert seen == [(None, None), ("one", None)]


def test_the_header_is_there_at_data_headers_end_and_the_body_later(site):
    seen = []

    class Look(Plugin):
        def hook_data_headers_end(self, transaction):
            seen.append((transaction.header.get("Subject"), transaction.body_file().read()))

        def hook_data_post(self, transaction):
            seen.append((transaction.header.get("Subject"), transaction.body_file().read()))

    play(Client(site(Look)), *ENVELOPE, CONTENT)
    assert seen == [("hi", b""), ("hi", b"\r\nbody\r\n")]


def test_capabilities_in_the_notes_are_announced(site):
    class Announce(Plugin):
        def hook_ehlo(self, transaction, host, *words):
            transaction.notes["capabilities"] = ["XFOO", "XBAR 1"]

    assert Client(site(Announce)).send(ENVELOPE[0]).endswith(b"250-XFOO\r\n250 XBAR 1\r\n")


def test_a_plugin_that_has_replied_itself_says_done(site):
    class Own(Plugin):
        def hook_noop(self, transaction):
            self.qp.respond(299, "my own", "words")
            return DONE

    assert Client(site(Own)).send(b"NOOP\r\n") == b"299-my own\r\n299 words\r\n"


def test_async_blocking_and_effect_hooks_decide_like_plain_ones(site):
    class Async(Plugin):
        async def hook_mail(self, transaction, sender, parameters):
            assert self.transaction is transaction
            return (DENY, "async") if sender.user == "async" else DECLINED

    class Blocking(Plugin):
        @blocking
        def hook_mail(self, transaction, sender, parameters):
            assert self.transaction is transaction
            return (DENY, "blocking") if sender.user == "blocking" else DECLINED

    class Effects(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            yield Pause(3)
            assert self.transaction is transaction
            return (DENY, "effects") if sender.user == "effects" else DECLINED

    client = Client(site(Async, Blocking, Effects))
    client.send(ENVELOPE[0])
    for user in ("async", "blocking", "effects"):
        assert client.send(f"MAIL FROM:<{user}@x>\r\n".encode()) == f"550 5.7.1 {user}\r\n".encode()
    assert client.send(b"MAIL FROM:<other@x>\r\n")[:3] == b"250"
    assert client.pauses == [Pause(3), Pause(3)]


def test_bytes_that_end_a_pause_are_not_lost(site):
    class Early(Plugin):
        def hook_connect(self, transaction):
            early = yield Pause(5, until_input=True)
            assert early == b"NOOP\r\nQUIT\r\n"

    assert codes(Client(site(Early), early=b"NOOP\r\nQUIT\r\n").replies.splitlines()) == ["220", "250", "221"]


def test_bytes_that_wait_behind_a_command_end_a_pause_at_once(site):
    class Early(Plugin):
        def hook_noop(self, transaction):
            early = yield Pause(5, until_input=True)
            return (DENY, repr(early)) if early else DECLINED

    client = Client(site(Early))
    assert client.send(b"NOOP\r\nNOOP\r\n") == b"500 5.7.1 b'NOOP\\r\\n'\r\n250 2.0.0 OK\r\n"
    assert client.pauses == [Pause(5, until_input=True)]


def test_a_plugin_can_tell_chunks_from_content_that_waits_for_the_go_ahead(site):
    seen = []

    class Look(Plugin):
        def hook_data(self, transaction):
            seen.append(transaction.chunked)

    client = Client(site(Look))
    for last in (b"BDAT 0 LAST\r\n", b"DATA\r\n.\r\n"):
        client.send(b"".join(ENVELOPE[:3]) + last)
    assert seen == [True, False]


def test_an_exception_of_the_transport_reaches_the_hook_that_waits(site):
    caught = []

    class Waits(Plugin):
        def hook_noop(self, transaction):
            try:
                yield Pause(1)
            except TimeoutError:
                caught.append(True)
            return DENY, "caught"

    client = Client(site(Waits))

    class Failing(Client):
        pass

    run = client.link._run
    run.send(b"NOOP\r\n")
    run.throw(TimeoutError())
    assert caught
    assert client.session.data_to_send() == b"500 5.7.1 caught\r\n"


def test_a_slow_command_is_timed_out_with_421(site):
    client = Client(site())
    assert client.interrupt(TIMED_OUT) == b"421 4.4.2 Timeout, closing the connection\r\n"
    assert client.closed


def test_a_server_that_stops_says_421(site):
    client = Client(site())
    play(client, *ENVELOPE)
    assert client.interrupt(SHUTTING_DOWN) == b"421 4.3.2 Service shutting down, closing the connection\r\n"
    assert client.closed


def test_times_are_those_of_the_settings_and_content_has_its_own(site):
    client = Client(site(config={"timeout": ["11"], "timeoutdata": ["22"], "timeoutsession": ["100"]}))
    waits = client.link._run

    def timeout(data):
        effect = waits.send(data)
        client.session.data_to_send()
        return effect.timeout

    assert timeout(ENVELOPE[0]) == 11
    assert timeout(b"".join(ENVELOPE[1:])) == 22
    assert timeout(CONTENT) == 11


def test_a_session_as_a_whole_is_limited(site):
    clock = Clock()
    client = Client(site(config={"timeoutsession": ["100"]}, clock=clock))
    clock.now = 99.0
    effect = client.link._run.send(b"NOOP\r\n")
    client.session.data_to_send()
    assert effect.timeout == 1.0
    clock.now = 100.0
    assert client.interrupt(TIMED_OUT).startswith(b"421 4.4.2 This session has lasted too long")


def test_connections_are_capped_in_total_and_for_each_address(site):
    capped = site(config={"max_connections": ["3"], "max_per_ip": ["2"]})
    one, two = Client(capped), Client(capped)
    three = Client(capped)
    assert three.replies == b"421 Too many connections from your address, please try again later\r\n"
    assert three.closed
    other = Client(capped, Peer("192.0.2.11"))
    assert not other.closed
    fifth = Client(capped, Peer("192.0.2.12"))
    assert fifth.replies == b"421 Too many connections, please try again later\r\n"
    one.send(b"QUIT\r\n")
    assert not Client(capped).closed
    for client in (two, other):
        client.vanish()


def test_pre_connection_sees_who_comes_and_may_refuse(site):
    arrivals = []

    class Door(Plugin):
        def hook_pre_connection(self, transaction, arrival):
            arrivals.append(arrival)
            return (DENY, "go away") if arrival.remote_ip == "192.0.2.66" else DECLINED

    door = site(Door)
    first = Client(door)
    assert Client(door, Peer("192.0.2.66", 7, "192.0.2.1", 25)).replies == b"554 go away\r\n"
    assert arrivals[1].child_addrs == ("192.0.2.10",)
    assert (arrivals[1].remote_port, arrivals[1].local_port, arrivals[1].max_conn_ip) == (7, 25, 50)
    first.vanish()


def test_a_failing_pre_connection_plugin_lets_nobody_in(site):
    class Door(Plugin):
        def hook_pre_connection(self, transaction, arrival):
            raise RuntimeError

    assert Client(site(Door)).replies.startswith(b"421 ")


def test_a_full_disk_is_451_and_the_client_may_try_again(site, log, monkeypatch, tmp_path):
    full = True

    def mkdtemp(*args, **kwargs):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return str(tmp_path)

    monkeypatch.setattr("tempfile.mkdtemp", mkdtemp)
    client = Client(site(config={"size_threshold": ["0"]}))
    replies = codes(play(client, *ENVELOPE, CONTENT))
    assert replies[4] == "451"
    assert any("the message cannot be kept: [Errno 28] No space left on device" in line for line in log)
    full = False
    assert codes(play(client, *ENVELOPE[1:], CONTENT)) == ["250", "250", "354", "250"]


def asked_of_the_transport(run, *lines):
    """The kinds of effects that a session asks for behind each line; calls are made."""
    kinds = []
    for line in lines:
        effect = run.send(line)
        asked = [type(effect)]
        while isinstance(effect, CallBlocking):
            effect = run.send(effect.function())
            asked.append(type(effect))
        kinds.append(asked)
    return kinds


def test_what_takes_time_on_the_disk_is_left_to_the_transport(site):
    made = site(config={"size_threshold": ["100"]})
    session = Session(made, Peer("192.0.2.1"))
    run = session.run()
    run.send(None)
    asked_of_the_transport(run, *ENVELOPE)
    small = asked_of_the_transport(run, b"Subject: x\r\n\r\nsmall\r\n")
    large = asked_of_the_transport(run, b"y" * 200 + b"\r\n")
    more = asked_of_the_transport(run, b"z" * 200 + b"\r\n")
    end = asked_of_the_transport(run, b".\r\n")
    assert small == [[Receive]]
    assert large == [[CallBlocking, Receive]], "it goes to a file from here on"
    assert more == [[Receive]], "not for each piece"
    assert end == [[CallBlocking, Receive]], "the file is given up"
    run.close()


def test_a_session_that_ends_while_a_file_is_given_up_leaves_none(site, tmp_path):
    class Work(Plugin):
        def hook_data_post(self, transaction):
            self.temp_file().write_text("x")

    spool = tmp_path / "spool"
    session = Session(site(Work, config={"spool_dir": [str(spool)]}), Peer("192.0.2.1"))
    run = session.run()
    run.send(None)
    for line in ENVELOPE:
        run.send(line)
    effect = run.send(CONTENT)
    assert isinstance(effect, CallBlocking)
    assert list(spool.iterdir())
    run.close()  # the call is never made
    assert list(spool.iterdir()) == []


def test_work_files_are_gone_with_the_transaction(site, tmp_path):
    paths = []

    class Work(Plugin):
        def hook_data_post(self, transaction):
            paths.extend([self.temp_file(), self.temp_dir(), transaction.body_filename()])
            paths[0].write_text("x")
            (paths[1] / "inner").write_text("y")
            assert paths[1].stat().st_mode & 0o777 == 0o700
            assert paths[2].read_bytes().endswith(b"Subject: hi\r\n\r\nbody\r\n")

    spool = tmp_path / "spool"
    client = Client(site(Work, config={"spool_dir": [str(spool)]}))
    play(client, *ENVELOPE, CONTENT)
    assert len(paths) == 3
    assert list(spool.iterdir()) == []
    assert spool.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("stage", range(6))
def test_a_session_that_is_dropped_leaves_no_file(site, tmp_path, stage):
    spool = tmp_path / "spool"
    client = Client(site(config={"spool_dir": [str(spool)], "size_threshold": ["0"]}))
    for line in (*ENVELOPE, CONTENT[:-3])[:stage]:
        client.send(line)
    client.vanish()
    assert not spool.exists() or list(spool.iterdir()) == []


def test_settings_are_read_again_for_new_sessions(tmp_path, log):
    clock = Clock()
    (tmp_path / "databytes").write_text("1000\n")
    made = make_site(directory=tmp_path, log=log, clock=clock)
    assert b"SIZE 1000\r\n" in Client(made).send(ENVELOPE[0])
    (tmp_path / "databytes").write_text("20000\n")
    clock.now = 5
    assert b"SIZE 20000\r\n" in Client(made).send(ENVELOPE[0])
    (tmp_path / "databytes").write_text("rubbish\n")
    clock.now = 10
    assert b"SIZE 20000\r\n" in Client(made).send(ENVELOPE[0])
    assert any("'rubbish' is no number" in line and "old settings stay in force" in line for line in log)


def test_the_greeting_is_a_setting(log):
    assert Client(make_site(config={"smtpgreeting": ["hello there"]})).replies == b"220 hello there ESMTP\r\n"
    assert Client(make_site(config={"smtpgreeting": ["an ESMTP server"]})).replies == b"220 an ESMTP server\r\n"


def test_a_config_hook_comes_before_the_files(site):
    values = []

    class Database(Plugin):
        def hook_config(self, transaction, setting):
            return (OK, "from", "a database") if setting == "mine" else DECLINED

        def hook_noop(self, transaction):
            values.extend([self.qp.config("mine"), self.qp.config("me")])

    Client(site(Database)).send(b"NOOP\r\n")
    assert values == [("from", "a database"), ("mx.example.test",)]


def test_a_logging_plugin_takes_the_log_and_its_faults_go_to_the_fallback(site, log):
    taken = []

    class Logger(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, message):
            if "fault" in message:
                raise RuntimeError("cannot log")
            taken.append((level, hook, plugin, message))
            return OK

    class Speaks(Plugin):
        def hook_noop(self, transaction):
            self.log(6, "pass, hello")

        def hook_vrfy(self, transaction):
            self.log(6, "fault")

    client = Client(site(Logger, Speaks))
    client.send(b"NOOP\r\n")
    assert (6, "noop", "Speaks", "pass, hello") in taken
    client.send(b"VRFY x\r\n")
    assert any("(vrfy) Speaks: fault" in line for line in log)
    assert any("RuntimeError: cannot log" in line for line in log)


def test_a_plugin_may_add_to_the_body(site):
    stored = []

    class Footer(Plugin):
        def hook_queue_pre(self, transaction):
            transaction.body_write(b"--\nfooter\r\n")

        def hook_queue(self, transaction):
            stored.append(b"".join(transaction.chunks()))

    Client(site(Footer)).deliver(b"Subject: x\r\n\r\nbody\r\n")
    assert stored[0].endswith(b"Subject: x\r\n\r\nbody\r\n--\r\nfooter\r\n")


def test_an_exception_whose_text_cannot_be_made_is_a_failure_like_any_other(site, log):
    class UnsayableError(Exception):
        def __str__(self):
            raise ZeroDivisionError

    class Fails(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            raise UnsayableError

    *_, reply = Client(site(Fails)).deliver()
    assert reply.code == 451
    assert any("UnsayableError: (its text cannot be made)" in line for line in log)


@pytest.mark.parametrize("text", ["a\r\n\r\nX-Evil: yes", "\ud800\udfff", "\0\x7f", "ü\udcff", "", "\n\n", "x" * 5000])
def test_no_text_for_the_received_field_ends_the_header_or_the_session(site, text):
    stored = []

    class Own(Plugin):
        def hook_received_line(self, transaction, protocol, authentication, tls):
            return OK, text, text

        def hook_queue(self, transaction):
            stored.append(b"".join(transaction.chunks()))
            return OK

    *_, reply = Client(site(Own)).deliver(b"Subject: x\r\n\r\nbody\r\n")
    assert reply.code == 250
    header, _, body = stored[0].partition(b"\r\n\r\n")
    assert body == b"body\r\n"
    names = [line.partition(b":")[0] for line in header.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert names == [b"Authentication-Results", b"Received", b"Subject"]


def test_a_hook_can_see_the_argument_of_mail_and_rcpt_as_it_was_sent():
    class Sees(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            transaction.notes["said"] = self.qp.session.path_argument

        def hook_rcpt(self, transaction, recipient, parameters):
            return DENY, f"{transaction.notes['said']}, {self.qp.session.path_argument}"

    client = Client(make_site(Sees))
    client.say("EHLO c.example")
    assert client.session.path_argument == ""
    client.say("MAIL FROM: <a@b.example> BODY=8BITMIME")
    assert client.say("RCPT to:<c@d.example>").text == "FROM: <a@b.example> BODY=8BITMIME, to:<c@d.example>"
