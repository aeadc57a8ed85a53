"""The command line: `qpsmtpd run`, `inetd`, `check`, `init`, `certificate`, `passwd`, `plugins`, and what plugins bring."""

import argparse
import getpass
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

from qpsmtpd import __version__, daemon
from qpsmtpd.certificates import make_self_signed
from qpsmtpd.config import ConfigError, did_you_mean
from qpsmtpd.crew import Crew, Post
from qpsmtpd.loader import add_line, bundled_names, documentation, load, name_in, plugin_lines
from qpsmtpd.logs import LOGERROR
from qpsmtpd.options import config_of, configured
from qpsmtpd.passwords import SCHEMES, hash_password, write_entry
from qpsmtpd.plugin import Plugin, where
from qpsmtpd.protocol import Extension, LineEndings, hooks
from qpsmtpd.recording import in_directory
from qpsmtpd.recording.writer import DirectorySite
from qpsmtpd.sample import write_sample
from qpsmtpd.session.role import MX, ROLES, Role
from qpsmtpd.session.tls import ServerTls
from qpsmtpd.shadow import SHADOW, ShadowedSite
from qpsmtpd.site import Site
from qpsmtpd.supervisor import MOST_WORKERS, supervise
from qpsmtpd.transports.sockets import Address, Listener

__all__ = ["main"]

TOOLS: Mapping[str, tuple[str, str]] = {
    "compare": ("qpsmtpd.compare.command", "play the same dialogues to several servers, and show where they differ"),
    "explain": ("qpsmtpd.explain.command", "show why a session went as it did, or how one would go, plugin by plugin"),
    "fuzz": ("qpsmtpd.fuzz.command", "fuzz all that reads what a peer sends, in memory"),
    "replay": ("qpsmtpd.recording.command", "play recorded sessions again, and show what differs"),
}
"""Commands of the tools for research: a module that has `add_arguments(parser)`, and what the command does.

They are imported when they are called for, since some need a library.
"""

