import io
import re
import subprocess
import sys

import pytest

import qpsmtpd
from qpsmtpd.cli import main
from qpsmtpd.passwords import verify
from qpsmtpd.session.tls import ServerTls


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current directory of our own, without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QPSMTPD_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def run(place, capsys):
    def run(*arguments):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_python_dash_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "qpsmtpd", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"qpsmtpd {qpsmtpd.__version__}\n"


def test_the_written_configuration_passes_the_check(run, place):
    status, out, _ = run("init", "config")
    assert status == 0
    assert "Now put your domains into config/rcpthosts" in out
    status, out, err = run("check")
    assert (status, err) == (0, "")
    lines = (place / "config" / "plugins").read_text().splitlines()
    assert out == f"{sum(bool(line) and line[0] != '#' for line in lines)} plugins loaded from config; no fault found\n"
    assert not [line for line in lines if "Left out" in line]


def test_init_leaves_out_what_cannot_be_loaded_here_and_says_why(run, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    assert run("init", "config")[0] == 0
    text = (place / "config" / "plugins").read_text()
    assert (
        "# Left out, since dnsbl: look-ups in the DNS need dnspython and anyio; run `pip install 'qpsmtpd[dns]'`\n"
        "# dnsbl\n"
    ) in text
    assert "\nrcpt_ok\n" in text
    assert run("check")[0] == 0


@pytest.mark.parametrize("number", ["0", "-1", "two", "257", "1.5", ""])
def test_a_number_of_workers_that_cannot_be_is_told(run, number):
    status, _, err = run("run", f"--workers={number}")
    assert status == 2
    assert err.endswith(f"argument --workers: {number!r} is no number of processes from 1 to 256\n")


def test_init_writes_into_no_directory_that_has_something_in_it(run, place):
    (place / "config").mkdir()
    (place / "config" / "mine").write_text("x")
    assert run("init", "config") == (1, "", "qpsmtpd: config exists and is not empty; choose another directory\n")
    assert [path.name for path in (place / "config").iterdir()] == ["mine"]


def test_without_a_configuration_the_built_in_one_is_checked(run):
    status, out, _ = run("check")
    assert status == 0
    assert out == "3 plugins loaded from the built-in settings; no fault found\n"


def test_a_list_without_a_decision_is_warned_of(run, place):
    (place / "config").mkdir()
    (place / "config" / "plugins").write_text("relay\n")
    status, out, _ = run("check")
    assert status == 0
    assert "warning: no plugin serves the hook rcpt, so every recipient is refused for now\n" in out
    assert "warning: no plugin serves the hook queue, so no message is accepted\n" in out


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"plugins": "relay\nrcptok\n"},
            "config/plugins:2: rcptok: there is no plugin 'rcptok'; did you mean rcpt_ok?",
        ),
        ({"plugins": "count_unrecognized_commands x"}, "config/plugins:1: count_unrecognized_commands: "),
        ({"plugins": "rcpt_ok more"}, "config/plugins:1: rcpt_ok: "),
        ({"loglevel": "LOUD"}, "config/loglevel:1: 'LOUD' is no log level"),
        ({"timeout": "\nsoon"}, "config/timeout:2: 'soon' is no number of 0 or more"),
        ({"me": "$include me"}, "config/me:1: me includes itself; remove this $include"),
        ({"plugins": "mine", "../plugins/mine.py": "def hook_rctp(self, t): ..."}, "did you mean hook_rcpt?"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(run, place, files, message):
    (place / "config").mkdir()
    for name, text in files.items():
        path = place / "config" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    status, out, err = run("check")
    assert (status, out) == (1, "")
    assert err.startswith("qpsmtpd: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_config_directory_that_is_none_is_refused(run):
    expected = "qpsmtpd: nowhere: there is no such config directory; `qpsmtpd init nowhere` writes one\n"
    assert run("check", "--config", "nowhere") == (1, "", expected)


def test_the_environment_names_the_config_directory(run, place, monkeypatch):
    (place / "elsewhere").mkdir()
    monkeypatch.setenv("QPSMTPD_CONFIG", "elsewhere")
    assert "0 plugins loaded from elsewhere" in run("check")[1]


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("2525", "'2525' is not HOST:PORT or unix:PATH; an IPv6 address goes in brackets"),
        ("::1:25", "is not HOST:PORT"),
        ("Submission=127.0.0.1:0", "is not HOST:PORT"),
        ("mx,lmtp=127.0.0.1:0", "a listener has one role, and it stands first"),
        ("host:99999", "is not HOST:PORT"),
        (
            "lmpt=host:24",
            "there is no role 'lmpt'; did you mean lmtp?; known are mx, submission, submissions, lmtp, strict",
        ),
        ("submission,normalise=host:587", "there is no role 'normalise'; did you mean normalize?"),
    ],
)
def test_an_address_that_is_none_is_refused(run, listen, message):
    status, _, err = run("run", "--listen", listen)
    assert status == 2
    assert message in err


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("a..b:25", "cannot listen on a..b:25: this is no host name"),
        ("unix:config", "cannot listen on config: there is something else of this name"),
        ("unix:" + "x" * 200, "path too long"),
    ],
)
def test_a_place_that_cannot_be_listened_on_is_one_line(run, place, where, message):
    (place / "config").mkdir()
    status, _, err = run("run", "--listen", where)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text"), [("tls_before_auth", "no"), ("line_endings", "mend"), ("proxy_networks", "x")]
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_place(run, place, name, text):
    (place / "config").mkdir()
    (place / "config" / name).write_text(f"# a comment\n{text}\n")
    status, _, err = run("check")
    assert status == 1
    assert f"config/{name}:2: '{text}' " in err


