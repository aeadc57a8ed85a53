"""`qpsmtpd explain`, through the command line: clients that do not exist, recorded sessions, other plugins."""

import json
import re
import smtplib
import subprocess
import sys

import pytest

from qpsmtpd.cli import main

PLUGINS = """\
relay
badmailfrom
own
rcpt_ok
headers reject 1 require From
queue/maildir {mail}
"""

OWN = '''\
"""A plugin of this site."""
from qpsmtpd import DECLINED, DENY, LOGINFO


def init(self, qp, *words):
    self.words = words


def hook_rcpt(self, transaction, recipient, parameters):
    if recipient.user == "spamtrap":
        self.log(LOGINFO, f"fail, {recipient} \\x07 is a trap")
        return DENY, "no such user"
    if recipient.user == "broken":
        raise KeyError("broken")
    return DECLINED


def hook_data_post(self, transaction):
    if self.words and self.words[0].encode() in b"".join(transaction.chunks()):
        return DENY, f"it says {self.words[0]}"
    return DECLINED


def hook_deny(self, transaction, plugin, code, text):
    self.log(LOGINFO, "seen")
    return DECLINED
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    config = tmp_path / "config"
    (config / "plugins").parent.mkdir()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own.py").write_text(OWN)
    (config / "plugins").write_text(PLUGINS.format(mail=tmp_path / "mail"))
    (config / "rcpthosts").write_text("example.org\n")
    (config / "badmailfrom").write_text("ann@example.com\n")
    (config / "relayclients").write_text("127.0.0.1\n")
    (config / "me").write_text("mx.example.test\n")
    (config / "loglevel").write_text("LOGINFO\n")
    (config / "store").write_text("memory:\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def explain(site, capsys):
    def run(*words, status=0):
        capsys.readouterr()
        assert main(["explain", *map(str, words)]) == status
        shown = capsys.readouterr()
        return shown.err if status else shown.out

    return run


def row(text, plugin, hook):
    """The row of a plugin at a hook, with single blanks."""
    found = [line for line in text.splitlines() if re.match(rf"  {hook} +{plugin} ", line)]
    assert len(found) == 1, text
    return re.sub(r"\d+\.\d\d ms", "TIME", " ".join(found[0].split()))


BOB = ("--ip", "192.0.2.7", "--helo", "mx.example.net", "--from", "bob@example.net", "--to", "carol@example.org")


def test_a_client_that_does_not_exist_is_refused_and_the_table_says_by_whom(explain):
    text = explain("--ip", "192.0.2.7", "--from", "ann@example.com", "--to", "carol@example.org")
    assert row(text, "badmailfrom", "mail").startswith("mail badmailfrom DENY * TIME fail, ")
    assert "C: EHLO [192.0.2.7]" in text
    assert "C: RCPT" not in text  # refused, it says no more
    assert text.endswith(
        "as it is:\n  MAIL FROM:<ann@example.com>: refused at mail by badmailfrom: "
        "550 5.7.1 your sender address is not welcome here\n"
    )


def test_nothing_is_queued_and_who_was_not_asked_is_named(explain, site):
    (site / "mail.eml").write_bytes(b"From: bob@example.net\n\n.dot\nlast")
    text = explain(*BOB, "--message", "mail.eml")
    assert row(text, "rcpt_ok", "rcpt") == "rcpt rcpt_ok OK * TIME pass, example.org in rcpthosts"
    assert row(text, "queue::maildir", "queue") == "queue queue::maildir not asked: nothing is queued here"
    assert text.endswith("as it is:\n  would go to the plugins that queue: queue::maildir\n")
    assert not list((site / "mail").rglob("*.*"))


def test_the_content_is_what_plugins_see(explain, site):
    (site / "mail.eml").write_bytes(b"From: bob@example.net\n\n.dot\nlast")
    assert "refused" not in explain(*BOB, "--message", "mail.eml", "--with", "own ..dot")
    text = explain(*BOB, "--message", "mail.eml", "--with", "own .dot")
    assert text.endswith("with own .dot:\n  refused at data_post by own: 554 5.7.1 it says .dot\n")


def test_reasons_are_escaped_and_those_of_watchers_are_left_out(explain):
    text = explain("--ip", "192.0.2.7", "--from", "", "--to", "spamtrap@example.org", "--to", "carol@example.org")
    assert row(text.split("RCPT TO:<carol")[0], "own", "rcpt") == (
        r"rcpt own DENY * TIME fail, <spamtrap@example.org> \x07 is a trap"
    )
    assert "seen" not in text
    assert "RCPT TO:<spamtrap@example.org>: refused at rcpt by own: 550 5.7.1 no such user" in text
    assert "would go to" in text  # the other recipient was taken


def test_what_a_plugin_raises_is_the_reason_without_the_traceback(explain):
    text = explain("--ip", "192.0.2.7", "--from", "", "--to", "broken@example.org")
    assert row(text, "own", "rcpt") == "rcpt own FAILED * TIME error, the hook failed: KeyError: 'broken'"
    assert "refused at rcpt by own: 451 4.3.0" in text


def test_without_and_with_change_the_outcome_and_both_are_shown(explain):
    ann = ("--ip", "192.0.2.7", "--from", "ann@example.com", "--to", "carol@example.org")
    text = explain(
        *ann, "--without", "badmailfrom", "--with", "bogus_bounce", "--with", "headers reject 1 require From,Reply-To"
    )
    assert "badmailfrom " not in text.split("as it is:")[0].partition("\n")[2]
    first, second = text.split("as it is:\n")[1].split("without badmailfrom, with bogus_bounce, with headers")
    assert "refused at mail by badmailfrom" in first
    assert "refused at data_post by headers: 554" in second


def test_where_a_new_plugin_comes(explain):
    new = ("--with", "badrcptto", "--with", "own:1")
    text = explain(*BOB, *new)
    assert row(text, "badrcptto", "rcpt") == "rcpt badrcptto not asked, as rcpt_ok has decided"
    assert row(text, "own:1", "rcpt") == "rcpt own:1 not asked, as rcpt_ok has decided"
    text = explain(*BOB, *new, "--before", "rcpt_ok")
    assert row(text, "badrcptto", "rcpt").startswith("rcpt badrcptto DECLINED TIME")
    assert text.index(" badrcptto ") < text.index(" own:1 ") < text.index(" rcpt_ok ")


def test_who_has_authenticated(explain):
    far = ("--ip", "192.0.2.7", "--from", "bob@example.net", "--to", "dave@example.net")
    assert "refused at rcpt by rcpt_ok" in explain(*far)
    assert "refused at rcpt" not in explain(*far, "--user", "bob")


def test_a_wrong_command_is_refused_by_the_protocol(explain):
    text = explain("--ip", "2001:db8::7", "--from", "a b", "--to", "carol@example.org")
    assert "C: EHLO [IPv6:2001:db8::7]" in text
    assert "MAIL FROM:<a b>: refused by the protocol: 501 5.1.3" in text


def test_json(explain):
    document = json.loads(explain(*BOB, "--without", "badmailfrom", "--json"))
    assert document["ip"] == "192.0.2.7"
    assert [version["name"] for version in document["versions"]] == ["as it is", "without badmailfrom"]
    steps = document["versions"][1]["steps"]
    assert steps[2]["heard"] == r"MAIL FROM:<bob@example.net>\r\n"
    (decided,) = [row for step in steps for row in step["asked"] if row["decided"] and row["hook"] == "rcpt"]
    assert decided["plugin"] == "rcpt_ok"
    assert decided["result"] == "OK"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "name either files with recorded sessions, or a client"),
        (("--ip", "192.0.2.7", "some.jsonl"), "name either files"),
        (("some.jsonl", "--helo", "x"), "--helo is for a client that does not exist"),
        (("--ip", "192.0.2.7", "--to", "a@b"), "--to needs a --from"),
        ((*BOB, "--without", "badmailform"), "there is no plugin 'badmailform' in the list; did you mean badmailfrom"),
        ((*BOB, "--with", "badmailform"), "--with:1: badmailform: there is no plugin 'badmailform'"),
        ((*BOB, "--with", "naughty", "--before", "rcpt"), "there is no plugin 'rcpt' in the list"),
        ((*BOB, "--before", "rcpt_ok"), "--before says where plugins come that --with names"),
        ((*BOB, "--shadow"), "there is no plugins.shadow"),
        ((*BOB, "--message", "none.eml"), "none.eml"),
    ],
)
def test_what_cannot_be_is_said(explain, words, text):
    assert text in explain(*words, status=1)


@pytest.mark.parametrize("words", [("--ip", "localhost"), (*BOB, "--helo", "a\r\nRSET"), (*BOB, "--with", " ")])
def test_what_is_no_value_is_said(explain, words):
    with pytest.raises(SystemExit, match="2"):
        main(["explain", *words])


@pytest.fixture
def recorded(site):
    """A file with a session of a real client, which was refused."""
    with subprocess.Popen(
        [sys.executable, "-m", "qpsmtpd", "run", "--listen", "127.0.0.1:0", "--record", "sessions"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            port = int(re.search(r":(\d+) \(", server.stdout.readline())[1])
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client, pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("ann@example.com", "spamtrap@example.org", "Subject: x\r\n\r\nx")
        finally:
            server.terminate()
            server.wait(20)
    (path,) = (site / "sessions").iterdir()
    return path


def test_a_recorded_session_is_explained_as_it_was_and_as_it_would_be(explain, recorded, site):
    then = explain(recorded)
    assert then.startswith(f"session {recorded.stem.partition('-')[2]} from 127.0.0.1, as recorded\n")
    assert row(then, "badmailfrom", "mail") == "mail badmailfrom DECLINED TIME skip, relay client"
    assert row(then, "own", "rcpt").startswith(r"rcpt own DENY * TIME fail, <spamtrap@example.org> \x07 is a trap")
    assert then.endswith("refused at rcpt by own: 550 5.7.1 no such user\n")
    (site / "config" / "relayclients").write_text("")
    now = explain(recorded, "--today", "--without", "own")
    recorded_then, today, without = re.split(r"today:|without own:", now.split("as recorded:")[1])
    assert "refused at rcpt by own" in recorded_then
    assert "refused at mail by badmailfrom" in today
    assert "refused at mail by badmailfrom" in without
    assert not (site / "mail").exists() or not list((site / "mail").rglob("*.*"))
