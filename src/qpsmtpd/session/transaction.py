"""A mail transaction: the envelope, the message, and notes; fresh after each reset."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import BinaryIO

from qpsmtpd.protocol import NULL_PATH, Mailbox, Parameters
from qpsmtpd.protocol.commands import NO_PARAMETERS
from qpsmtpd.session.message import Header, Message

__all__ = ["Recipient", "Transaction"]

_LINE_END = re.compile(rb"\r\n|\r|\n")

Recipient = tuple[Mailbox, Parameters]
"""A recipient with the ESMTP parameters of its RCPT command."""


_Accepted = tuple[Mailbox, Parameters, int | None]
"""A recipient, and which RCPT of this transaction named it, from 0; None for one that a plugin has added."""


class Transaction:
    """One mail transaction. One exists from the start of a session, without a sender."""

    sender: Mailbox | None = None
    """The reverse-path, once MAIL has been accepted."""

    sender_parameters: Parameters = NO_PARAMETERS
    """The ESMTP parameters of MAIL."""

    chunked = False
    """Whether the content comes by BDAT, which needs no go-ahead, and not by DATA."""

    _accepted = 0  # RCPT commands
    _only: int | None = None  # the one RCPT whose recipients are shown
    _message: Message | None = None

    def __init__(self, identity: str, threshold: int, spool_dir: Callable[[], Path]) -> None:
        self.id = identity
        """Names this transaction in the log and in its trace field."""
        self.notes: dict[str, object] = {}
        """Whatever plugins keep about this transaction."""
        self._recipients: list[_Accepted] = []
        self._replaced: dict[Mailbox, Mailbox] = {}  # recipients that are still being decided
        self._threshold = threshold
        self._spool_dir = spool_dir
        self._temporary: list[Path] = []

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has been put into this transaction yet."""
        if self.sender is not None or self._message is not None:
            return False
        return not (self.notes or self._recipients or self._replaced or self._temporary)

    # The envelope

    @property
    def recipients(self) -> list[Mailbox]:
        """The recipients accepted so far, duplicates included; a copy."""
        return [mailbox for mailbox, _, _ in self._shown()]

    @property
    def has_recipients(self) -> bool:
        """Whether there is any recipient."""
        return bool(self._recipients if self._only is None else self._shown())

    @property
    def sole_recipient(self) -> Mailbox | None:
        """The recipient, if there is just one."""
        shown = self._shown()
        return shown[0][0] if len(shown) == 1 else None

    @property
    def recipients_with_parameters(self) -> list[Recipient]:
        """The recipients with the parameters of their RCPT commands; a copy."""
        return [(mailbox, parameters) for mailbox, parameters, _ in self._shown()]

    def _shown(self) -> list[_Accepted]:
        if self._only is None:
            return self._recipients
        wanted = (self._only,) if self._only else (0, None)
        return [accepted for accepted in self._recipients if accepted[2] in wanted]

    def narrow(self, number: int | None) -> None:
        """Show the recipient of one RCPT alone, as for a delivery by LMTP; or, with None, all again.

        Recipients that plugins have added go along with the first.
        """
        self._only = number

    def accept_recipient(self, mailbox: Mailbox, parameters: Parameters) -> None:
        """Add the recipient of a RCPT that has been accepted."""
        if self._replaced:
            mailbox = self._replaced.pop(mailbox, mailbox)
        self._recipients.append((mailbox, parameters, self._accepted))
        self._accepted += 1

    def add_recipient(self, mailbox: Mailbox, parameters: Parameters | None = None) -> None:
        """Add a recipient behind the others."""
        self._recipients.append((self._replaced.pop(mailbox, mailbox), parameters or {}, None))

    def remove_recipient(self, mailbox: Mailbox) -> None:
        """Remove a recipient, each time it was named; nothing happens if it is none."""
        self._recipients = [accepted for accepted in self._recipients if accepted[0] != mailbox]

    def replace_recipient(self, old: Mailbox, new: Mailbox) -> None:
        """Deliver to `new` what is addressed to `old`: a recipient, or the one whose RCPT is being decided."""
        if any(mailbox == old for mailbox, _, _ in self._recipients):
            self._recipients = [
                (new if mailbox == old else mailbox, parameters, number)
                for mailbox, parameters, number in self._recipients
            ]
        else:
            self._replaced[old] = new

    @property
    def reverse_path(self) -> Mailbox:
        """The sender, the null path if there is none yet."""
        return self.sender if self.sender is not None else NULL_PATH

    # The message

    @property
    def content(self) -> Message:
        """The message itself, empty before DATA."""
        if self._message is None:
            self._message = Message(self._threshold, self._spool_dir)
        return self._message

    @property
    def header(self) -> Header:
        """The header fields; what is changed here is what is queued."""
        return self.content.header

    @property
    def data_size(self) -> int:
        """Octets of content that the client has sent so far, CRLF counted as two."""
        return self.content.size

    @property
    def body_length(self) -> int:
        """Octets behind the header, the blank line included."""
        return self.content.body_length

    def body_file(self) -> BinaryIO:
        """What stands behind the header, blank line included, to read; one reader a call."""
        return self.content.body_file()

    def body_lines(self) -> Iterator[bytes]:
        """The lines behind the header, the blank line first, each with its CRLF."""
        return iter(self.body_file())

    def body_write(self, data: bytes) -> None:
        """Add to the end of the body, such as a footer; every line end becomes CRLF. Raises OSError."""
        if self.content.write(_LINE_END.sub(b"\r\n", data)) or self.content.spooled:
            self.content.spool()  # those who are reading already see it

    def replace_body(self, data: bytes) -> None:
        """Put another body behind the header; every line end becomes CRLF. Raises OSError."""
        self.content.replace_rest(_LINE_END.sub(b"\r\n", data))

    def chunks(self) -> Iterator[bytes]:
        """The whole message, header first, in pieces of bounded size."""
        return self.content.chunks()

    def message(self) -> EmailMessage:
        """The message as the standard library parses it; a copy."""
        return self.content.parsed()

    def body_filename(self) -> Path:
        """A file with the whole message as it is now; it lives as long as the transaction."""
        self.content.spool()
        path = self.temp_file()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(self.content.chunks())
        return path

    @property
    def has_files(self) -> bool:
        """Whether to `discard` this takes time."""
        return bool(self._temporary) or (self._message is not None and self._message.spooled)

    # Work files

    def temp_file(self) -> Path:
        """The name of a file in the spool directory that does not exist; removed with the transaction."""
        path = self.temp_dir() / "file"
        self._temporary.append(path)
        return path

    def temp_dir(self) -> Path:
        """A new directory in the spool directory, mode 0700; removed with the transaction."""
        path = Path(tempfile.mkdtemp(prefix=f"{self.id}.", dir=self._spool_dir()))
        self._temporary.append(path)
        return path

    def discard(self) -> None:
        """Forget the message and remove every file of this transaction."""
        if self._message is not None:
            self._message.discard()
        while self._temporary:
            path = self._temporary.pop()
            with contextlib.suppress(OSError):
                path.unlink() if not path.is_dir() else shutil.rmtree(path)