_LISTEN = re.compile(
    r"(?:(?P<words>[a-z]+(?:,[a-z]+)*)=)?"
    r"(?:unix:(?P<path>.+)|(?:\[(?P<six>[^\]]+)\]|(?P<host>[^:\[\]=]*)):(?P<port>\d{1,5}))"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Gives the exit status: 0, or 1 for what an administrator must change."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = _parser()
    if words and not words[0].startswith("-") and words[0] not in commands:
        return _status_of(partial(_run_plugin, words[0], words[1:], commands))
    if words and words[0] in TOOLS:
        return _status_of(partial(_run_tool, words[0], words[1:], commands))
    options = parser.parse_args(words)
    return _status_of(partial(options.command, options))


def _run_tool(name: str, words: list[str], commands: Mapping[str, argparse.ArgumentParser]) -> int:
    """Run the command of a tool, whose module says what arguments it takes."""
    import_module(TOOLS[name][0]).add_arguments(commands[name])
    options = commands[name].parse_args(words)
    return int(options.command(options))


def _status_of(command: Callable[[], int]) -> int:
    try:
        return command()
    except ConfigError as error:
        return _complain(str(error))
    except BrokenPipeError:  # `qpsmtpd plugins list | head`
        return 0
    except OSError as error:
        return _complain(_text_of(error))
    except KeyboardInterrupt:
        return 130


def _text_of(error: Exception) -> str:
    named = isinstance(error, OSError) and not error.filename and error.strerror
    return named or str(error)


def _complain(text: str) -> int:
    print(f"qpsmtpd: {text}", file=sys.stderr)
    return 1


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser, and the commands it knows."""
    parser = argparse.ArgumentParser(
        prog="qpsmtpd",
        description="The SMTP server whose every decision is a plugin's.",
        epilog="A plugin in config/plugins may bring a command of its own, by its name: `qpsmtpd NAME --help`. "
        "`qpsmtpd plugins help NAME` tells of it.",
    )
    parser.add_argument("--version", action="version", version=f"qpsmtpd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    with_config = configured()

    with_tls = argparse.ArgumentParser(add_help=False)
    with_tls.add_argument(
        "--tls-cert",
        metavar="FILE",
        type=Path,
        action="append",
        help="a certificate with its chain, in PEM; may be given several times, the first is the default one",
    )
    with_tls.add_argument(
        "--tls-key", metavar="FILE", type=Path, action="append", help="the key of the certificate, in PEM"
    )

    run = commands.add_parser("run", parents=[with_config, with_tls], help="serve until SIGTERM or Ctrl-C")
    run.add_argument(
        "--listen",
        metavar="[ROLE=]HOST:PORT",
        type=_listener,
        action="append",
        help="where to listen (default: 127.0.0.1:2525), or unix:PATH; may be given several times; port 0 is chosen by "
        f"the system; roles: {', '.join(ROLES)} (default: mx); `ROLE,normalize` mends bare line ends in messages",
    )
    run.add_argument(
        "--backend", choices=list(daemon.BACKENDS), default="asyncio", help="the driver (default: asyncio)"
    )
    run.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        help="serve with so many processes, usually one for each core; a further one restarts them when they die, and "
        "loads all anew at SIGHUP (default: this process alone)",
    )
    run.add_argument(
        "--record",
        metavar="DIR",
        type=Path,
        help="record every session into a file in this directory, for `qpsmtpd replay`; passwords are masked",
    )
    run.add_argument(
        "--mask-content", action="store_true", help="keep of recorded messages no more than line ends, dots and length"
    )
    run.set_defaults(command=_run)

    inetd = commands.add_parser(
        "inetd", parents=[with_config, with_tls], help="serve one session on standard input and output"
    )
    inetd.add_argument("--role", type=_role, default=MX, help="as with --listen (default: mx)", metavar="ROLE")
    inetd.set_defaults(command=_inetd)

    check = commands.add_parser("check", parents=[with_config], help="load everything, start nothing")
    check.add_argument("--backend", choices=list(daemon.BACKENDS), default="asyncio", help="the driver to check for")
    check.set_defaults(command=_check)

    init = commands.add_parser("init", help="write a commented config directory")
    init.add_argument("directory", metavar="DIR", type=Path)
    init.set_defaults(command=_init)

    certificate = commands.add_parser("certificate", help="make a self-signed certificate, for trials")
    certificate.add_argument("directory", metavar="DIR", type=Path, help="where to put NAME.crt and NAME.key")
    certificate.add_argument("name", metavar="NAME", help="the host name that clients connect to")
    certificate.add_argument("--days", type=int, default=30, help="how long it is good (default: 30)")
    certificate.set_defaults(command=_certificate)

    passwd = commands.add_parser(
        "passwd", help="set a user's password for auth/auth_flat_file; reads it from the terminal"
    )
    passwd.add_argument("file", metavar="FILE", type=Path, help="usually config/flat_auth_pw")
    passwd.add_argument("user", metavar="USER")
    passwd.add_argument(
        "--scheme", choices=list(SCHEMES), default="scrypt", help="what is stored of it (default: scrypt)"
    )
    passwd.set_defaults(command=_passwd)

    plugins = commands.add_parser("plugins", help="what plugins there are, and who runs when")
    actions = plugins.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", parents=[with_config], help="all plugins, a line each").set_defaults(command=_list)
    actions.add_parser("order", parents=[with_config], help="each hook's plugins in order").set_defaults(command=_order)
    help_ = actions.add_parser("help", parents=[with_config], help="a plugin's documentation")
    help_.add_argument("name", metavar="NAME")
    help_.set_defaults(command=_help)

    for name, (_, purpose) in TOOLS.items():
        commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    return parser, commands.choices


def _listener(text: str) -> Listener:
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"] or 0) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT or unix:PATH; an IPv6 address goes in brackets")
    place = Path(match["path"]) if match["path"] else (match["six"] or match["host"], int(match["port"]))
    return Listener(place, _role(match["words"] or "mx"))


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes from 1 to {MOST_WORKERS}")
    if not hasattr(os, "fork"):
        raise argparse.ArgumentTypeError("this system has no fork; leave it out")
    return int(text)


def _role(text: str) -> Role:
    role = MX
    endings = {each.name.lower(): each for each in LineEndings}
    for word in text.split(","):
        if word in ROLES:
            if role is not MX:
                raise argparse.ArgumentTypeError(f"{text!r}: a listener has one role, and it stands first")
            role = replace(ROLES[word], line_endings=role.line_endings)
        elif word in endings:
            role = replace(role, line_endings=endings[word])
        else:
            known = (*ROLES, *endings)
            raise argparse.ArgumentTypeError(
                f"there is no role {word!r}{did_you_mean(word, known)}; known are {', '.join(known)}"
            )
    return role


def _site(options: argparse.Namespace) -> Site:
    site = _empty_site(options)
    _load(site, options)
    return site


def _empty_site(options: argparse.Namespace) -> Site:
    """A site without plugins. Its sessions are recorded if the command line says so, or there is a shadow list."""
    settings = config_of(options)
    directory: Path | None = getattr(options, "record", None)
    masked = directory is not None and options.mask_content
    if settings.values(SHADOW):
        if masked:
            raise ConfigError(
                f"{settings.where(SHADOW)}: these plugins could not see the content of messages; "
                "leave out --mask-content, or empty this file"
            )
        return ShadowedSite(settings, None if directory is None else in_directory(directory))
    return Site(settings) if directory is None else DirectorySite(settings, directory, mask_content=masked)


def _load(site: Site, options: argparse.Namespace) -> None:
    site.tls = _tls(options, site)
    load(site)
    if isinstance(site, ShadowedSite):
        site.load_shadow()


def _tls(options: argparse.Namespace, site: Site) -> ServerTls | None:
    """The certificates that the command line names. Raises ConfigError."""
    certificates: list[Path] = getattr(options, "tls_cert", None) or []
    keys: list[Path] = getattr(options, "tls_key", None) or []
    if len(certificates) != len(keys):
        raise ConfigError("each --tls-cert needs a --tls-key, and each --tls-key a --tls-cert")
    if not certificates:
        return None
    return ServerTls(*zip(certificates, keys, strict=True), clock=site.clock, on_error=partial(site.log, LOGERROR))


def _run(options: argparse.Namespace) -> int:
    listeners: list[Listener] = options.listen or [Listener(("127.0.0.1", 2525))]
    if options.workers is not None:
        return supervise(
            listeners,
            options.workers,
            lambda post: _status_of(partial(_keep_crew, options, listeners, post)),
            partial(print, flush=True),
        )
    site = _site(options)
    _check_roles(site, listeners)
    daemon.run(
        site,
        options.backend,
        listeners,
        lambda addresses: print(_announcement(options, listeners, site, addresses), flush=True),
    )
    return 0


def _keep_crew(options: argparse.Namespace, listeners: Sequence[Listener], post: Post) -> int:
    """Load the configuration and keep workers at it. What is wrong with it goes to the log, if it replaces another."""
    site = _empty_site(options)
    try:
        _load(site, options)
        _check_roles(site, listeners)
        crew = Crew(site, post, options.backend, _announcement(options, listeners, site, post.slots.addresses))
    except (ConfigError, OSError) as error:
        if post.initial:
            raise
        site.log(LOGERROR, f"not loaded anew: {_text_of(error)}; what was loaded before stays in force")
        return 1
    crew.keep()
    return 0


def _announcement(
    options: argparse.Namespace, listeners: Sequence[Listener], site: Site, addresses: Sequence[Address]
) -> str:
    """Where the server listens, and how to try it."""
    where = ", ".join(map(_shown, addresses))
    if site.settings.directory is None:
        goes = f"mail from this machine, to anyone, goes to {Path('mail').absolute()}"
    else:
        queues = ", ".join(entry.name for entry in site.chains.get("queue", ())) or "no queue plugin: nowhere"
        goes = f"mail goes to {queues} ({site.settings.directory})"
    by = options.backend if options.workers is None else f"{options.backend}, --workers {options.workers}"
    text = f"qpsmtpd listens on {where} ({by}); {goes}"
    host, port = addresses[0]
    if listeners[0].role.name == MX.name and port:
        text += (
            f"""\nSend a first mail: python3 -c "import smtplib; smtplib.SMTP('{host}', {port})"""
            """.sendmail('me@example.org', ['you@example.org'], 'Subject: hello\\n\\nIt works.')\""""
        )
    return text