@pytest.mark.parametrize("extension", ["AUTH", "STARTTLS"])
def test_a_role_needs_its_extensions(run, place, extension):
    run("certificate", ".", "mx")
    (place / "config").mkdir()
    (place / "config" / "plugins").write_text("auth/authdeny")
    (place / "config" / "extensions").write_text(f"-{extension}")
    status, _, err = run("run", "--listen", "submission=127.0.0.1:0", "--tls-cert", "mx.crt", "--tls-key", "mx.key")
    assert status == 1
    assert f"needs {extension}; take `-{extension}` out of config/extensions" in err


@pytest.mark.parametrize(
    ("role", "plugins", "message"),
    [
        ("submissions", "auth/authdeny", "needs a certificate: give --tls-cert and --tls-key, or load the plugin tls"),
        ("submission", "rcpt_ok", "needs a plugin that knows users, such as auth/auth_flat_file"),
        ("submission", "auth/authdeny", "passwords are not taken in clear; a line `0` in config/tls_before_auth"),
    ],
)
def test_a_role_that_cannot_do_its_work_is_refused_at_the_start(run, place, role, plugins, message):
    (place / "config").mkdir()
    (place / "config" / "plugins").write_text(plugins)
    status, _, err = run("run", "--listen", f"{role}=127.0.0.1:0")
    assert status == 1
    assert message in err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "mx.crt: No such file or directory"),
        ({"mx.crt": "nothing"}, "mx.crt: this is no certificate in PEM"),
        ({"mx.crt": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"}, "mx.key: No such file"),
    ],
)
def test_a_certificate_that_is_none_is_refused_at_the_start(run, place, files, message):
    for name, text in files.items():
        (place / name).write_text(text)
    status, _, err = run("run", "--tls-cert", "mx.crt", "--tls-key", "mx.key")
    assert status == 1
    assert message in err


def test_a_certificate_needs_its_key(run):
    status, _, err = run("run", "--tls-cert", "mx.crt")
    assert (status, err) == (1, "qpsmtpd: each --tls-cert needs a --tls-key, and each --tls-key a --tls-cert\n")


def test_a_certificate_for_trials_is_made_once(run, place):
    status, out, _ = run("certificate", ".", "mx.example")
    assert status == 0
    assert out.splitlines()[-1] == "Now run: qpsmtpd run --tls-cert mx.example.crt --tls-key mx.example.key"
    assert (place / "mx.example.key").stat().st_mode & 0o777 == 0o600
    ServerTls((place / "mx.example.crt", place / "mx.example.key"))
    status, _, err = run("certificate", ".", "mx.example")
    assert status == 1
    assert "mx.example.crt: this exists already" in err


def test_a_user_is_given_a_password(run, place, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("sesame\n"))
    assert run("passwd", "users", "a@b.example")[0] == 0
    (line,) = (place / "users").read_text().splitlines()
    user, _, stored = line.partition(":")
    assert user == "a@b.example"
    assert verify(stored, "sesame")
    assert not verify(stored, "Sesame")


