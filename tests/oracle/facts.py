"""Plays the facts, `input` to `result`, one function a kind. Each gives what is true here."""

from scripted import octets, text

from qpsmtpd.config import Config, ConfigError
from qpsmtpd.protocol import Mailbox, SyntaxProblem, parse_path
from qpsmtpd.protocol.commands import parse_path_argument, parse_words
from qpsmtpd.session.connection import is_ipv6, is_localhost, is_valid_ip

REFUSED = {"accepted": False}


class NotPlayable(Exception):  # noqa: N818 - no error
    """There is nothing here that the fact is about."""


def mailbox(string):
    """The mailbox in a string, with or without its brackets; None if it is refused."""
    path = text(string)
    parsed = parse_path(path if path.startswith("<") else f"<{path}>")
    if isinstance(parsed, SyntaxProblem) or not path.isascii():  # without SMTPUTF8
        return None
    return parsed


def described(parsed):
    if parsed is None:
        return REFUSED
    return {
        "accepted": True,
        "address": octets(parsed.address),
        "format": octets(parsed.path),
        "host": parsed.host,
        "user": octets(parsed.user),
    }


def address(given, directory):
    return described(mailbox(given))


def address_parts(given, directory):
    if given["host"] is None:
        return described(mailbox(given["user"]))
    return described(Mailbox(text(given["user"]), text(given["host"])))


def address_set(given, directory):
    raise NotPlayable("a mailbox is a value: nothing is assigned to it")


def canonify(given, directory):
    parsed = mailbox(given)
    return REFUSED if parsed is None else {"host": parsed.host, "user": octets(parsed.user)}


def sort(given, directory):
    strings = given["addresses"] if isinstance(given, dict) else given
    return {"sorted": [parsed.path for parsed in sorted(map(mailbox, strings))]}


def equal(given, directory):
    return {"equal": mailbox(given["a"]) == mailbox(given["b"])}


def command_parse(given, directory):
    command, line = given["command"], text(given["line"])
    if command in ("mail", "rcpt"):
        parsed = parse_path_argument({"mail": "FROM:", "rcpt": "TO:"}[command], line)
        if isinstance(parsed, SyntaxProblem):
            return {"result": "DENY"}
        path, parameters = parsed
        words = [name if value is None else f"{name}={value}" for name, value in parameters.items()]
        return {"result": "OK", "values": [octets(path), *map(octets, words)]}
    if command in ("helo", "ehlo", "auth"):
        return {"result": "OK", "values": list(map(octets, parse_words(line)))}
    raise NotPlayable(f"the server does not speak {command.upper()} yet")


def config_file(given, directory):
    for name, content in given["files"].items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("latin-1"))
    try:
        values = Config(directory).values(given["name"])
    except ConfigError:
        return {"error": True}
    return {"list": [octets(value) for value in values], "scalar": octets(values[0]) if values else None}


def judged(function):
    return lambda given, directory: {"result": function(text(given))}


def play(vector, directory):
    """The recorded result and the one here, in the same terms. Raises NotPlayable."""
    recorded, real = vector["result"], KINDS[vector["kind"]](vector["input"], directory)
    if vector["kind"] == "command_parse" and recorded.get("values"):
        path, *words = recorded["values"]  # keywords are kept in lower case here
        words = [word.partition("=")[0].lower() + "".join(word.partition("=")[1:]) for word in words]
        recorded = {**recorded, "values": [path, *words]}
    return recorded, real


KINDS = {
    "address": address,
    "address_parts": address_parts,
    "address_set": address_set,
    "canonify": canonify,
    "sort": sort,
    "equal": equal,
    "command_parse": command_parse,
    "config_file": config_file,
    "is_localhost": judged(is_localhost),
    "is_valid_ip": judged(is_valid_ip),
    "is_ipv6": judged(is_ipv6),
}
