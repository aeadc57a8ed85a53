import ast
import importlib
import importlib.util
import re
import sys

import pytest

from qpsmtpd import DECLINED, OK
from qpsmtpd.config import Config, ConfigError
from qpsmtpd.loader import BUNDLED, INSTEAD, bundled_names, documentation, find_plugin, load
from qpsmtpd.site import Kind, Site
from qpsmtpd.testing import Client


@pytest.fixture
def place(tmp_path):
    """A config directory with a plugins directory beside it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "plugins").mkdir()
    (tmp_path / "config" / "me").write_text("mx.example.test\n")
    return tmp_path


@pytest.fixture
def write(place):
    def write(name, text):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def site(place):
    def site(*lines):
        (place / "config" / "plugins").write_text("# the plugins\n" + "".join(f"{line}\n" for line in lines))
        loaded = Site(Config(place / "config"), write=lambda line: None)
        load(loaded)
        return loaded

    return site


def refusal(site, *lines):
    with pytest.raises(ConfigError) as caught:
        site(*lines)
    return str(caught.value)


def order(site, hook):
    return [entry.name for entry in site.chains[hook]]


def test_a_function_in_a_file_is_a_plugin(site, write):
    write("plugins/tiny.py", "from qpsmtpd import OK\n\ndef hook_rcpt(self, transaction):\n    return OK\n")
    loaded = site("tiny")
    assert order(loaded, "rcpt") == ["tiny"]
    assert list(loaded.chains) == ["rcpt"]


def test_a_class_in_a_file_is_a_plugin_and_its_arguments_reach_init_and_register(site, write):
    write(
        "plugins/sub/classy.py",
        """
from qpsmtpd import DECLINED, Plugin

class Classy(Plugin):
    def init(self, qp, *args):
        self.seen = ["init", *args]
    def register(self, qp, first, second="2"):
        self.seen += ["register", first, second]
        self.register_hook("noop", "later")
        self.register_hook("rcpt", self.early, unshift=True)
    def hook_rcpt(self, transaction, recipient, parameters):
        return DECLINED
    def later(self, transaction):
        return DECLINED
    def early(self, transaction, recipient):
        return DECLINED
