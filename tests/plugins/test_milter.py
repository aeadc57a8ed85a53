"""What `milter` tells a filter, and what it does with the answers."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanning import Daemon, Keep, queued, receive_exactly

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins import _milter
from qpsmtpd.plugins._milter import Step
from qpsmtpd.plugins.milter import parse_place
from qpsmtpd.session.message import Header

CONTENT = b"From: a@client.example\r\nSubject: a\r\n\tb\r\n\r\nbody\r\n"
OWN = 2  # Authentication-Results and Received stand before what the client has sent


def receive(connection):
    size = struct.unpack("!I", receive_exactly(connection, 4))[0]
    data = receive_exactly(connection, size)
    return data[:1], data[1:]


class Filter:
    """Speaks as libmilter does: answers each step with what `answers` has for its letter, and keeps what it was told."""

    def __init__(self, protocol=0, version=6, **answers):
        self.protocol, self.version, self.answers = protocol, version, answers
        self.told = []

    def __call__(self, connection):
        letter, data = receive(connection)
        assert letter == b"O"
        self.offered = struct.unpack("!III", data)
        connection.sendall(_milter.packet(b"O", struct.pack("!III", self.version, 0xFF, self.protocol)))
        while True:
            letter, data = receive(connection)
            self.told.append((letter, data))
            step = next((step for step in Step if step.value[0] == letter), None)
            if step is None or self.protocol & step.value[2]:
                continue
            connection.sendall(self.answers.get(letter.decode(), _milter.packet(b"c")))

    @property
    def letters(self):
        return b"".join(letter for letter, _ in self.told if letter != b"D")

    def data(self, letter):
        return [data for each, data in self.told if each == letter]


class Look(Plugin):
    notes: object = None

    def hook_queue_pre(self, transaction):
        Look.notes = dict(transaction.notes)


@pytest.fixture
def ask(kit):
    """Deliver messages through the plugin: gives the last reply, the message kept, and the stage."""

    def ask(talk, args="", content=CONTENT, count=1, config=None):
        Look.notes = {}
        with Daemon(talk) as daemon:
            stage = kit(
                f"milter test {daemon.port} {args}", Look, Keep, config={"me": ["mx.example"], **(config or {})}
            )
            client = stage.connect()
            for _ in range(count):
                reply = client.deliver(content, sender="a@client.example", recipients=["b@example.org"])[-1]
            if not client.closed:
                client.say("QUIT")
        return reply, queued(), stage

    return ask


def test_the_filter_is_told_of_every_step_of_a_session(ask):
    talk = Filter()
    reply, _, _ = ask(talk)
    assert reply.code == 250
    assert talk.letters == b"CHMRTLLLLNBEQ"
    assert talk.offered == (6, 0xFF, 0x1FF7FF)
    assert talk.data(b"C")[0].startswith(b"client.example\x004")
    assert talk.data(b"C")[0].endswith(b"192.0.2.10\0")
    assert talk.data(b"M")[0].startswith(b"<a@client.example>\0")
    assert talk.data(b"R") == [b"<b@example.org>\0"]
    assert talk.data(b"L")[OWN:] == [b"From\0a@client.example\0", b"Subject\0a\n\tb\0"]
    assert talk.data(b"B") == [b"body\r\n"]
    macros = talk.data(b"D")
    assert macros[0].startswith(b"Cj\0mx.example\0{client_addr}\x00192.0.2.10\0")
    assert any(b"{rcpt_addr}\0b@example.org\0" in macro for macro in macros)


def test_a_filter_is_told_only_what_it_wants_and_waited_for_only_where_it_answers(ask):
    talk = Filter(0x1 | 0x2 | 0x20 | 0x200 | 0x4000 | 0x8000 | 0x80000 | 0x40000)
    assert ask(talk)[0].code == 250
    assert talk.letters == b"MRNBEQ"


@pytest.mark.parametrize(("version", "letters"), [(2, b"CHMRLLLLNBEQ"), (3, b"CHMRLLLLNBEQ"), (4, b"CHMRTLLLLNBEQ")])
def test_a_filter_from_before_version_4_is_not_told_of_data(ask, version, letters):
    talk = Filter(version=version)
    assert ask(talk, "default tempfail")[0].code == 250
    assert talk.letters == letters


@pytest.mark.parametrize("nobody", [b"<>\0", b"\0"])
def test_a_filter_cannot_add_nobody_as_a_recipient(ask, nobody):
    _, _, stage = ask(Filter(E=_milter.packet(b"+", nobody) + _milter.packet(b"c")))
    assert [str(mailbox) for mailbox in Keep.recipients] == ["<b@example.org>"]
    assert stage.logged("is no recipient")


def test_a_filter_that_asks_for_what_was_not_offered_is_of_no_use(kit):
    def talk(connection):
        receive(connection)
        connection.sendall(_milter.packet(b"O", struct.pack("!III", 6, 0x100, 0)))
        receive(connection)

    with Daemon(talk) as daemon:
        stage = kit(f"milter test 127.0.0.1:{daemon.port} default tempfail")
        assert stage.connect().closed
    assert stage.logged("it asks for what was not offered")


def test_a_plugin_that_ends_connect_does_not_make_the_filter_a_broken_one(kit):
    class Ends(Plugin):
        def hook_connect(self, transaction):
            return OK

    talk = Filter()
    with Daemon(talk) as daemon:
        client = kit(Ends, f"milter test 127.0.0.1:{daemon.port} default tempfail", Keep).connect()
        assert [reply.code for reply in client.deliver()] == [250, 250, 250, 354, 250]
        client.say("QUIT")
    assert talk.letters.startswith(b"CM")


def test_a_filter_may_see_the_blank_behind_the_colon(ask):
    talk = Filter(0x100000)
    ask(talk)
    assert talk.data(b"L")[OWN:] == [b"From\0 a@client.example\0", b"Subject\0 a\n\tb\0"]


def test_large_bodies_are_shown_in_pieces_until_the_filter_has_seen_enough(ask):
    large = CONTENT + (b"x" * 98 + b"\r\n") * 2000
    talk = Filter()
    ask(talk, content=large)
    assert b"".join(talk.data(b"B")) == large.partition(b"\r\n\r\n")[2]
    assert len(talk.data(b"B")) == 4
    talk = Filter(B=_milter.packet(b"s"))
    assert ask(talk, content=large)[0].code == 250
    assert talk.letters.endswith(b"NBEQ")


@pytest.mark.parametrize(
    ("letter", "answer", "code", "text"),
    [("M", b"r", 550, "refused by test"), ("M", b"t", 450, "refused by test for now"), ("R", b"y550 5.7.1 no %% spam\0", 550, "no % spam"),
     ("R", b"y451-4.7.1 one\r\n451 4.7.1 two\0", 450, "one 4.7.1 two"), ("E", b"r", 554, "refused by test"), ("E", b"t", 451, None),
     ("L", b"r", 554, None), ("N", b"y421 gone\0", 421, "gone"), ("B", b"4", 421, None)],
)  # fmt: skip
def test_a_filter_may_refuse_at_each_step(kit, letter, answer, code, text):
    with Daemon(Filter(**{letter: _milter.packet(answer[:1], answer[1:])})) as daemon:
        client = kit(f"milter test 127.0.0.1:{daemon.port}", Keep).connect()
        replies = [
            client.say(line) for line in ("EHLO c.example", "MAIL FROM:<a@c.example>", "RCPT TO:<b@example.org>")
        ]
        if letter in "MR":
            reply = replies["EMR".index(letter)]
        else:
            client.say("DATA")
            client.send(CONTENT)
            reply = client.say(".")
        client.say("QUIT") if not client.closed else None
    assert reply.code // 100 == code // 100
    if text is not None:
        assert text in reply.text


def test_after_accept_nothing_more_is_asked_of_this_message_and_the_next_one_is_told(ask):
    talk = Filter(M=_milter.packet(b"a"))
    ask(talk, count=2)
    assert talk.letters.count(b"M") == 2
    assert b"R" not in talk.letters
    assert b"A" in talk.letters
    talk = Filter(C=_milter.packet(b"a"))
    assert ask(talk)[0].code == 250
    assert talk.letters == b"CQ"


def test_a_client_may_be_refused_at_once_and_the_filter_is_told_of_the_end(kit):
    talk = Filter(C=_milter.packet(b"r"))
    with Daemon(talk) as daemon:
        client = kit(f"milter test {daemon.port}").connect()
        assert client.closed
    assert talk.letters == b"CQ"


def test_a_filter_that_was_not_told_of_the_client_is_told_before_mail(kit):
    class First(Plugin):
        def hook_connect(self, transaction):
            return OK

    talk = Filter()
    with Daemon(talk) as daemon:
        client = kit(First, f"milter test {daemon.port}", Keep).connect()
        assert client.deliver(CONTENT)[-1].code == 250
        client.say("QUIT")
    assert talk.letters.startswith(b"CMRT")


def test_a_discarded_message_is_marked(ask):
    assert ask(Filter(E=_milter.packet(b"d")))[0].code == 250
    assert Look.notes["discard_mail"] is True
    ask(Filter(R=_milter.packet(b"d")))
    assert Look.notes["discard_mail"] is True


def test_a_filter_changes_fields_body_sender_and_recipients(ask):
    changes = b"".join(
        [
            _milter.packet(b"p"),
            _milter.packet(b"h", b"X-End\0 1\n\t  2\0"),
            _milter.packet(b"i", struct.pack("!I", 0) + b"X-Top\0a\r\nEvil: 1\0"),
            _milter.packet(b"m", struct.pack("!I", 1) + b"subject\0new\0"),
            _milter.packet(b"m", struct.pack("!I", 1) + b"from\0\0"),
            _milter.packet(b"h", b"bad name\0x\0"),
            _milter.packet(b"b", b"other\n"),
            _milter.packet(b"b", b"body\r\n"),
            _milter.packet(b"e", b"<n@x.example>\0SIZE=1\0"),
            _milter.packet(b"+", b"c@x.example\0"),
            _milter.packet(b"2", b"<d@x.example>\0NOTIFY=NEVER\0"),
            _milter.packet(b"+", b"<<>\0"),
            _milter.packet(b"-", b"<b@example.org>\0"),
            _milter.packet(b"a"),
        ]
    )
    reply, message, stage = ask(Filter(E=changes))
    assert reply.code == 250
    assert message.startswith(b"X-Top: a\r\n\tEvil: 1\r\nAuthentication-Results: ")
    assert message.endswith(b"\r\nsubject: new\r\nX-End: 1\r\n\t  2\r\n\r\nother\r\nbody\r\n")
    assert str(Keep.sender) == "<n@x.example>"
    assert [str(mailbox) for mailbox in Keep.recipients] == ["<c@x.example>", "<d@x.example>"]
    assert stage.logged("milter: error, test: ")


def test_what_is_refused_or_for_quarantine_is_not_changed(ask):
    top = _milter.packet(b"i", struct.pack("!I", 0) + b"X-Top\0a\0")
    assert ask(Filter(E=top + _milter.packet(b"r")))[0].code == 554
    assert ask(Filter(E=_milter.packet(b"q", b"virus\0") + _milter.packet(b"a")))[0].code == 554


@pytest.mark.parametrize(("args", "code"), [("", 250), ("default accept", 250), ("default tempfail", 450)])
def test_a_filter_that_is_down_or_late_lets_mail_pass_or_defers_it(kit, tmp_path, args, code):
    stage = kit(f"milter test {tmp_path}/none {args}", Keep)
    client = stage.connect()
    if code == 250:
        assert client.deliver(CONTENT)[-1].code == 250
    assert stage.logged(f"milter: error, test at {tmp_path}/none: No such file or directory")
    assert client.closed is (code != 250)
    with Daemon(lambda connection: receive(connection) and receive(connection)) as daemon:
        stage = kit(f"milter test {daemon.port} timeout 0.05 {args}", Keep)
        stage.connect()
    assert stage.logged("milter: error, test at 127.0.0.1:")


@pytest.mark.parametrize(("args", "code"), [("default accept", 250), ("default tempfail", 451)])
@pytest.mark.parametrize(
    "answer",
    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1z", _milter.packet(b"y", b"200 ok\0"), _milter.packet(b"m", b"x")],
)
def test_an_answer_that_makes_no_sense_lets_the_message_pass_or_defers_it(ask, args, code, answer):
    reply, _, stage = ask(Filter(E=answer), args)
    assert reply.code == code
    assert stage.logged("milter: error, test at 127.0.0.1:")


def test_a_place_is_written_in_several_ways():
    assert str(parse_place("5513")) == "127.0.0.1:5513"
    assert str(parse_place("inet:5513@mx.example")) == "mx.example:5513"
    assert str(parse_place("unix:/run/x")) == str(parse_place("/run/x")) == "/run/x"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("x y:z", "neither HOST:PORT"),
        ("x 0", "neither"),
        ("x 1 default burn", "neither accept nor tempfail"),
        ("x 1 timeout 0", "timeout"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, args, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"milter {args}")
    assert message in str(caught.value)


@given(st.binary(max_size=20), st.binary(max_size=40))
def test_any_packet_is_read_or_refused(letter, data):
    for read in (_milter.parse_offer, _milter.parse_change):
        try:
            read(letter[:1], data)
        except ValueError:
            continue


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda text: b"550 " + text))
def test_a_reply_is_one_line(data):
    try:
        code, text = _milter.parse_reply(data)
    except ValueError:
        return
    assert 400 <= code < 600
    assert not {"\r", "\n"} & set(text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_texts_have_no_more_ends_than_words(one, two):
    assert _milter.texts(one, two).count(b"\0") == 2


@given(st.binary(max_size=20))
def test_a_field_ends_where_it_ends_whatever_is_in_it(body):
    data = _milter.field_packet("A", body, leading_blank=True)
    assert data[4:7] == b"LA\0"
    assert data.find(b"\0", 7) == len(data) - 1


PACKETS = st.lists(
    st.builds(_milter.packet, st.sampled_from([bytes([each]) for each in b"+2-ehimbqpcartdsyz"]),
              st.lists(st.sampled_from([b"\0\0\0\1", b"X-A", b"\0", b"\r\nEvil: 1", b"<a@b.example>", b"550 "]) | st.binary(max_size=4), max_size=6).map(b"".join))
    | st.binary(max_size=6), max_size=6,
).map(b"".join)  # fmt: skip


def test_whatever_the_filter_says_no_field_is_broken(kit):
    with Daemon(None) as daemon:
        stage = kit(f"milter test {daemon.port} timeout 2", Keep)

        @given(PACKETS)
        def check(answer):
            daemon.talk = Filter(E=answer + _milter.packet(b"c"))
            client = stage.connect()
            reply = client.deliver(CONTENT)[-1]
            if not client.closed:
                client.say("QUIT")
            assert reply.code in (250, 421, 451, 452, 552, 554)
            message = queued()
            if reply.code == 250 and message:
                head = message.partition(b"\r\n\r\n")[0] + b"\r\n"
                assert b"\nEvil:" not in head
                assert all(each.name for each in Header(head).fields)
                assert not {b"\r", b"\n"} & {bytes([each]) for each in head.replace(b"\r\n", b"")}

        check()
