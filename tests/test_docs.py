"""The pages that are made from the code are up to date, and say what they should."""

import base64
import importlib.util
import re
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from qpsmtpd import DENY, OK, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.loader import INSTEAD
from qpsmtpd.plugin import hook_method
from qpsmtpd.protocol import Mailbox, Message
from qpsmtpd.protocol.hooks import HOOKS
from qpsmtpd.protocol.sasl import CLIENT_MECHANISMS, Login, ScramVerifier
from qpsmtpd.session.role import ROLES
from qpsmtpd.session.tls import ServerTls
from qpsmtpd.testing import Kit, make_site

DOCS = Path(__file__).parents[1] / "docs"

_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


PAGES = generate.pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_is_made_from_the_code_is_up_to_date(name):
    assert (DOCS / name).read_text("utf-8") == PAGES[name](), "run: make docs"


def test_there_is_no_page_of_a_plugin_that_is_no_more():
    assert {f"plugins/{path.relative_to(DOCS / 'plugins')}" for path in (DOCS / "plugins").rglob("*.md")} <= set(PAGES)


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_a_section_with_its_method(name):
    page = (DOCS / "hooks.md").read_text("utf-8")
    assert f"\n## {name}\n\n`{hook_method(name)}(self" in page


def test_a_change_of_the_table_changes_the_page(monkeypatch):
    rows = generate.VERDICTS["rcpt"]
    changed = {**rows, DENY: replace(rows[DENY], close=True)}
    monkeypatch.setitem(generate.VERDICTS, "rcpt", changed)
    assert generate.hooks_page() != (DOCS / "hooks.md").read_text("utf-8")


def examples(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


PLUGINS = {
    match[1]: code
    for page in ("plugins.md", "encryption-and-identity.md", "from-perl-qpsmtpd.md", "write-your-own-plugin.md")
    for code in examples(page)
    if (match := re.match(r"# plugins/(\w+)\.py", code))
}


@pytest.mark.parametrize("code", examples("testing.md"))
def test_the_tests_shown_for_plugin_authors_pass(code):
    namespace = {}
    exec(code, namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


@pytest.fixture
def kit(tmp_path):
    (tmp_path / "plugins").mkdir()
    for name, code in PLUGINS.items():
        (tmp_path / "plugins" / f"{name}.py").write_text(code)
    return lambda *lines, **config: Kit(*lines, directory=tmp_path, config=config)


def test_the_plugins_shown_do_what_is_said(kit):
    assert kit("temp_disable_connection").connect().replies.startswith(b"421 Sorry")

    client = kit("no_noreply noreply no-reply", "rcpt_ok").connect()
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<No-Reply@x.example>").code == 550
    assert client.say("MAIL FROM:<someone@x.example>").code == 250

    assert kit("etrn").connect().say("ETRN example.org").text == "queuing started"

    client = kit("arrow", "rcpt_ok", rcpthosts=["x.example"]).connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<>")
    assert client.say("RCPT TO -> a@x.example").code == 250
    assert client.say("RCPT TO ->").text == "to whom?"

    client = kit("rcpt_ok_maxrelay 0").connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<>")
    assert client.say("RCPT TO:<a@y.example>").text == "Too many relaying attempts"
    assert client.closed


def test_a_plugin_sees_what_an_earlier_one_answered(kit):
    settings = {"rcpthosts": ["x.example"], "badrcptto": ["bad@x.example"]}
    client = kit("badrcptto", "rcpt_ok", "last_was_bad", **settings).connect()
    for recipients, code in ((("a@x.example", "bad@x.example"), 554), (("bad@x.example", "a@x.example"), 354)):
        client.say("EHLO c.example")
        client.say("MAIL FROM:<>")
        for recipient in recipients:
            client.say(f"RCPT TO:<{recipient}>")
        assert client.say("DATA").code == code


def test_every_plugin_shown_is_tried():
    assert PLUGINS.keys() == {
        "arrow", "discard_marked", "etrn", "has_home", "last_was_bad", "no_noreply", "rcpt_ok_maxrelay", "scram_users", "temp_disable_connection",
        "to_qmqp",
    }  # fmt: skip


def test_the_plugin_for_scram_knows_its_users(kit):
    stored = str(ScramVerifier.of_password("pass", b"salt"))
    client = kit("scram_users", scram_users=[f"user {stored}"]).connect()
    assert "AUTH SCRAM-SHA-256" in client.say("EHLO c.example").text
    for password, code in (("wrong", 535), ("pass", 235)):
        steps = CLIENT_MECHANISMS["SCRAM-SHA-256"](Login("user", password), "abcdefgh", {})
        reply = client.say("AUTH SCRAM-SHA-256 " + base64.b64encode(next(steps)).decode())
        while reply.code == 334:
            answer = steps.send(base64.b64decode(reply.text))
            reply = client.say(base64.b64encode(answer or b"").decode())
        assert reply.code == code


def test_an_embedder_gives_its_own_context():
    (code,) = [code for code in examples("encryption-and-identity.md") if "of_context" in code]
    namespace = {}
    exec(code, namespace)
    context, kit = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), Kit()
    namespace["with_tls"](kit.site, context)
    client = kit.connect()
    assert "STARTTLS" in client.say("EHLO c.example").text


def test_the_client_shown_submits_a_message(tmp_path, running):
    (code,) = [code for code in examples("encryption-and-identity.md") if "def submit" in code]
    namespace = {}
    exec(code, namespace)
    authority = trustme.CA()
    authority.issue_cert("mx.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "mx.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    site = make_site(
        "auth/auth_flat_file",
        "rcpt_ok",
        "queue/discard",
        config={"flat_auth_pw": ["user:pass"], "tls_before_auth": ["1"]},
    )
    site.tls = ServerTls((tmp_path / "mx.pem", tmp_path / "mx.pem"))
    message = Message(Mailbox("a", "b.example"), [Mailbox("c", "d.example")], b"Subject: x\r\n\r\nhello\r\n")
    for password, delivered in (("pass", True), ("wrong", False)):
        with (
            running("asyncio", site, role=ROLES["submission"]) as address,
            socket.create_connection(address, 20) as server,
        ):
            report = namespace["submit"](server, context, "mx.example", Login("user", password), message)
        assert [result.delivered for result in report.results] == [delivered]


def test_the_plugin_carried_over_from_perl_does_what_is_said(kit, tmp_path):
    (tmp_path / "homes" / "anna").mkdir(parents=True)
    stage = kit(f"has_home {tmp_path / 'homes'}")
    client = stage.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<>")
    assert client.say("RCPT TO:<Anna@example.org>").code == 450  # nobody accepts it, but has_home has passed it
    assert stage.logged("has_home: pass, anna")
    for nobody in ("otto", '".."', "x" * 300, '"a/b"'):
        assert client.say(f"RCPT TO:<{nobody}@example.org>").text == "no such user"


def test_the_guide_from_perl_names_every_plugin_that_is_not_here():
    page = (DOCS / "from-perl-qpsmtpd.md").read_text("utf-8").partition("## What is not here")[2].partition("##")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.MULTILINE))
    for name, instead in INSTEAD.items():
        (row,) = [there for names, there in rows.items() if f"`{name}`" in names]
        assert f"`{instead.partition(' ')[0]}`" in row


