"""From names in `config/plugins` to plugin objects, and their hooks in order.

A name is looked for in the directories of `config/plugin_dirs`, in `plugins` beside or in
the config directory, among the bundled plugins, and among the `qpsmtpd.plugins` entry
points of installed packages; a dotted name is imported. `NAME:0`, `NAME:1` load one plugin
several times. Whatever is wrong is a `ConfigError` that names file, line and remedy.
"""

import ast
import difflib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from qpsmtpd.config import Config, ConfigError, Line, did_you_mean
from qpsmtpd.plugin import Plugin, check_signature, hook_method, where
from qpsmtpd.protocol import hooks
from qpsmtpd.site import Entry, Kind, Site

__all__ = [
    "ALIASES",
    "BUNDLED",
    "INSTEAD",
    "add",
    "add_line",
    "bundled_names",
    "documentation",
    "find_plugin",
    "load",
    "name_in",
    "plugin_lines",
]

BUNDLED = Path(__file__).parent / "plugins"
"""The plugins that come with this package."""

ALIASES: Mapping[str, str] = {
    "check_relay": "relay",
    "check_badmailfrom": "badmailfrom",
    "check_badmailfromto": "badmailfromto",
    "check_badrcptto": "badrcptto",
    "check_basicheaders": "headers",
    "check_bogus_bounce": "bogus_bounce",
    "check_earlytalker": "earlytalker",
    "check_loop": "loop",
    "check_qmail_deliverable": "qmail_deliverable",
    "check_spamhelo": "helo",
    "require_resolvable_fromhost": "resolvable_fromhost",
}
"""Old names, still good in `config/plugins`."""

