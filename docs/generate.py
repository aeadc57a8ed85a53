"""Writes the pages that are made from the code: `python docs/generate.py`, or `make docs`."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from qpsmtpd.config import Config
from qpsmtpd.loader import bundled_names, documentation
from qpsmtpd.plugin import Plugin, hook_method
from qpsmtpd.protocol import FAILED, VERDICTS, Answer, ReturnCode, Verdict
from qpsmtpd.protocol.hooks import HOOKS

HERE = Path(__file__).parent

_PLUGIN_INTRODUCTION = "<!-- Made by docs/generate.py from the docstrings of the plugins; do not edit. -->"

INTRODUCTION = """\
<!-- Made by docs/generate.py from the verdict table and from the docstrings of Plugin; do not edit. -->

# The hooks

In the order in which a session meets them. A plugin serves a hook by a method of the name given here;
a method may take fewer arguments than it is given. What it may return, and what that means, stands in
the table below each hook, which is the table the server itself uses
([verdicts.py](../src/qpsmtpd/protocol/verdicts.py)).

A hook returns a return code, or a tuple of a code and texts for the client; each text, and each line of
one, is a line of the reply. None counts as DECLINED. The first plugin whose result is not DECLINED ends
the chain; its result is the answer. After each result the hook `deny` or `ok` runs, and the result is
kept in the notes, as `notes[PLUGIN]["hook_rcpt"]["return"]`.

*failed* is a hook that raises, takes too long or returns what is no result. It ends the chain where a
reply is due, and is logged with its traceback.

In the tables, «text» says whether a text of the plugin replaces the one shown, and «own reply» that what
the plugin has said by `self.qp.respond(code, *lines)` is sent. `%s` stands for the address, or for the name
of this host with the keywords of EHLO.
"""


def hooks_page() -> str:
    """The page about hooks."""
    return INTRODUCTION + "".join(f"\n{section}" for section in map(_section, HOOKS))


def _section(name: str) -> str:
    method = getattr(Plugin, hook_method(name))
    parameters = list(inspect.signature(method).parameters.values())
    signature = ", ".join(str(each.replace(annotation=each.empty)) for each in parameters[1:])
    owner = "the mail transaction" if HOOKS[name].of_transaction else "the connection"
    return (
        f"## {name}\n\n"
        f"`{hook_method(name)}(self{', ' if signature else ''}{signature})`\n\n"
        f"{inspect.getdoc(HOOKS[name])}\n\n"
        f"{inspect.getdoc(method)} It belongs to {owner}.\n" + _table(name)
    )


def _table(name: str) -> str:
    rows = list(_rows(name))
    if len(rows) == 1 and rows[0][1] == "":
        return ""
    lines = ["| answer | reply | text | then |", "|---|---|---|---|"]
    return "\n" + "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _rows(name: str) -> Iterator[tuple[str, str, str, str]]:
    """The rows of a hook; answers that mean the same share one."""
    alike: dict[Verdict, list[Answer]] = {}
    for answer in (*ReturnCode, FAILED):
        alike.setdefault(VERDICTS[name][answer], []).append(answer)
    for verdict, answers in alike.items():
        words = ", ".join("*failed*" if answer is FAILED else answer.name for answer in answers)
        yield words, _reply(verdict), "yes" if verdict.plugin_text else "", _consequence(verdict)


def _reply(verdict: Verdict) -> str:
    own = "own reply" if verdict.own_reply else ""
    if verdict.reply is None:
        return own
    status = f"{verdict.reply.enhanced} " if verdict.reply.enhanced else ""
    given = f"`{verdict.reply.code} {status}{verdict.reply.text}`"
    return f"{own}, or {given}" if own else given


def _consequence(verdict: Verdict) -> str:
    words = [
        "goes on" if verdict.proceed else "stops",
        "transaction over" if verdict.reset or verdict.close else "",
        "connection closed" if verdict.close else "",
    ]
    return ", ".join(filter(None, words))


def plugin_page(name: str) -> str:
    """The page about a bundled plugin: its documentation, as `qpsmtpd plugins help` prints it."""
    return f"{_PLUGIN_INTRODUCTION}\n\n# {name}\n\n{_documentation(name)}\n"


def plugins_page() -> str:
    """The list of the bundled plugins."""
    rows = "".join(
        f"| [{name}]({name}.md) | {_documentation(name).partition(chr(10))[0]} |\n" for name in bundled_names()
    )
    return f"{_PLUGIN_INTRODUCTION}\n\n# The bundled plugins\n\n| plugin | what it does |\n|---|---|\n{rows}"


def _documentation(name: str) -> str:
    return documentation(Config(None), name)


def pages() -> dict[str, Callable[[], str]]:
    """The pages by their names."""
    plugins = {f"plugins/{name}.md": partial(plugin_page, name) for name in bundled_names()}
    return {"hooks.md": hooks_page, "plugins/README.md": plugins_page, **plugins}


def main() -> None:
    """Write every page, and remove those of plugins that are no more."""
    wanted = pages()
    for old in (HERE / "plugins").rglob("*.md"):
        if str(old.relative_to(HERE)) not in wanted:
            old.unlink()
    for name, page in wanted.items():
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