def _shown(address: Address) -> str:
    host, port = address
    if not port:
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_roles(site: Site, listeners: Sequence[Listener]) -> None:
    for listener in listeners:
        _check_role(site, listener.role)


def _check_role(site: Site, role: Role) -> None:
    """See that a listener can do what it is for. Raises ConfigError."""
    if role.implicit_tls and site.tls is None:
        raise ConfigError(
            f"the role {role.name} needs a certificate: give --tls-cert and --tls-key, or load the plugin tls"
        )
    if not role.auth_required:
        return
    settings = site.current_settings()
    if Extension.AUTH not in settings.extensions:
        raise ConfigError(f"the role {role.name} needs AUTH; take `-AUTH` out of config/extensions")
    if not any(hook.startswith("auth") and hook != "auth_parse" for hook in site.chains):
        raise ConfigError(f"the role {role.name} needs a plugin that knows users, such as auth/auth_flat_file")
    if role.implicit_tls or settings.auth_in_clear:
        return
    if Extension.STARTTLS not in settings.extensions:
        raise ConfigError(f"the role {role.name} needs STARTTLS; take `-STARTTLS` out of config/extensions")
    if site.tls is None:
        raise ConfigError(
            f"the role {role.name} needs a certificate (--tls-cert and --tls-key, or the plugin tls): passwords are "
            "not taken in clear; a line `0` in config/tls_before_auth allows it"
        )


