"""Hook results with an enhanced status code (RFC 3463), by name.

A plugin says what is the matter, and the status with a text comes of it:

    from qpsmtpd import DENYSOFT, dsn

    return dsn.relaying_denied()                       # (DENY, "5.7.1 Relaying denied")
    return dsn.relaying_denied("not from there")       # (DENY, "5.7.1 not from there")
    return dsn.relaying_denied(DENYSOFT, "not now")    # (DENYSOFT, "4.7.1 not now")

The first digit follows the return code: 2 for OK, 4 for the soft refusals, 5 for the hard
ones. A reply shows a status at the start of a text as its own. Names, statuses and return
codes are those of the original's `Qpsmtpd::DSN`.

This module knows nothing of sessions; the status a reply has where a plugin names none
stands in `qpsmtpd.protocol.verdicts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import overload

from qpsmtpd.protocol import (
    DENY,
    DENY_DISCONNECT,
    DENYSOFT,
    DENYSOFT_DISCONNECT,
    OK,
    ReturnCode,
)

__all__ = [
    "Status",
    "addr_bad_dest_mbox",
    "addr_bad_dest_syntax",
    "addr_bad_dest_system",
    "addr_bad_from_syntax",
    "addr_bad_from_system",
    "addr_dest_ambigous",
    "addr_dest_ambiguous",
    "addr_mbox_moved",
    "addr_rcpt_ok",
    "addr_unspecified",
    "bad_sender_ip",
    "mbox_disabled",
    "mbox_full",
    "mbox_list_expansion_problem",
    "mbox_msg_too_long",
    "mbox_unspecified",
    "media_conv_lossy",
    "media_conv_prohibited",
    "media_conv_unsupported",
    "media_unspecified",
    "media_unsupported",
    "net_directory_server_failed",
    "net_routing_loop",
    "net_system_congested",
    "net_unspecified",
    "no_such_user",
    "proto_invalid_cmd_args",
    "proto_invalid_command",
    "proto_rcpt_list_too_long",
    "proto_syntax_error",
    "proto_unspecified",
    "proto_wrong_version",
    "relaying_denied",
    "sec_conv_failed",
    "sec_crypto_algorithm_unsupported",
    "sec_crypto_failure",
    "sec_feature_unsupported",
    "sec_list_dest_prohibited",
    "sec_msg_integrity_failure",
    "sec_sender_unauthorized",
    "sec_unspecified",
    "sys_disk_full",
    "sys_msg_too_big",
    "sys_not_accepting_mail",
    "sys_not_supported",
    "sys_unspecified",
    "temp_resolver_failed",
    "too_many_hops",
    "too_many_rcpts",
    "unspecified",
]

_CLASSES: Mapping[ReturnCode, int] = {
    OK: 2,
    DENY: 5,
    DENY_DISCONNECT: 5,
    DENYSOFT: 4,
    DENYSOFT_DISCONNECT: 4,
}


@dataclass(frozen=True, slots=True)
class Status:
    """A kind of outcome: subject and detail of its status, and what is said if nothing else is."""

    subject: int
    detail: int
    code: ReturnCode
    """The return code of a call that names none."""
    text: str
    """The text of a call that brings none."""

    @overload
    def __call__(self, text: str, /) -> tuple[ReturnCode, str]: ...
    @overload
    def __call__(self, code: ReturnCode | None = None, text: str | None = None) -> tuple[ReturnCode, str]: ...
    def __call__(self, code: ReturnCode | str | None = None, text: str | None = None) -> tuple[ReturnCode, str]:
        """Give the result for a hook to return; a text may stand alone.

        Raises ValueError for DECLINED and DONE, which have no status.
        """
        if isinstance(code, str):
            code, text = None, code
        code = code or self.code
        if code not in _CLASSES:
            raise ValueError(f"{code!r} says nothing to the client that could have a status")
        return code, f"{_CLASSES[code]}.{self.subject}.{self.detail} {text or self.text}"


# Other (RFC 3463 section 3.1)

unspecified = Status(0, 0, DENYSOFT, "Something is wrong that has no name")

# Addresses (section 3.2)

addr_unspecified = Status(1, 0, DENYSOFT, "Something is wrong with the address")
addr_bad_dest_mbox = Status(1, 1, DENY, "There is no such mailbox")
no_such_user = Status(1, 1, DENY, "No such user")
addr_bad_dest_system = Status(1, 2, DENY, "There is no such domain, or it takes no mail")
addr_bad_dest_syntax = Status(1, 3, DENY, "The recipient's address is malformed")
addr_dest_ambiguous = Status(1, 4, DENYSOFT, "The recipient's address stands for more than one mailbox")
addr_dest_ambigous = addr_dest_ambiguous  # as the original spells it
addr_rcpt_ok = Status(1, 5, OK, "Recipient fine")
addr_mbox_moved = Status(1, 6, DENY, "The mailbox has moved, nobody knows where to")
addr_bad_from_syntax = Status(1, 7, DENY, "The sender's address is malformed")
addr_bad_from_system = Status(1, 8, DENY, "The sender's domain does not exist, or takes no mail")

# Mailboxes (section 3.3)

mbox_unspecified = Status(2, 0, DENYSOFT, "Something is wrong with the mailbox")
mbox_disabled = Status(2, 1, DENY, "The mailbox takes no messages")
mbox_full = Status(2, 2, DENYSOFT, "The mailbox is full")
mbox_msg_too_long = Status(2, 3, DENY, "The message is longer than the mailbox allows")
mbox_list_expansion_problem = Status(2, 4, DENYSOFT, "The mailing list cannot be expanded")

# The mail system (section 3.4)

sys_unspecified = Status(3, 0, DENYSOFT, "Something is wrong with the mail system")
sys_disk_full = Status(3, 1, DENYSOFT, "There is no room left for mail")
sys_not_accepting_mail = Status(3, 2, DENYSOFT, "No mail is taken at present")
sys_not_supported = Status(3, 3, DENYSOFT, "The message asks for a feature that is missing here")
sys_msg_too_big = Status(3, 4, DENY, "The message is too big")

# Network and routing (section 3.5)

net_unspecified = Status(4, 0, DENYSOFT, "Something is wrong with the network or the routing")
net_directory_server_failed = Status(4, 3, DENYSOFT, "A directory that is needed does not answer")
temp_resolver_failed = Status(4, 3, DENYSOFT, "A name cannot be looked up at present")
net_system_congested = Status(4, 5, DENYSOFT, "There is too much mail at present")
net_routing_loop = Status(4, 6, DENY, "The message goes round in circles")
too_many_hops = Status(4, 6, DENY, "Too many hops")

# The protocol (section 3.6)

proto_unspecified = Status(5, 0, DENYSOFT, "Something is wrong with the dialogue")
proto_invalid_command = Status(5, 1, DENY, "The command is not known, or not in order")
proto_syntax_error = Status(5, 2, DENY, "The command cannot be understood")
proto_rcpt_list_too_long = Status(5, 3, DENYSOFT, "The list of recipients is too long")
too_many_rcpts = Status(5, 3, DENYSOFT, "Too many recipients")
proto_invalid_cmd_args = Status(5, 4, DENY, "The command has arguments that make no sense")
proto_wrong_version = Status(5, 5, DENYSOFT, "The versions of the protocol do not match")

# Content and its forms (section 3.7)

media_unspecified = Status(6, 0, DENYSOFT, "Something is wrong with the content")
media_unsupported = Status(6, 1, DENY, "Content of this type is not taken")
media_conv_prohibited = Status(6, 2, DENY, "The content would have to be converted, which is not allowed")
media_conv_unsupported = Status(6, 3, DENYSOFT, "The content would have to be converted, which is not possible here")
media_conv_lossy = Status(6, 4, DENYSOFT, "A part of the content is lost in its conversion")

# Security and policy (section 3.8)

sec_unspecified = Status(7, 0, DENYSOFT, "Refused as a matter of security")
sec_sender_unauthorized = Status(7, 1, DENY, "The sender is not allowed to do this")
bad_sender_ip = Status(7, 1, DENY, "Your address is not welcome here")
relaying_denied = Status(7, 1, DENY, "Relaying denied")
sec_list_dest_prohibited = Status(7, 2, DENY, "The sender may not write to this mailing list")
sec_conv_failed = Status(7, 3, DENY, "The content cannot be converted without loss of its protection")
sec_feature_unsupported = Status(7, 4, DENY, "A security feature that is asked for is missing here")
sec_crypto_failure = Status(7, 5, DENY, "The encryption cannot be undone or verified")
sec_crypto_algorithm_unsupported = Status(7, 6, DENYSOFT, "The cryptographic algorithm is not known here")
sec_msg_integrity_failure = Status(7, 7, DENY, "The message has been changed on its way")
