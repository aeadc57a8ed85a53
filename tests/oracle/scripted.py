"""Plugins built from the plans in a vector, and the entries they leave in the trace.

A string in a vector holds an octet a character; plugins here work with text, where octets that
are no UTF-8 are surrogate escapes. `text` and `octets` lead from one to the other.
"""

from qpsmtpd import OK, Mailbox, Plugin, ReturnCode
from qpsmtpd.plugin import hook_method
from qpsmtpd.protocol import parse_path
from qpsmtpd.testing.kit import PENDING


def text(recorded):
    """The text that a recorded string stands for."""
    return recorded.encode("latin-1").decode("utf-8", "surrogateescape")


def octets(said):
    """The recorded string that stands for a text."""
    return said.encode("utf-8", "surrogateescape").decode("latin-1")


class Died(Exception):  # noqa: N818 - the name of the plan
    """What a hook raises that is to die."""


class Wire:
    """What the client has sent as message content, its dots unstuffed."""

    def __init__(self):
        self._sent = self._added = b""

    def begin(self):
        """Say that content follows."""
        self._sent = self._added = b""

    def send(self, data):
        """Say that the client sends this."""
        self._sent += data

    def append(self, data):
        """Say that a plugin has added this."""
        self._added += data

    def line_ends(self, size):
        """How many line ends the first `size` octets of the content hold: the original counts each as one octet."""
        content = (b"\r\n" + self._sent).partition(b"\r\n.\r\n")[0] + b"\r\n"
        return (content.replace(b"\r\n..", b"\r\n.")[2:] + self._added)[:size].count(b"\r\n")


def plugin_class(plan, trace, wire=None):
    """A plugin class for an entry with `hooks`; what its hooks get goes to `trace`."""
    key = plan.get("key", plan["name"])

    def register(self, qp):
        for hook in plan["hooks"]:
            self.register_hook(
                hook, served(hook, plan["hooks"][hook]).__get__(self), unshift=hook in plan.get("unshift", ())
            )

    def served(hook, results):
        calls = iter(results) if isinstance(results, list) else None

        def method(self, *given):
            arguments = given if hook == "post-fork" else given[1:]
            if is_traced(hook, arguments):
                trace.append([key, hook, shown_arguments(hook, arguments)])
            result = results["always"] if calls is None else next(calls, ["DECLINED"])
            return perform(self, trace, key, hook, arguments, result)

        return method

    return type(plan["name"], (Plugin,), {"register": register, "wire": wire})


def is_traced(hook, arguments):
    if hook == "logging":
        return arguments[3].startswith("oracle:")
    return hook not in ("config", "user_config") or arguments[-1].startswith("oracle_")


def perform(plugin, trace, key, hook, arguments, result):
    """What a hook does and returns, by its plan."""
    if isinstance(result, list):
        return returned(result)
    if "die" in result:
        raise Died(result["die"])
    if "parse" in result:

        def parser(command, rest):
            trace.append([key, "@parse", [command, octets(rest)]])
            return perform(plugin, trace, key, hook, (), _outcome(result["parse"]))

        return OK, parser
    for action, *words in result["do"]:
        seen = ACTIONS[action](plugin, arguments, *words)
        if seen is not NOTHING:
            trace.append([key, f"@{action.replace('get_note', 'note')}", seen])
    return perform(plugin, trace, key, hook, arguments, _outcome(result))


def _outcome(result):
    return {"die": result["die"]} if "die" in result else result["return"]


def returned(result):
    if not result or result == [None]:
        return None
    code, *values = result
    code = ReturnCode[code] if isinstance(code, str) else code
    values = tuple(text(value) if isinstance(value, str) else value for value in values)
    return (code, *values) if values else code


# How arguments are written in a trace


def shown_arguments(hook, arguments):
    if hook == "pre-connection":
        (arrival,) = arguments
        return {
            "remote_ip": arrival.remote_ip,
            "remote_port": "<port>",
            "local_ip": arrival.local_ip,
            "local_port": "<port>",
            "max_conn_ip": str(arrival.max_conn_ip),
            "child_addrs": arrival.child_addrs,
        }
    if hook == "logging":
        level, of_hook, plugin, message = arguments
        return [level, of_hook, plugin, message]
    return [shown(argument) for argument in arguments]


def shown(value):
    if isinstance(value, Mailbox):
        return value
    if isinstance(value, ReturnCode):
        return value.name
    if isinstance(value, str):
        return octets(value)
    if value is None or isinstance(value, int):
        return value
    return {name: None if given is None else octets(given) for name, given in value.items()}


# Actions

NOTHING = PENDING


def _notes(plugin, arguments, scope):
    owner = {"connection": plugin.connection, "transaction": plugin.transaction}.get(scope)
    return (arguments[0] if owner is None else owner).notes