INSTEAD: Mapping[str, str] = {
    "auth/auth_cvm_unix_local": "auth/auth_checkpassword",
    "auth/auth_vpopmail": "auth/auth_checkpassword with vchkpw, or auth/auth_imap",
    "auth/auth_vpopmail_sql": "auth/auth_checkpassword with vchkpw, or auth/auth_imap",
    "auth/auth_vpopmaild": "auth/auth_checkpassword with vchkpw, or auth/auth_imap",
    "domainkeys": "dkim",
    "dspam": "rspamd or spamassassin",
    "virus/aveclient": "virus/clamdscan",
    "virus/bitdefender": "virus/clamdscan",
    "virus/check_for_hi_virus": "virus/clamdscan",
    "virus/clamav": "virus/clamdscan",
    "virus/hbedv": "virus/clamdscan",
    "virus/kavscanner": "virus/clamdscan",
    "virus/sophie": "virus/clamdscan",
    "virus/uvscan": "virus/clamdscan",
}
"""The original's plugins that are not here, and what does for them."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_PLAIN_ONLY = frozenset({"config", "user_config", "logging", "post-fork"})  # asked in the middle of plain functions
_METHODS: Mapping[str, str] = {hook_method(name): name for name in hooks.HOOKS}


def load(site: Site, lines: Iterable[Line] | None = None) -> None:
    """Load the plugins of a site: first those of `config/logging`, then those of `config/plugins`, or of `lines`.

    Raises ConfigError.
    """
    site.current_settings()
    logging = plugin_lines(site.settings, "logging")
    for line in (*logging, *(plugin_lines(site.settings) if lines is None else lines)):
        add_line(site, line)


def plugin_lines(config: Config, setting: str = "plugins") -> tuple[Line, ...]:
    """The lines of a list of plugins."""
    place = config.directory / setting if config.directory else Path(f"(built-in {setting})")
    return config.lines(setting) or tuple(
        Line(text, place, number) for number, text in enumerate(config.values(setting), 1)
    )


def name_in(line: str) -> str:
    """The plugin that a line of a list of plugins names."""
    return line.split(maxsplit=1)[0].partition(":")[0]


def add_line(site: Site, line: Line) -> None:
    """Load the plugin that a line of `config/plugins` names, behind the others. Raises ConfigError."""
    name, *args = line.text.split()
    try:
        add(site, find_plugin(site.settings, name), *args, name=name)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{line.where}: {name}: {error}") from error
    except Exception as error:
        raise ConfigError(f"{line.where}: {name}: {type(error).__name__}: {error}{_place(error)}") from error


def add(site: Site, plugin_class: type[Plugin], *args: str, name: str = "") -> None:
    """Load a plugin by its class, behind the others; `name` is what a line would call it.

    Raises ConfigError and ValueError for what is wrong with it or its arguments, and what
    its `init` and `register` raise.
    """
    site.find_plugin = partial(find_plugin, site.settings)
    plugin = _checked(plugin_class)(site, (name or plugin_class.__name__).replace("/", "::"))
    args = plugin.take_shared_arguments(args)
    _set_up(plugin.init, site, args)
    if args and all(getattr(type(plugin), step) is getattr(Plugin, step) for step in ("init", "register")):
        raise ConfigError(f"this plugin takes no arguments, but it is given {' '.join(args)}")
    _set_up(plugin.register, site, args)
    site.chains = _chains([*site.plugins, plugin])
    site.plugins.append(plugin)


def _set_up(step: Callable[..., object], site: Site, args: tuple[str, ...]) -> None:
    """Call `init` or `register`. Raises ConfigError if it does not take that many words."""
    try:
        inspect.signature(step).bind(site, *args)
    except TypeError as error:
        words = " ".join(
            f"[{p.name}]" if p.default is not p.empty else p.name.upper()
            for p in list(inspect.signature(step).parameters.values())[1:]
        )
        raise ConfigError(f"{error}; its arguments are: {words or 'none'}") from None
    step(site, *args)


def bundled_names() -> list[str]:
    """The names of the bundled plugins, as `config/plugins` would have them."""
    return sorted(
        str(path.relative_to(BUNDLED).with_suffix(""))
        for path in BUNDLED.rglob("*.py")
        if not path.name.startswith("_")
    )


def find_plugin(config: Config, name: str) -> type[Plugin]:
    """The class of a plugin by its name. Raises ConfigError if there is none, or a broken one."""
    base = name.partition(":")[0]
    if "/" not in base and "." in base:
        return _plugin_class(_import(base), base)
    if "::" in name:
        raise ConfigError(
            "Perl modules cannot be loaded; a Python module is named with dots, as in my_package.my_plugin"
        )
    if not _NAME.fullmatch(base):
        raise ConfigError(f"{name!r} is no plugin name")
    for real in dict.fromkeys((base, ALIASES.get(base, base))):
        path = _path_of(config, real)
        if path is not None and path.is_relative_to(BUNDLED):
            return _plugin_class(_import(f"{__package__}.plugins.{real.replace('/', '.')}"), real)
        if path is not None:
            return _plugin_class(_import_file(path), real)
        for point in importlib.metadata.entry_points(group="qpsmtpd.plugins", name=real):
            return _plugin_class(point.load(), real)
    raise ConfigError(_nowhere(config, base))


def _nowhere(config: Config, name: str) -> str:
    """What to say of a plugin that is not found."""
    if name in INSTEAD:
        return f"this plugin of the original is not here; use {INSTEAD[name]}"
    for directory in _directories(config):
        if (directory / name).is_file():
            path = directory / name
            return f"{path} is no Python file; docs/from-perl-qpsmtpd.md shows how a Perl plugin becomes {path.name}.py"
    return f"there is no plugin {name!r}{did_you_mean(name, [*bundled_names(), *ALIASES])}"


def _path_of(config: Config, name: str) -> Path | None:
    paths = (directory / f"{name}.py" for directory in (*_directories(config), BUNDLED))
    return next(filter(Path.is_file, paths), None)


def documentation(config: Config, name: str) -> str:
    """What a plugin says of itself: the docstring of its file, else that of its class.

    What a bundled one imports need not be installed. Raises ConfigError if there is no such plugin.
    """
    base = name.partition(":")[0]
    bundled = BUNDLED / f"{ALIASES.get(base, base)}.py"
    if _NAME.fullmatch(base) and bundled == _path_of(config, ALIASES.get(base, base)):
        return _docstring(bundled)
    plugin = find_plugin(config, name)
    return inspect.getdoc(sys.modules[plugin.__module__]) or inspect.getdoc(plugin) or ""


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_bytes())) or ""


def _place(error: BaseException) -> str:
    """Where in a plugin's file an exception comes from."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    frames = list(inspect.getinnerframes(error.__traceback__)) if error.__traceback__ else []
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _directories(config: Config) -> Iterator[Path]:
    for line in config.lines("plugin_dirs"):
        directory = Path(line.text).expanduser()
        if config.directory is not None and not directory.is_absolute():
            directory = config.directory / directory
        if not directory.is_dir():
            raise ConfigError(f"{line.where}: there is no directory {line.text}; make it or remove this line")
        yield directory
    if config.directory is not None:
        yield config.directory / "plugins"
        yield config.directory.parent / "plugins"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"there is no module {error.name!r} to import") from error
        raise ConfigError(f"{name} needs the module {error.name!r}, which is not installed{_remedy(name)}") from error


