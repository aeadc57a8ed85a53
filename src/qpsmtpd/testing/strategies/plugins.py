"""Plugins with results: what each in a list answers, hook by hook, to a `Server` or in a `Kit`."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from qpsmtpd.plugin import Plugin, hook_method
from qpsmtpd.protocol import DECLINED, DONE, FAILED, OK, Answer, Hook, Reply, ReturnCode, Server, hooks

__all__ = ["SERVER_HOOKS", "Scripted", "answering", "plugin_lists", "replies", "reply_texts", "results"]

_OTHERS = {"post-fork", "pre-connection", "post-connection", "deny", "ok", "config", "user_config", "logging"}

SERVER_HOOKS = frozenset(name for name in hooks.HOOKS if name not in _OTHERS and not name.startswith("auth"))
"""The hooks that a `Server` asks about a client that does not authenticate."""

_PRE = {"mail_pre", "rcpt_pre", "helo_parse", "ehlo_parse", "mail_parse", "rcpt_parse"}
"""The hooks at which a text with OK takes the place of what the client has sent."""

_OWN_REPLY = 299

ScriptedResult = tuple[Answer, str]
"""An answer and its text, empty for none."""


@dataclass(frozen=True, slots=True)
class Scripted:
    """A plugin that answers by a list: the nth call of a hook gets the nth result, and the first behind the last."""

    results: Mapping[str, tuple[ScriptedResult, ...]]
    """What each hook answers. A hook that is missing is not served."""

    def begin(self) -> Mapping[str, Iterator[ScriptedResult]]:
        """The results from the first on, for one run."""
        return {hook: itertools.cycle(results) for hook, results in self.results.items()}

    def plugin(self) -> type[Plugin]:
        """A plugin class that answers so, from the first result on: for one `Kit`.

        For DONE it replies 299 with the text; for FAILED it raises RuntimeError.
        """
        methods = {hook_method(hook): _method(left) for hook, left in self.begin().items()}
        return cast("type[Plugin]", type("ScriptedPlugin", (Plugin,), {"__doc__": "Answers by a list.", **methods}))


def _method(left: Iterator[ScriptedResult]) -> Callable[..., tuple[ReturnCode, str] | ReturnCode]:
    def method(plugin: Plugin, *_: object) -> tuple[ReturnCode, str] | ReturnCode:
        code, text = next(left)
        if code is FAILED:
            raise RuntimeError(text)
        if code is DONE:
            plugin.qp.respond(_OWN_REPLY, text)
        return (code, text) if text else code

    return method


def answering(plugins: Sequence[Scripted]) -> Callable[[Server, Hook], None]:
    """Answer the hooks of one `Server` as these plugins do: the first that does not decline decides.

    Ask it for `{hook for plugin in plugins for hook in plugin.results}`.
    """
    runs = [plugin.begin() for plugin in plugins]

    def answer(server: Server, hook: Hook) -> None:
        given = (next(run[hook.name]) for run in runs if hook.name in run)
        code, text = next((result for result in given if result[0] is not DECLINED), (DECLINED, ""))
        if code is FAILED:
            server.fail()
            return
        if code is DONE:
            server.respond(_OWN_REPLY, text)
        server.answer(code, *([text] if text else []))

    return answer


def reply_texts() -> SearchStrategy[str]:
    """Texts that a plugin may give: short and plain, with status codes, long, and such as would break a reply."""
    usual = ["", "fine", "2.0.0 fine", "4.7.1 later", "5.7.1 no", "x" * 600, "two\nlines", "\r\n250 OK", "<x@y>", "ü漢"]
    return st.sampled_from(usual) | st.text(max_size=30)


def results(*, answers: Iterable[Answer] = (*ReturnCode, FAILED)) -> SearchStrategy[ScriptedResult]:
    """An answer to a hook with its text; shrinks to DECLINED and no text."""
    return st.tuples(st.just(DECLINED) | st.just(OK) | st.sampled_from([*answers]), reply_texts())


@st.composite
def plugin_lists(
    draw: DrawFn, *, hooks: Iterable[str] = SERVER_HOOKS, answers: Iterable[Answer] = (*ReturnCode, FAILED)
) -> list[Scripted]:
    """Lists of plugins that serve some of these hooks with some of these answers; shrinks to no plugin."""
    names, codes = st.sampled_from(sorted(hooks)), [*answers]
    served = draw(st.lists(st.sets(names, max_size=6), max_size=3))
    return [Scripted({hook: draw(_results_of(hook, codes)) for hook in sorted(each)}) for each in served]


def _results_of(hook: str, answers: Sequence[Answer]) -> SearchStrategy[tuple[ScriptedResult, ...]]:
    drawn = results(answers=answers)
    if hook in _PRE:
        drawn = st.just((OK, "")) | drawn
    return st.lists(drawn, min_size=1, max_size=3).map(tuple)


@st.composite
def replies(draw: DrawFn) -> Reply:
    """Replies that are read as they were written: printable text of one line or several, a status code or none."""
    code = draw(st.integers(200, 599))
    lines = st.text(st.characters(min_codepoint=32, exclude_categories=["C", "Z"]) | st.just(" "), max_size=80)
    text = draw(
        st.lists(lines.filter(lambda line: not line.startswith(("2", "4", "5"))), min_size=1, max_size=4).map("\n".join)
    )
    status = st.builds("{}.{}.{}".format, st.just(code // 100), st.integers(0, 999), st.integers(0, 999))
    return Reply(code, draw(st.none() | status) if code // 100 in (2, 4, 5) else None, text)
