"""Which strategy stands for which type, for `hypothesis.strategies.from_type`."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from qpsmtpd.protocol import Command, Mailbox, Message, Recipient, Reply, hooks
from qpsmtpd.testing.smuggling import Letter, Variant
from qpsmtpd.testing.strategies.addresses import domains, mailboxes, paths
from qpsmtpd.testing.strategies.commands import parameters
from qpsmtpd.testing.strategies.contents import contents
from qpsmtpd.testing.strategies.dialogues import letters, smuggling_variants
from qpsmtpd.testing.strategies.plugins import Scripted, plugin_lists, replies

__all__ = ["register"]

_MAIL, _RCPT = parameters(Command.MAIL), parameters(Command.RCPT)
_RECIPIENTS = st.builds(Recipient, mailboxes(), _RCPT)
_TRACE = st.sampled_from(["SMTP", "ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA", "LMTP"])  # RFC 3848

_TYPES: Mapping[type[Any], SearchStrategy[Any]] = {
    Mailbox: mailboxes(),
    Reply: replies(),
    Recipient: _RECIPIENTS,
    Message: st.builds(Message, mailboxes(), st.lists(_RECIPIENTS, min_size=1, max_size=3), contents()),
    Variant: smuggling_variants(),
    Letter: letters(),
    Scripted: plugin_lists().filter(bool).map(lambda plugins: plugins[0]),
    hooks.Helo: st.builds(hooks.Helo, domains()),
    hooks.Ehlo: st.builds(hooks.Ehlo, domains()),
    hooks.MailPre: st.builds(hooks.MailPre, paths(null=True), _MAIL),
    hooks.Mail: st.builds(hooks.Mail, mailboxes(), _MAIL),
    hooks.RcptPre: st.builds(hooks.RcptPre, paths(), _RCPT),
    hooks.Rcpt: st.builds(hooks.Rcpt, mailboxes(), _RCPT),
    hooks.ReceivedLine: st.builds(hooks.ReceivedLine, _TRACE),
}
"""Types whose fields alone do not say what is valid; hypothesis builds the others from their annotations."""


def register() -> None:
    """Tell hypothesis."""
    for kind, strategy in _TYPES.items():
        st.register_type_strategy(kind, strategy)
