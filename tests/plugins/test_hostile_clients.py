"""No bundled plugin is at a loss, whatever a client says and whatever the DNS answers.

Each is loaded alone, as far as it needs no daemon, and hears dialogues made up at random.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpsmtpd import OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.loader import bundled_names
from qpsmtpd.protocol import parse_reply
from qpsmtpd.testing import Kit, Names
from qpsmtpd.testing.dialogue import split_replies

ARGUMENTS = {
    "ident/p0f": "/nowhere/at/all",
    "rate_limit": "mails 1000/1h recipients 1000/1h sender_mails 1000/1h",
    "badmailfrom": "reject naughty",
    "bogus_bounce": "deny",
    "headers": "require From,Date past 5 future 5",
    "loop": "2",
    "queue/maildir": "{directory}/mail",
    "rcpt_map": "domain x.example file map",
    "user_config": "users/%h/%u",
}
"""What some plugins need, or do more with."""

FILES = {
    "badmailfrom": "@x.example\n^.*@y\n",
    "badmailfromto": "@x.example @x.example\n",
    "badrcptto": "^.*%.*@\n",
    "map": "u@x.example OK\n",
    "rcpt_regexp": "/%.*@/ DENY\n",
    "rcpthosts": "x.example\n",
}

ELSEWHERE = ("auth/", "logging/", "virus/", "queue/", "spamassassin", "dspam", "rspamd", "milter")
"""Daemons, users and logs are the matter of tests of their own."""

NAMES = [name for name in bundled_names() if name in ARGUMENTS or not name.startswith(ELSEWHERE)]


class Accepts(Plugin):
    """Accepts what is left, and looks at what would be queued."""

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        header = bytes(transaction.header).replace(b"\r\n", b"")
        assert b"\r" not in header
        assert b"\n" not in header
        return OK, "taken"


class Talkative(Names):
    """Has an answer to every question, and it is `text`."""

    text = ""

    def look_up_blocking(self, name, kind):
        if kind in ("A", "AAAA"):
            return ("192.0.2.10",) if kind == "A" else ()
        return (self.text,) if self.text else ()


def one_line(octets):
    """Octets without line ends."""
    return octets.replace(b"\r", b"").replace(b"\n", b"")


def quoted(line):
    """A local part in quotes."""
    return b'"%s"' % line.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


TEXTS = st.text(max_size=30).map(lambda text: one_line(text.encode("utf-8", "surrogatepass")))
LINES = st.binary(max_size=60).map(one_line) | TEXTS
PLAIN = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=20).map(str.encode)
HELLOS = st.builds(bytes.__add__, st.sampled_from([b"EHLO ", b"HELO "]), PLAIN | LINES)
PATHS = st.builds(
    lambda local, domain: b"<%s@%s>" % (local, domain), TEXTS.map(quoted) | LINES, st.just(b"x.example") | LINES
)
SENDERS = st.sampled_from([b"<>", b"<u@x.example> SMTPUTF8"]) | PATHS | PATHS.map(b"%s SMTPUTF8".__mod__) | LINES
RECIPIENTS = st.lists(st.just(b"<u@x.example>") | PATHS | LINES, min_size=1, max_size=3)
FIELDS = st.lists(
    st.builds(
        lambda name, body: name + b":" + body,
        st.sampled_from([b"From", b"Date", b"Received", b"Return-Path", b"Subject", b"DKIM-Signature", b"X-Spam-Flag"]) | LINES,
        LINES,
    ),
    max_size=6,
)  # fmt: skip


def talk(stage, host, hello, sender, recipients, fields, rest):
    """Say all this; where the server does not like it, what it likes better."""
    client = stage.connect("192.0.2.10", host, user=host)
    turns = [(hello, b"EHLO c.example"), (b"MAIL FROM:" + sender, b"MAIL FROM:<u@x.example>")]
    turns += [(b"RCPT TO:" + each, b"RCPT TO:<u@x.example>") for each in recipients]
    reply = b""
    for command, better in [*turns, (rest, b"NOOP"), (b"DATA", b"NOOP")]:
        for line in (command, better):
            if client.closed:
                return client
            reply = client.send(line + b"\r\n")
            if reply[:1] in (b"2", b"3"):
                break
    if reply.startswith(b"354"):
        content = b"\r\n".join([*fields, b"", rest, b""]).replace(b"\r\n.", b"\r\n..")
        client.send((b"." if content.startswith(b".") else b"") + content + b".\r\n")
    if not client.closed:
        client.send(b"QUIT\r\n")
    return client


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_client_says_each_plugin_copes(name, tmp_path):
    for file, text in FILES.items():
        (tmp_path / file).write_text(text)
    names = Talkative()
    try:
        line = f"{name} {ARGUMENTS.get(name, '').format(directory=tmp_path)}"
        stage = Kit(line, Accepts, directory=tmp_path, names=names, config={"spool_dir": (str(tmp_path / "spool"),)})
    except ConfigError as error:
        pytest.skip(str(error))

    @settings(max_examples=40, deadline=None)
    @given(
        st.none() | st.text(max_size=30), HELLOS, SENDERS, RECIPIENTS, FIELDS, LINES,
        st.text(st.characters(max_codepoint=127, categories=["L", "N", "P"]), max_size=30),
    )  # fmt: skip
    def copes(host, hello, sender, recipients, fields, rest, found):
        stage.log.clear()
        names.text = found
        client = talk(stage, host, hello, sender, recipients, fields, rest)
        assert not stage.logged("Traceback")
        for reply in split_replies(client.replies):
            assert parse_reply(reply).code in range(200, 600)
        for line in stage.log:
            assert line.rstrip("\n").isprintable(), line

    copes()