def _remedy(name: str) -> str:
    """What to do for a module that wants another: its documentation says it, as in «`pip install 'qpsmtpd[dns]'`»."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.origin:
        return ""
    command = re.search(r"`(pip install [^`]+)`", _docstring(Path(spec.origin)))
    return f"; run `{command[1]}`" if command else ""


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles a file each time: cached code passes for new if size and second of the file are the same."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import_file(path: Path) -> ModuleType:
    name = "qpsmtpd_site_" + re.sub(r"\W", "_", str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path, loader=_Uncached(name, str(path.absolute())))
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _plugin_class(module: object, name: str) -> type[Plugin]:
    """The plugin in a module: its one `Plugin` class, or its functions made into one."""
    if isinstance(module, type) and issubclass(module, Plugin):
        return _checked(module)
    if not isinstance(module, ModuleType):
        raise ConfigError(f"{name} names no module and no plugin class")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == module.__name__
    ]
    if len(found) > 1:
        raise ConfigError(f"{module.__file__} defines {len(found)} plugins; put each into a file of its own")
    if found:
        return _checked(found[0])
    functions: dict[str, object] = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__
    }
    return _checked(type(name, (Plugin,), {**functions, "__doc__": module.__doc__, "__module__": module.__name__}))


def _checked(plugin: type[Plugin]) -> type[Plugin]:
    """Refuse hooks that do not exist. Raises ConfigError with file, line and the nearest name."""
    for base in plugin.__mro__[: plugin.__mro__.index(Plugin)]:
        for attribute, value in vars(base).items():
            if attribute in _METHODS or attribute.startswith("__"):
                continue
            # `hoook_rcpt` would be silent too.
            nearly = callable(value) and difflib.get_close_matches(attribute, _METHODS, n=1, cutoff=0.9)
            if nearly or attribute.startswith("hook_"):
                place = where(value) if callable(value) else base.__module__
                raise ConfigError(f"{place}: there is no hook {attribute}{did_you_mean(attribute, _METHODS)}")
    return plugin


def _chains(plugins: list[Plugin]) -> Mapping[str, list[Entry]]:
    chains: dict[str, list[Entry]] = {}
    for plugin in plugins:
        for hook, method, unshift in plugin.registrations():
            entry = _entry(plugin, hook, method)
            chain = chains.setdefault(hook, [])
            chain.insert(0 if unshift else len(chain), entry)
    return chains


def _entry(plugin: Plugin, hook: str, method: Callable[..., object]) -> Entry:
    arguments = check_signature(hook, method)
    kind = Kind.PLAIN
    if inspect.iscoroutinefunction(method):
        kind = Kind.ASYNC
    elif inspect.isgeneratorfunction(method):
        kind = Kind.EFFECTS
    elif getattr(method, "qpsmtpd_blocking", False):
        kind = Kind.BLOCKING
    if hook in _PLAIN_ONLY and kind is not Kind.PLAIN:
        raise ConfigError(
            f"{where(method)}: {method.__qualname__}: hook {hook} must be a plain def, it is {kind.value}"
        )
    return Entry(plugin, plugin.plugin_name, method, kind, arguments, hook_method(hook))