def test_the_plugin_of_the_walk_through_passes_the_test_of_the_walk_through(kit, tmp_path):
    kit()  # writes the plugins
    namespace = {}
    exec(examples("write-your-own-plugin.md")[2], namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(tmp_path)


@pytest.mark.parametrize(
    ("line", "error"),
    [("to_qmqp mail.example smtp", "to_qmqp: 'smtp' is no port"),
     ("to_qmqp", "to_qmqp: missing a required argument: 'host'; its arguments are: HOST [port]")],
)  # fmt: skip
def test_the_errors_of_the_walk_through_are_those_that_are_shown(kit, line, error):
    assert f"qpsmtpd: config/plugins:1: {error}\n" in (DOCS / "write-your-own-plugin.md").read_text("utf-8")
    with pytest.raises(ConfigError, match=re.escape(f"plugins:1: {error}")):
        kit(line)


def test_marked_mail_is_thrown_away(kit):
    class Mark(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            transaction.notes["discard_mail"] = 1
            return OK

    *_, reply = (
        kit(Mark, "discard_marked", "queue/maildir /nowhere/at/all").connect().deliver(b"Message-Id: <1@x>\r\n\r\n")
    )
    assert (reply.code, reply.text) == (250, "Queued! <1@x>")


def shown(page, mark):
    """The code behind a mark in a page, and the indented lines behind it: what it prints."""
    text = (DOCS / page).read_text("utf-8")
    code, rest = re.search(rf"<!-- {mark} -->\n```py\n(.*?)```\n(.*)", text, re.DOTALL).groups()
    return code, re.search(r"(?:^    .*\n)+", rest, re.MULTILINE)[0].replace("\n    ", "\n")[4:]


def run_pytest(path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    plugin = ["-p", "no:qpsmtpd", "-p", "qpsmtpd.testing.pytest_plugin"]
    return subprocess.run([*command, *plugin, path.name], cwd=path.parent, capture_output=True, text=True, check=False)


def test_the_fixtures_shown_work(tmp_path):
    code, output = shown("testing.md", "fixtures")
    (tmp_path / "test_mine.py").write_text(code)
    done = run_pytest(tmp_path / "test_mine.py")
    assert done.returncode == 0, done.stdout
    assert output.splitlines()[1] in done.stdout


def test_the_parser_shown_fails_as_is_shown(tmp_path):
    code, output = shown("testing.md", "wrong")
    (tmp_path / "test_wrong.py").write_text(code)
    said = re.sub(r"^E +", "", run_pytest(tmp_path / "test_wrong.py").stdout, flags=re.MULTILINE)
    error, failing, *value = output.splitlines()
    assert f"{error}\n{failing}\n" in said
    smallest = r"mailbox=Mailbox\(\s*'@',\s*'0'"  # hypothesis adds a comment or not
    assert re.search(smallest, "".join(value))
    assert re.search(smallest, said)


def test_the_smuggling_dialogue_shown_is_the_one_that_is_made():
    code, output = shown("testing.md", "smuggling")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == output


def test_the_notebook_says_what_is_shown():
    output = subprocess.run(
        [sys.executable, str(DOCS.parent / "examples" / "in_memory.py")], capture_output=True, text=True, check=True
    ).stdout
    assert "".join(f"    {line}\n" for line in output.splitlines()) in (DOCS / "embedding.md").read_text("utf-8")


def test_every_example_is_in_the_page_of_embedding():
    page = (DOCS / "embedding.md").read_text("utf-8")
    assert all(f"(../examples/{path.name})" in page for path in (DOCS.parent / "examples").glob("*.py"))


def test_every_strategy_is_in_the_page_of_testing():
    from qpsmtpd.testing import strategies

    page = (DOCS / "testing.md").read_text("utf-8")
    assert not [name for name in strategies.__all__ if f"`{name}" not in page and name not in page]