""",
    )
    loaded = site("sub/classy one")
    (plugin,) = loaded.plugins
    assert plugin.seen == ["init", "one", "register", "one", "2"]
    assert plugin.plugin_name == "sub::classy"
    assert [entry.method.__name__ for entry in loaded.chains["rcpt"]] == ["early", "hook_rcpt"]
    assert order(loaded, "noop") == ["sub::classy"]


def test_hooks_run_in_the_order_of_the_lines_and_instances_are_plugins_of_their_own(site, write):
    write(
        "plugins/p.py",
        "from qpsmtpd import OK\ndef register(self, qp, *args):\n    self.args = args\ndef hook_rcpt(self, t):\n    return OK\n",
    )
    loaded = site("p:1 a", "p b", "p:0 c")
    assert order(loaded, "rcpt") == ["p:1", "p", "p:0"]
    assert [plugin.args for plugin in loaded.plugins] == [("a",), ("b",), ("c",)]


def test_plugin_dirs_come_before_plugins_which_come_before_the_bundled_ones(site, write, place):
    source = "from qpsmtpd import OK\nWHERE = {!r}\ndef hook_rcpt(self, t):\n    return OK\n"
    write("plugins/queue/discard.py", source.format("beside"))
    loaded = site("queue/discard")
    assert loaded.plugins[0].__module__.endswith("_plugins_queue_discard_py")
    write("config/plugin_dirs", f"{place}/first\n../second\n")
    write("second/queue/discard.py", source.format("second"))
    (place / "first").mkdir()
    assert "second" in site("queue/discard").plugins[0].__module__


def test_a_dotted_name_is_imported(place, monkeypatch, site, write):
    write(
        "elsewhere/pkg_for_test/mine.py",
        "from qpsmtpd import Plugin, OK\nclass Mine(Plugin):\n    def hook_noop(self, t):\n        return OK\n",
    )
    monkeypatch.syspath_prepend(str(place / "elsewhere"))
    assert order(site("pkg_for_test.mine"), "noop") == ["pkg_for_test.mine"]


def test_an_old_name_is_an_alias(place):
    assert find_plugin(Config(place / "config"), "check_relay") is find_plugin(Config(place / "config"), "relay")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def hook_noop(self, t): ...", Kind.PLAIN),
        ("async def hook_noop(self, t): ...", Kind.ASYNC),
        ("import qpsmtpd\n@qpsmtpd.blocking\ndef hook_noop(self, t): ...", Kind.BLOCKING),
        ("def hook_noop(self, t):\n    yield", Kind.EFFECTS),
    ],
)
def test_the_kind_of_a_hook_is_seen(site, write, source, kind):
    write("plugins/p.py", source)
    assert site("p").chains["noop"][0].kind is kind


def test_a_hook_may_take_fewer_arguments_than_it_is_given(site, write):
    write(
        "plugins/p.py",
        "from qpsmtpd import OK\ndef hook_quit(self):\n    return OK, 'bye bye'\ndef hook_ehlo(self, t, host):\n    self.host = host\n",
    )
    loaded = site("p")
    client = Client(loaded)
    client.send(b"EHLO a.example more words\r\n")
    assert loaded.plugins[0].host == "a.example"
    assert client.send(b"QUIT\r\n") == b"221 2.0.0 bye bye\r\n"


def test_a_plugin_may_subclass_a_bundled_one(site, write):
    write(
        "plugins/mine.py",
        "from qpsmtpd.plugins.rcpt_ok import RcptOk\nclass Mine(RcptOk):\n    def hook_noop(self, t):\n        return None\n",
    )
    assert order(site("mine"), "rcpt") == ["mine"]


def test_logging_plugins_are_loaded_first(site, write):
    write(
        "plugins/l.py", "def hook_logging(self, t, level, hook, plugin, message):\n    self.qp.seen.append(message)\n"
    )
    write("plugins/p.py", "def register(self, qp):\n    qp.seen = []\n    self.log(1, 'registered')\n")
    write("config/logging", "l\n")
    assert site("p").seen == ["registered"]


# What an administrator is told: file, line, and what to change


@pytest.mark.parametrize(
    ("line", "source", "expected"),
    [
        ("rcpt_okk", None, "there is no plugin 'rcpt_okk'; did you mean rcpt_ok?"),
        ("no_such_thing_at_all", None, "there is no plugin 'no_such_thing_at_all'"),
        ("../p", None, "'../p' is no plugin name"),
        ("/etc/passwd", None, "'/etc/passwd' is no plugin name"),
        ("no.such.module", None, "there is no module 'no' to import"),
        ("p", "import no_such_module", "p: ModuleNotFoundError: No module named 'no_such_module' ("),
        ("p", "def hook_rcptt(self, t): ...", "p.py:1: there is no hook hook_rcptt; did you mean hook_rcpt?"),
        ("p", "def hook_rcpt(self, t, a, b, c): ...", "asks for more than hook rcpt gives"),
        ("p", "def hook_rcpt(self, t, *, key): ...", "asks for more than hook rcpt gives"),
        ("p", "async def hook_logging(self, t): ...", "hook logging must be a plain def, it is awaited"),
        ("p one two", "def register(self, qp, one): ...", "too many positional arguments; its arguments are: ONE"),
        ("p", "def register(self, qp, one): ...", "missing a required argument: 'one'; its arguments are: ONE"),
        ("p x", "def register(self, qp, x):\n    raise ValueError('x is wrong')", "p: x is wrong"),
        ("p", "def register(self, qp):\n    1 / 0", "ZeroDivisionError: division by zero ("),
        ("p", "def register(self, qp):\n    self.register_hook('rcptt', 'x')", "there is no hook 'rcptt'"),
        ("p", "def register(self, qp):\n    self.register_hook('rcpt', 'x')", "hook rcpt: there is no method 'x'"),
        ("p", "def broken(:\n", "SyntaxError: invalid syntax"),
        ("p", "from qpsmtpd import Plugin\nclass A(Plugin): ...\nclass B(Plugin): ...", "defines 2 plugins"),
    ],
)  # fmt: skip
def test_a_mistake_is_shown_with_file_line_and_what_is_wrong(site, write, place, line, source, expected):
    if source is not None:
        write("plugins/p.py", source)
    text = refusal(site, "", line)
    assert text.startswith(f"{place}/config/plugins:3: {line.split()[0]}: ")
    assert expected in text


def test_the_place_of_an_exception_in_a_plugin_is_shown(site, write, place):
    write("plugins/p.py", "\n\ndef register(self, qp):\n    1 / 0\n")
    assert re.search(r"plugins/p\.py:4\)$", refusal(site, "p"))


def test_a_missing_plugin_directory_is_shown_with_its_line(site, write, place):
    write("config/plugin_dirs", "\nnowhere\n")
    assert f"{place}/config/plugin_dirs:2: there is no directory nowhere" in refusal(site, "rcpt_ok")


def test_a_bad_setting_is_shown_before_the_server_starts(site, write, place):
    write("config/databytes", "lots\n")
    assert refusal(site, "rcpt_ok") == f"{place}/config/databytes:1: 'lots' is no number of 0 or more"


def test_an_entry_point_of_an_installed_package_is_a_plugin(site, monkeypatch):
    from importlib import metadata

    from qpsmtpd import Plugin

    class Packaged(Plugin):
        def hook_noop(self, transaction):
            return OK if transaction else DECLINED

    class Point:
        def load(self):
            return Packaged

    monkeypatch.setattr(metadata, "entry_points", lambda group, name: [Point()] if name == "packaged" else [])
    assert order(site("packaged"), "noop") == ["packaged"]


def test_a_bundled_plugin_whose_library_is_missing_says_what_to_install_and_still_has_documentation(
    monkeypatch, tmp_path
):
    monkeypatch.setattr("qpsmtpd.loader.BUNDLED", tmp_path)
    path = tmp_path / "wanting.py"
    path.write_text('"""Wants something.\n\nNeeds it: `pip install \'qpsmtpd[it]\'`.\n"""\n\nimport not_there.at_all\n')
    spec = importlib.util.spec_from_file_location("wanting", path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    def import_module(name):
        assert name == "qpsmtpd.plugins.wanting"
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(ConfigError, match=r"needs the module 'not_there', .*; run `pip install 'qpsmtpd\[it\]'`"):
        find_plugin(Config(None), "wanting")
    assert documentation(Config(None), "wanting").startswith("Wants something.")


def test_a_plugin_of_the_original_that_is_not_here_is_told_what_does_for_it(write, place):
    for name, instead in INSTEAD.items():
        write("config/plugins", f"{name}\n")
        with pytest.raises(ConfigError, match=f"plugins:1: {name}: .* is not here; use {instead}"):
            load(Site(Config(place / "config")))


def test_perl_is_recognised(write, place):
    write("plugins/my_check", "sub hook_rcpt { return DECLINED }\n")
    write("config/plugins", "my_check 5\n")
    with pytest.raises(ConfigError, match=r"plugins/my_check is no Python file; .* becomes my_check\.py"):
        load(Site(Config(place / "config")))
    write("config/plugins", "My::Check\n")
    with pytest.raises(ConfigError, match="plugins:1: My::Check: Perl modules cannot be loaded"):
        load(Site(Config(place / "config")))


@pytest.mark.parametrize("name", bundled_names())
def test_a_bundled_plugin_that_imports_a_library_says_what_to_install(name):
    tree = ast.parse((BUNDLED / f"{name}.py").read_text())
    modules = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    libraries = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"qpsmtpd"}
    assert not libraries or re.search(r"`pip install 'qpsmtpd\[\w+\]'`", ast.get_docstring(tree))
