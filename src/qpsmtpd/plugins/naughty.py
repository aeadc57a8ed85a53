"""Refuses the clients that other plugins have marked as naughty, at a hook of your choice.

A plugin with the argument `reject naughty` does not refuse a client itself: it leaves its
text in the connection's note `naughty`, and this plugin tells the client so. One line then
says for all of them at which command a client hears of it. Plugins of your own mark a
client with `self.is_naughty(text)`.

Arguments:
- `reject`: the hook, one of connect, ehlo, helo, mail, rcpt (the default), data and
  data_post. With ehlo or helo only that very command counts. A client that gets by, or is
  marked later, is refused at data_post in any case.
- `reject_type`: perm, soft, disconnect or temp_disconnect. Without it the plugin that has
  marked the client decides, by its own `reject_type`; where that says nothing, disconnect.

Result: DECLINED for a client without the mark, else what `reject_type` says:
DENY_DISCONNECT (550 at rcpt) by default.

In config/plugins, behind the plugins that mark clients and before rcpt_ok:

    naughty reject data
"""

from qpsmtpd import DECLINED, DENY_DISCONNECT, LOGDEBUG, LOGINFO, Plugin, Result, Site, Transaction
from qpsmtpd.config import did_you_mean

_HOOKS = ("connect", "ehlo", "helo", "mail", "rcpt", "data", "data_post")
_LAST = "data_post"


class Naughty(Plugin):
    """Refuses the clients that other plugins have marked as naughty, at a hook of your choice."""

    shared_arguments = ("reject_type", "loglevel")  # `reject` names a hook here

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments, and serve the hook they name."""
        options = self.options(args, "reject")
        self._reject_type = options.get("reject_type", "")
        hook = options.get("reject", "rcpt").lower()
        if hook not in _HOOKS:
            hint = did_you_mean(hook, _HOOKS) or f"; known are {', '.join(_HOOKS)}"
            raise ValueError(f"reject {hook!r} is no hook to refuse at{hint}")
        for each in dict.fromkeys((hook, _LAST)):
            self.register_hook(each, self.refuse)

    def refuse(self, transaction: Transaction, *_: object) -> Result:
        """Serve the hooks: refuse the client if it is marked."""
        text = self.is_naughty()
        if not text:
            self.log(LOGDEBUG, "pass")
            return DECLINED
        self.log(LOGINFO, f"fail, {text}")
        wish = self._reject_type or str(self.connection.notes.get("naughty_reject_type") or "")
        return self.get_reject_type(DENY_DISCONNECT, wish), text
