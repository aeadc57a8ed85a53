r"""Refuses clients that talk before it is their turn.

A mail server waits for the greeting, and for the go-ahead behind DATA. A program that sends
its whole dialogue in one go, as much software for spam does, is noticed by this plugin:
the server says nothing for a while, and whoever talks meanwhile, or has already, is an early talker.
Pipelining (RFC 2920) is no early talk: DATA is the last command of a group. Nor is
content that comes by BDAT, for which nobody waits.

Arguments:
- `wait`: seconds of silence, 1 by default. A plugin before this one may set another time for
  a client, in the connection's note `earlytalker_wait`. Some clients give up after 30 seconds.
- `check-at`: CONNECT (the default) or DATA; give it twice for both.
- `reject 0` only logs, `reject naughty` leaves the refusal to the plugin `naughty`.
- `reject_type`: perm (the default), soft, disconnect or temp_disconnect.
- `defer-reject 1`: greet an early talker, and refuse each of its MAIL commands; soft unless
  `reject_type` says otherwise.
- `action`: of old configurations. `deny` is `reject_type perm`, `denysoft` is `reject_type soft`,
  `log` is `reject 0`.

Relay clients, whitelisted and already refused ones do not have to wait, nor at CONNECT clients whose note
`karma_history` is above 5.

Notes: `earlytalker` of the connection is 1 for an early talker, whose karma falls by 1.

Result: DECLINED, or what `reject_type` says: DENY by default. At connect (554) and at DATA
(554) any refusal closes the connection: what an early talker has sent behind DATA is
content, and would be taken for commands.

In config/plugins:

    earlytalker wait 2 check-at CONNECT check-at DATA
"""

from collections.abc import Generator, Mapping

from qpsmtpd import (
    DECLINED,
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    LOGDEBUG,
    LOGINFO,
    Mailbox,
    Parameters,
    Pause,
    Plugin,
    Result,
    Site,
    Transaction,
)
from qpsmtpd.config import did_you_mean
from qpsmtpd.plugins._options import flag, seconds
from qpsmtpd.session.effects import Effect, Effects

_PLACES = ("CONNECT", "DATA")
_ACTIONS: Mapping[str, tuple[str, str]] = {
    "deny": ("reject_type", "perm"),
    "denysoft": ("reject_type", "soft"),
    "log": ("reject", "0"),
}
_CLOSING = {DENY: DENY_DISCONNECT, DENYSOFT: DENYSOFT_DISCONNECT}
_GOOD_KARMA = 5
_NOTE = "earlytalker"
_BEFORE_GREETING = "you have talked before you were greeted"


class EarlyTalker(Plugin):
    """Refuses clients that talk before it is their turn."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments."""
        options = self.options(args, "wait", "check-at", "defer-reject", "action")
        self._wait = seconds(options, "wait", 1)
        self._check_at = _read_places(args)
        self._deferred = flag(options, "defer-reject")
        if "action" in options:
            self.take_shared_arguments(_read_action(options["action"]))
        if self._deferred:
            self.take_shared_arguments(("reject_type", "soft"))
            self.register_hook("mail", self.refuse_sender)

    def hook_connect(self, transaction: Transaction) -> Effects:
        """Wait before the greeting."""
        if "CONNECT" not in self._check_at or self.is_immune() or self._has_good_karma():
            return DECLINED
        if not (yield from self._talks_early()):
            return DECLINED
        return DECLINED if self._deferred else self.get_reject(_BEFORE_GREETING, "talked before the greeting")

    def refuse_sender(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook mail with `defer-reject`."""
        if self.connection.notes.get(_NOTE) != 1:  # what the hooks have answered is kept under this name, too
            return DECLINED
        return self.get_reject(_BEFORE_GREETING, "talked before the greeting")

    def hook_data(self, transaction: Transaction) -> Effects:
        """Wait before the go-ahead."""
        if "DATA" not in self._check_at or self.is_immune():
            return DECLINED
        if transaction.chunked:
            self.log(LOGDEBUG, "skip, BDAT")
            return DECLINED
        if not (yield from self._talks_early()):
            return DECLINED
        text = "you have sent the message before you were told to go ahead"
        return _closing(self.get_reject(text, "sent the message before the go-ahead"))

    def _has_good_karma(self) -> bool:
        karma = self.connection.notes.get("karma_history")
        if not isinstance(karma, int | float) or karma <= _GOOD_KARMA:
            return False
        self.log(LOGINFO, f"skip, karma {karma}")
        return True

    def _talks_early(self) -> Generator[Effect, object, bool]:
        """Wait, and see whether the client does."""
        notes = self.connection.notes
        wish = notes.get("earlytalker_wait")
        wait = wish if isinstance(wish, int | float) and 0 < wish < float("inf") else self._wait
        if not (yield Pause(wait, until_input=True)):
            self.log(LOGINFO, "pass, waited for its turn")
            return False
        notes[_NOTE] = 1
        self.adjust_karma(-1)
        return True


def _closing(result: Result) -> Result:
    """The same refusal, and the connection closed."""
    if not isinstance(result, tuple):
        return result
    code, *texts = result
    return (_CLOSING.get(code, code), *texts)


def _read_places(args: tuple[str, ...]) -> frozenset[str]:
    """Where to check. Raises ValueError for what is no such place."""
    named = [value for name, value in zip(args[::2], args[1::2], strict=True) if name == "check-at"]
    for value in named:
        if value.upper() not in _PLACES:
            hint = did_you_mean(value.upper(), _PLACES) or f"; known are {' and '.join(_PLACES)}"
            raise ValueError(f"check-at {value!r} is no place to check at{hint}")
    return frozenset(value.upper() for value in named or _PLACES[:1])


def _read_action(word: str) -> tuple[str, str]:
    """What the argument `action` stands for. Raises ValueError."""
    if word.lower() not in _ACTIONS:
        raise ValueError(f"action {word!r} is none of {', '.join(_ACTIONS)}")
    return _ACTIONS[word.lower()]