def test_an_empty_password_is_refused(run, place, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    status, _, err = run("passwd", "users", "a@b.example")
    assert (status, err) == (1, "qpsmtpd: an empty password lets nobody in; nothing was written\n")
    assert not (place / "users").exists()


def test_a_backend_that_is_not_installed_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    status, _, err = run("check", "--backend", "uvloop")
    assert status == 1
    assert "the uvloop backend needs uvloop, which is not installed; run `pip install qpsmtpd[uvloop]`" in err


def test_async_hooks_under_the_blocking_backend_need_anyio(run, place, monkeypatch):
    (place / "config").mkdir()
    (place / "plugins").mkdir()
    (place / "config" / "plugins").write_text("mine")
    (place / "plugins" / "mine.py").write_text("async def hook_rcpt(self, t): ...")
    monkeypatch.setitem(sys.modules, "anyio", None)
    status, _, err = run("check", "--backend", "blocking")
    assert status == 1
    assert "run `pip install qpsmtpd[anyio]`" in err
    assert run("check")[0] == 0


def test_plugins_are_listed_with_those_in_use_marked(run):
    status, out, _ = run("plugins", "list")
    assert status == 0
    lines = {line[2:34].strip(): line for line in out.splitlines() if line}
    assert lines["rcpt_ok"].startswith("* rcpt_ok")
    assert lines["queue/discard"].startswith("  queue/discard")
    assert all(len(line) > 40 for name, line in lines.items() if name != "in use")


def test_the_order_of_each_hook_is_shown_with_files(run, place):
    (place / "config").mkdir()
    (place / "plugins").mkdir()
    (place / "plugins" / "mine.py").write_text(
        "def register(self, qp):\n    self.register_hook('rcpt', 'check', unshift=True)\n\n"
        "def check(self, transaction):\n    return None\n\ndef hook_pre_connection(self, transaction):\n    return None\n"
    )
    (place / "config" / "plugins").write_text("badrcptto\nbadrcptto:1 reject 0\nrcpt_ok\nmine\n")
    _, out, _ = run("plugins", "order")
    lines = [line.split() for line in out.splitlines()]
    assert [words[:-1] for words in lines] == [
        ["pre-connection", "1.", "mine"],
        ["rcpt", "1.", "mine"],
        ["2.", "badrcptto"],
        ["3.", "badrcptto:1"],
        ["4.", "rcpt_ok"],
    ]
    assert lines[1][-1] == f"{place}/plugins/mine.py:4"
    assert re.search(r"/plugins/badrcptto\.py:\d+$", lines[2][-1])


@pytest.mark.parametrize(
    ("line", "source", "complaint"),
    [
        ("p", "def hook_rcptt(self, transaction): ...", "{p}:1: there is no hook hook_rcptt; did you mean hook_rcpt?"),
        ("p", "\ndef hoook_rcpt(self, transaction): ...", "{p}:2: there is no hook hoook_rcpt; did you mean hook_rcpt?"),
        ("p", "\n\nasync def hook_data(self, transaction, more): ...", "{p}:3: Plugin.hook_data(transaction, more) asks for more than hook data gives: (transaction)"),
        ("p", "def register(self, qp):\n    self.register_hook('recpt', 'x')", "there is no hook 'recpt'; did you mean rcpt?"),
        ("p one", "def hook_data(self, transaction): ...", "this plugin takes no arguments, but it is given one"),
        ("p one", "def register(self, qp, one, two): ...", "missing a required argument: 'two'; its arguments are: ONE TWO"),
        ("p one two", "def init(self, qp, one=1): ...", "too many positional arguments; its arguments are: [one]"),
        ("badmailfrmo", "", "there is no plugin 'badmailfrmo'; did you mean badmailfrom?"),
        ("badmailfrom rejct 1", "", "unknown argument 'rejct'; did you mean reject?"),
        ("badmailfrom reject_type hrad", "", "reject_type 'hrad' is none of perm, hard, soft, temp, disconnect, temp_disconnect"),
    ],
)  # fmt: skip
def test_check_tells_what_is_wrong_with_a_plugin_and_where(run, place, line, source, complaint):
    (place / "config").mkdir()
    (place / "plugins").mkdir()
    path = place / "plugins" / "p.py"
    path.write_text(source)
    (place / "config" / "plugins").write_text(f"# the plugins\n\n{line}\n")
    status, _, err = run("check")
    assert status == 1
    complaint = complaint.replace("{p}", str(path)).replace("Plugin.", "")
    assert err == f"qpsmtpd: config/plugins:3: {line.split()[0]}: {complaint}\n"


def test_a_plugins_documentation_is_shown(run):
    status, out, _ = run("plugins", "help", "queue/maildir")
    assert status == 0
    assert out.startswith("queue/maildir\n\n")
    assert "PERMS" in out
    status, _, err = run("plugins", "help", "maildirr")
    assert status == 1
    assert "there is no plugin 'maildirr'" in err
