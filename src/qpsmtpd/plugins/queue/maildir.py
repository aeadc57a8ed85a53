"""Keeps messages in a Maildir, or in one for each recipient.

    queue/maildir PATH [SUBDIRECTORY [PERMISSIONS]]

PATH is where the Maildir is; it is made if it is missing. Without SUBDIRECTORY a message is
stored once for all its recipients. With it, it is stored for each, in the directory below
PATH that it names: `%l` stands for the local part, `%d` for the domain, `%u` for both with
an @ between. Characters that have no place in a file name become `_`. PERMISSIONS are those
of new directories, 0700 if they are not given.

    queue/maildir /var/mail/hosts %d/%l 0750

A message is written to `tmp`, synced to the disk, linked into `new`, and that directory is
synced, before the client is told 250. If any of it fails the client is told 452 and nothing
is kept. Line ends are LF, as in all Maildirs; Return-Path and Delivered-To are put on top.
"""

import contextlib
import itertools
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from qpsmtpd import DENYSOFT, LOGERROR, LOGINFO, OK, HookResult, Mailbox, Plugin, Site, Transaction, blocking
from qpsmtpd.logs import escape

__all__ = ["Maildir"]

_UNSAFE = re.compile(r"[^A-Za-z0-9+_.,@=\-]")
_PLACEHOLDER = re.compile(r"%[dlu]")
_PERMISSIONS = re.compile(r"0?[0-7]{3}")


class Maildir(Plugin):
    """Keeps messages in a Maildir."""

    def register(self, qp: Site, path: str, subdirectory: str = "", permissions: str = "0700") -> None:
        if subdirectory and not _PLACEHOLDER.search(subdirectory):
            raise ValueError(f"{subdirectory!r} has none of %d, %l and %u, so it would be the same for all")
        if ".." in Path(subdirectory).parts or subdirectory.startswith("/"):
            raise ValueError(f"{subdirectory!r} must lead to a place below {path}")
        if not _PERMISSIONS.fullmatch(permissions):
            raise ValueError(f"{permissions!r} are no permissions such as 0700")
        self._path = Path(path).expanduser().absolute()
        self._subdirectory = subdirectory
        self._mode = int(permissions, 8)
        self._host = re.sub(r"[^A-Za-z0-9.\-]", "_", socket.gethostname())
        self._counter = itertools.count(1)

    @blocking
    def hook_queue(self, transaction: Transaction) -> HookResult:
        copies = self._copies(transaction.recipients)
        written: list[Path] = []  # in tmp
        linked: list[Path] = []  # in new
        try:
            for directory, recipients in copies:
                written.append(self._write(directory, recipients, transaction))
            for path in written:
                new = path.parent.parent / "new" / path.name
                os.link(path, new)
                linked.append(new)
            for folder in {path.parent for path in linked}:
                _sync(folder)
        except OSError as error:
            self.log(LOGERROR, f"error, {error}")
            for path in linked:
                with contextlib.suppress(OSError):
                    path.unlink()
            return DENYSOFT, "Could not store the message, please try again later"
        finally:
            for path in written:
                with contextlib.suppress(OSError):
                    path.unlink()
        self.log(LOGINFO, f"pass, queued as {', '.join(map(str, linked))}")
        return OK, f"Queued! {escape(transaction.header.get('Message-Id'))}".rstrip()

    def _copies(self, recipients: list[Mailbox]) -> Iterable[tuple[Path, list[Mailbox]]]:
        """The Maildirs a message goes to, each with the recipients its copy is for."""
        if not self._subdirectory:
            return [(self._path, recipients)]
        copies: dict[Path, list[Mailbox]] = {}
        for recipient in recipients:
            copies.setdefault(self._directory(recipient), []).append(recipient)
        return copies.items()

    def _directory(self, recipient: Mailbox) -> Path:
        words = {"%l": recipient.user, "%d": recipient.host or "", "%u": recipient.address}
        safe = {key: _safe(word) for key, word in words.items()}
        return self._path / _PLACEHOLDER.sub(lambda match: safe[match[0]], self._subdirectory)

    def _write(self, directory: Path, recipients: list[Mailbox], transaction: Transaction) -> Path:
        """Write one copy into tmp and sync it."""
        for folder in ("new", "cur", "tmp"):
            self._make(directory / folder)
        now = time.time_ns()
        name = f"{now // 10**9}.M{now // 1000 % 10**6:06d}P{os.getpid()}Q{next(self._counter)}.{self._host}"
        path = directory / "tmp" / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_envelope(transaction.reverse_path, recipients))
                file.writelines(transaction.content.lf_chunks())
                file.flush()
                os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return path

    def _make(self, directory: Path) -> None:
        """Make a directory and those above it; what is new is synced into its parent."""
        if directory.is_dir():
            return
        if directory.parent != directory:
            self._make(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(self._mode)
        _sync(directory.parent)


def _envelope(sender: Mailbox, recipients: list[Mailbox]) -> bytes:
    lines = [f"Return-Path: {sender.path}"]
    lines += [f"Delivered-To: {escape(recipient.address)}" for recipient in reversed(recipients)]
    return "".join(f"{line}\n" for line in lines).encode()


def _safe(word: str) -> str:
    """A word as a part of a file name, which is never hidden, empty, or a way up."""
    clean = _UNSAFE.sub("_", word)[:200]
    return f"_{clean[1:]}" if clean.startswith(".") else clean or "_"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
