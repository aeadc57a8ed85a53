"""Strategies for hypothesis: what SMTP clients say, rightly or wrongly, and what plugins answer.

`pip install 'qpsmtpd[testing]'`. Each function gives a strategy, and each shrinks to something
short that can be read. `docs/testing.md` lists them.

The types of `qpsmtpd.protocol` are registered with hypothesis as it is imported (by an entry
point that names this module), so that `st.from_type(Mailbox)` and `@given(...)` with inferred
arguments give valid values.
"""

from qpsmtpd.testing.strategies.addresses import (
    address_literals,
    domains,
    hostile_paths,
    local_parts,
    mailboxes,
    nearly_valid_paths,
    paths,
)
from qpsmtpd.testing.strategies.commands import (
    OFFERED,
    command_lines,
    greetings,
    hostile_command_lines,
    nearly_valid_command_lines,
    parameters,
)
from qpsmtpd.testing.strategies.contents import contents, hostile_contents
from qpsmtpd.testing.strategies.dialogues import (
    cut,
    cuts,
    dialogues,
    hostile_dialogues,
    letters,
    pieces,
    smuggling_dialogues,
    smuggling_variants,
    transactions,
)
from qpsmtpd.testing.strategies.plugins import (
    SERVER_HOOKS,
    Scripted,
    answering,
    plugin_lists,
    replies,
    reply_texts,
    results,
)
from qpsmtpd.testing.strategies.types import register

__all__ = [
    "OFFERED",
    "SERVER_HOOKS",
    "Scripted",
    "address_literals",
    "answering",
    "command_lines",
    "contents",
    "cut",
    "cuts",
    "dialogues",
    "domains",
    "greetings",
    "hostile_command_lines",
    "hostile_contents",
    "hostile_dialogues",
    "hostile_paths",
    "letters",
    "local_parts",
    "mailboxes",
    "nearly_valid_command_lines",
    "nearly_valid_paths",
    "parameters",
    "paths",
    "pieces",
    "plugin_lists",
    "replies",
    "reply_texts",
    "results",
    "smuggling_dialogues",
    "smuggling_variants",
    "transactions",
]

register()