def _string(value):
    """A value as the original would print it."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(int(value))
    return octets(str(value))


def respond(plugin, arguments, code, *lines):
    plugin.qp.respond(code, *map(text, lines))
    return NOTHING


def note(plugin, arguments, scope, key, value):
    _notes(plugin, arguments, scope)[key] = text(value) if isinstance(value, str) else value
    return NOTHING


def get_note(plugin, arguments, scope, key):
    return [scope, key, _string(_notes(plugin, arguments, scope).get(key))]


def hook_result(plugin, arguments, name, hook):
    kept = plugin.transaction.notes.get(name, {}).get(hook_method(hook), {}).get("return")
    return [name, hook, kept.name if kept else None]


def conn(plugin, arguments, *names):
    connection = plugin.connection
    values = {
        "remote_ip": connection.remote_ip,
        "remote_host": connection.remote_host,
        "remote_info": connection.remote_info,
        "remote_port": connection.remote_port,
        "local_ip": connection.local_ip,
        "local_port": connection.local_port,
        "hello": connection.hello,
        "hello_host": connection.hello_host,
        "relay_client": connection.relay_client,
    }
    return {name: _string(values[name]) for name in names}


def envelope(plugin, arguments):
    transaction = plugin.transaction
    return {"recipients": transaction.recipients, "sender": transaction.sender}


def auth(plugin, arguments):
    tried, connection = plugin.connection.authentication, plugin.connection
    return {
        "authenticated": "" if tried is None else "OK" if tried.succeeded else "DENY" if tried.user else "DECLINED",
        "mechanism": connection.auth_mechanism,
        "relay_client": _string(connection.relay_client),
        "user": octets(connection.auth_user),
    }


def snapshot(plugin, arguments, leave_body=0):
    transaction = plugin.transaction
    fields = [field for field in transaction.header.fields if field.name]
    body = list(transaction.body_lines())
    lines = [] if leave_body else [line.replace(b"\r\n", b"\n").decode("latin-1") for line in body]
    return {
        "body_length": transaction.body_length - len(body),
        "body_lines": lines,
        "data_size": transaction.data_size - plugin.wire.line_ends(transaction.data_size),
        "header": [[field.name, " ".join(octets(field.value).split())] for field in fields],
        "header_order": [field.name for field in fields],
        **envelope(plugin, arguments),
    }


def relay_client(plugin, arguments, value):
    plugin.connection.relay_client = bool(int(value))
    return NOTHING


def config(plugin, arguments, name):
    return [name, [octets(value) for value in plugin.qp.config(name)]]


def config_scalar(plugin, arguments, name):
    values = plugin.qp.config(name)
    return [name, octets(values[0]) if values else None]


def rcpt_config(plugin, arguments, name):
    return [name, [octets(value) for value in plugin.qp.config(name, arguments[0])]]


def log(plugin, arguments, level, message):
    plugin.log(level, text(message))
    return NOTHING


def capability(plugin, arguments, *keywords):
    plugin.transaction.notes.setdefault("capabilities", []).extend(map(text, keywords))
    return NOTHING


def rewrite_user(plugin, arguments, user):
    recipient = arguments[0]
    plugin.transaction.replace_recipient(recipient, Mailbox(user, recipient.domain))
    return NOTHING


def remove_recipient_named(plugin, arguments, path):
    plugin.transaction.remove_recipient(parse_path(text(path)))
    return NOTHING


def add_recipient(plugin, arguments, path):
    plugin.transaction.add_recipient(parse_path(text(path)))
    return NOTHING


def set_sender(plugin, arguments, path):
    plugin.transaction.sender = parse_path(text(path))
    return NOTHING


def header_get(plugin, arguments, name, index=0):
    found = plugin.transaction.header.get_all(name)
    return [name, octets(found[index]) if index < len(found) else None]


def header_count(plugin, arguments, name):
    return [name, len(plugin.transaction.header.get_all(name))]


def header_add(plugin, arguments, name, value, index=None):
    plugin.transaction.header.add(name, text(value), index if index is None or index >= 0 else None)
    return NOTHING


def header_delete(plugin, arguments, name):
    plugin.transaction.header.delete(name)
    return NOTHING


def body_write(plugin, arguments, data):
    plugin.wire.append(data.encode("latin-1").replace(b"\n", b"\r\n"))
    plugin.transaction.body_write(data.encode("latin-1"))
    return NOTHING


def hook_name(plugin, arguments):
    return [plugin.hook_name]


def store_auth_results(plugin, arguments, result):
    plugin.store_auth_results(text(result))
    return NOTHING


def adjust_karma(plugin, arguments, value):
    plugin.adjust_karma(int(value))
    return NOTHING


def spooled(plugin, arguments):
    return [int(plugin.transaction.content.spooled)]


def force_spool(plugin, arguments):
    plugin.transaction.body_filename()
    return NOTHING


ACTIONS = {
    action.__name__: action
    for action in (
        auth, respond, note, get_note, hook_result, conn, envelope, snapshot, relay_client, config, config_scalar,
        rcpt_config, log, capability, remove_recipient_named, add_recipient, set_sender, rewrite_user, header_get, header_count,
        header_add, header_delete, body_write, hook_name, store_auth_results, adjust_karma, spooled, force_spool,
    )
}  # fmt: skip
"""The actions a plan may name. Those that read give an entry of the trace."""
