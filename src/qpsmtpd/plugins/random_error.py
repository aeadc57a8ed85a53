"""Refuses now and then for no reason, to see how clients and monitoring take it.

Each of the hooks connect, helo, ehlo, mail, rcpt, data and data_post refuses at random,
softly, two times in five with closing the connection. A message that goes through six of
them meets a refusal as often as the argument says.

Argument: how many messages in a hundred, 1 by default; 0 or less for none. Other plugins may change it
for a client, behind connect, by the connection's note `random_fail_%`.

Result: DECLINED, DENYSOFT or DENYSOFT_DISCONNECT.

In config/plugins:

    random_error 5
"""

from qpsmtpd import DECLINED, DENYSOFT, DENYSOFT_DISCONNECT, LOGINFO, Plugin, Result, Site, Transaction

_NOTE = "random_fail_%"
_HOOKS = ("connect", "helo", "ehlo", "mail", "rcpt", "data", "data_post")
_STEPS = 6  # of these hooks a message meets so many
_CLOSES = 0.4


class RandomError(Plugin):
    """Refuses now and then for no reason, to see how clients and monitoring take it."""

    def register(self, qp: Site, percent: str = "1") -> None:
        """Read the argument. Raises ValueError."""
        try:
            self._percent = float(percent)
        except ValueError:
            self._percent = float("inf")
        if not self._percent <= 100:
            raise ValueError(f"{percent!r} is no number up to 100")
        for hook in _HOOKS:
            self.register_hook(hook, self.maybe_fail)

    def maybe_fail(self, transaction: Transaction, *_: object) -> Result:
        """Serve all these hooks."""
        percent = self.connection.notes.setdefault(_NOTE, self._percent)
        if not isinstance(percent, int | float) or percent <= 0:
            return DECLINED
        passes = max(0.0, 1 - percent / 100) ** (1 / _STEPS)
        if self.qp.rng.random() < passes:
            return DECLINED
        self.log(LOGINFO, "fail, at random")
        code = DENYSOFT_DISCONNECT if self.qp.rng.random() < _CLOSES else DENYSOFT
        return code, "refused at random; please try again"