def _inetd(options: argparse.Namespace) -> int:
    site = _site(options)
    _check_role(site, options.role)
    daemon.inetd(site, options.role)
    return 0


def _check(options: argparse.Namespace) -> int:
    site = _site(options)
    daemon.check_backend(site, options.backend)
    for hook, consequence in (("rcpt", "every recipient is refused for now"), ("queue", "no message is accepted")):
        if hook not in site.chains:
            print(f"warning: no plugin serves the hook {hook}, so {consequence}")
    print(
        f"{len(site.plugins)} plugins loaded from {site.settings.directory or 'the built-in settings'}; no fault found"
    )
    return 0


def _init(options: argparse.Namespace) -> int:
    for path in write_sample(options.directory):
        print(f"wrote {path}")
    print(
        f"Now put your domains into {options.directory / 'rcpthosts'} and run: qpsmtpd run --config {options.directory}"
    )
    return 0


def _certificate(options: argparse.Namespace) -> int:
    certificate, key = make_self_signed(options.directory, options.name, options.days)
    print(f"wrote {certificate}\nwrote {key}")
    print(f"Now run: qpsmtpd run --tls-cert {certificate} --tls-key {key}")
    return 0


def _passwd(options: argparse.Namespace) -> int:
    if sys.stdin.isatty():
        password = getpass.getpass(f"New password for {options.user}: ")
        if password != getpass.getpass("Again: "):
            raise ConfigError("these are two different passwords; nothing was written")
    else:
        password = sys.stdin.readline().removesuffix("\n")
    if not password:
        raise ConfigError("an empty password lets nobody in; nothing was written")
    try:
        write_entry(options.file, options.user, hash_password(password, options.scheme))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(f"wrote {options.file}")
    return 0


def _run_plugin(name: str, words: list[str], commands: Iterable[str]) -> int:
    """Run the command line of a plugin. Raises ConfigError if there is none."""
    options, words = configured().parse_known_args(words)
    site = Site(config_of(options))
    line = next((line for line in plugin_lines(site.settings) if name_in(line.text) == name), None)
    if line is None:
        hint = did_you_mean(name, commands) or "; commands of plugins are there when the plugins are in config/plugins"
        raise ConfigError(f"there is no command {name!r}{hint}")
    site.current_settings()
    add_line(site, line)
    (plugin,) = site.plugins
    if type(plugin).command is Plugin.command:
        raise ConfigError(f"the plugin {name} has no command of its own")
    parser = argparse.ArgumentParser(
        prog=f"qpsmtpd {name}",
        parents=[configured()],
        description=documentation(site.settings, name).partition("\n")[0],
    )
    plugin.command(parser)
    options = parser.parse_args(words)
    for text in options.run(options):
        print(text)
    return 0


def _list(options: argparse.Namespace) -> int:
    config = config_of(options)
    loaded = {name_in(line) for line in config.values("plugins") + config.values("logging")}
    names = bundled_names()
    for name in [*names, *sorted(loaded.difference(names))]:
        doc = documentation(config, name).partition("\n")[0]
        print(f"{'*' if name in loaded else ' '} {name:32} {doc}")
    print("\n* in use")
    return 0


def _order(options: argparse.Namespace) -> int:
    site = _site(options)
    for hook in hooks.HOOKS:
        for number, entry in enumerate(site.chains.get(hook, ()), 1):
            print(f"{hook if number == 1 else '':22} {number}. {entry.name:28} {where(entry.method)}")
    return 0


def _help(options: argparse.Namespace) -> int:
    text = documentation(config_of(options), options.name) or "This plugin has no documentation."
    print(f"{options.name}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
