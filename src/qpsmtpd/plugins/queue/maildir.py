"""Keeps messages in a Maildir, or in a Maildir for each recipient.

    queue/maildir PATH [SUBDIR] [PERMS]

PATH is the Maildir. With SUBDIR each recipient has a Maildir below PATH, and gets a copy;
in SUBDIR stand

    %l    for the local part of the recipient's address
    %d    for its domain
    %u    for local part@domain
    %%    for a percent sign

all in lower case, with _ for any character but letters, digits and `-+_.,@=`. `%d/%l` is
customary: user@example.org then has PATH/example.org/user.

PERMS is the octal mode of new directories, 0700 by default, less the umask; new files
have the same mode without the execute bits. Directories are made when they are needed.

A message is on disk, with all its directories, before the client is told so; messages that
come at the same time share a sync of their directory. A message
for several recipients is delivered to all of them or, as far as the disk allows, to none: if
one of them is over the disk quota, the others get nothing either until there is room again.
Whatever step fails, no part of a message is left behind, neither in `new` nor in `tmp`.

A Maildir with a file `maildirsize` (Maildir++, as Courier and Dovecot keep it) has the quota that
this file says: a message that does not fit counts as over quota, one that comes is noted there.
The file is never made, nor counted anew.

It begins with Return-Path and Delivered-To; its lines end in LF.

Result: OK. DENYSOFT (452) if the message cannot be written: with 4.3.1 if the disk is full, 4.2.2 if
a quota is used up, else 4.3.0; the reason is in the log. DENY (552) if an address makes no
directory name.

In config/plugins:

    queue/maildir /var/mail/hosts %d/%l
"""

import contextlib
import errno
import itertools
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qpsmtpd import (
    DENY,
    DENYSOFT,
    LOGERROR,
    LOGINFO,
    OK,
    Mailbox,
    Plugin,
    Result,
    Site,
    Transaction,
    blocking,
)
from qpsmtpd.plugins.queue._common import message_id
from qpsmtpd.plugins.queue._maildirsize import count, has_room
from qpsmtpd.session.message import CHUNK, Message

_PERMS = re.compile(r"0?[0-7]{3}")
_SUBSTITUTION = re.compile(r"%(.?)")
# The original keeps ASCII only. Letters of other scripts stay here, since to fold them all
# into one character would deliver one user's mail to another.
_UNSAFE = re.compile(r"[^\w+.,@=\-]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
_STATUS: dict[int | None, str] = {errno.ENOSPC: "4.3.1 ", errno.EDQUOT: "4.2.2 "}
_NO_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class Maildir(Plugin):
    """Keeps messages in a Maildir, or in a Maildir for each recipient."""

    def register(self, qp: Site, path: str, subdir: str = "", perms: str = "0700") -> None:
        """Read the arguments. Raises ValueError."""
        self._root = str(Path(path).expanduser().absolute())
        self._subdir = _check_subdir(subdir).split("/") if subdir else []
        if not _PERMS.fullmatch(perms) or int(perms, 8) & 0o700 != 0o700:
            raise ValueError(f"{perms!r} is no octal mode that lets the owner in, such as 0700")
        self._mode = int(perms, 8)
        self._counter = itertools.count()
        self._syncs = SharedSyncs(_sync_directory)
        self._host = socket.gethostname().replace("/", r"\057").replace(":", r"\072")

    @blocking
    def hook_queue(self, transaction: Transaction) -> Result:
        """Write the message."""
        recipients = tuple(dict.fromkeys(transaction.recipients))
        try:
            if self._subdir:
                copies = [self._copy(self._folder(recipient), transaction, (recipient,)) for recipient in recipients]
            else:
                copies = [self._copy(self._root, transaction, recipients)]
        except _NoFolderError as error:
            self.log(LOGERROR, f"fail, {error}")
            return DENY, str(error)
        try:
            self._deliver(copies, transaction)
        except OSError as error:
            self.log(LOGERROR, f"error, the message cannot be written below {self._root}: {error}")
            return DENYSOFT, f"{_STATUS.get(error.errno, '')}the message cannot be stored now, please try again later"
        for copy in copies:
            whom = f" for {copy.recipients[0].address}" if self._subdir else ""
            self.log(LOGINFO, f"pass, queued as {copy.name}{whom}")
        return OK, f"Queued! {message_id(transaction)}"

    def _folder(self, recipient: Mailbox) -> str:
        """The Maildir of a recipient; never anything but a directory below the root."""
        local = _UNSAFE.sub("_", recipient.local_part.lower())
        domain = _UNSAFE.sub("_", (recipient.domain or self.qp.current_settings().hostname).lower())
        values = {"l": local, "d": domain, "u": f"{local}@{domain}", "%": "%"}
        parts = [_SUBSTITUTION.sub(lambda match: values[match[1]], part) for part in self._subdir]
        if not {"", ".", ".."}.isdisjoint(parts):
            raise _NoFolderError(f"there is no mailbox for {recipient.path}")
        return os.path.join(self._root, *parts)

    def _copy(self, folder: str, transaction: Transaction, recipients: tuple[Mailbox, ...]) -> "_Copy":
        seconds, fraction = divmod(self.qp.wall(), 1)
        unique = f"M{int(fraction * 1e6)}P{os.getpid()}Q{next(self._counter)}R{os.urandom(4).hex()}"
        fields = [("Return-Path", transaction.reverse_path.path)]
        fields += [("Delivered-To", recipient.address) for recipient in reversed(recipients)]
        head = "".join(f"{name}: {_CONTROLS.sub('?', value)}\n" for name, value in fields)
        return _Copy(
            folder, f"{int(seconds)}.{unique}.{self._host}", recipients, head.encode("utf-8", "surrogateescape")
        )

    def _deliver(self, copies: Sequence["_Copy"], transaction: Transaction) -> None:
        """Put every copy into its Maildir, or none. Raises OSError.

        Nothing shows in a `new` directory before all copies are safe in their `tmp`. What can
        still fail then is rare, and undone: a reader may see a copy for a moment, and the
        client, told 452, sends it again.
        """
        written: list[str] = []
        linked: list[str] = []
        try:
            for copy in copies:
                self._put(copy.folder, partial(self._write, copy, transaction.content))
                written.append(copy.tmp)
            sizes = [_size_within_quota(copy) for copy in copies]
            for copy in copies:
                self._put(copy.folder, partial(_link, copy.tmp, copy.new))
                linked.append(copy.new)
            for folder in {copy.folder for copy in copies}:
                self._syncs.sync(f"{folder}/new")
            for copy, size in zip(copies, sizes, strict=True):
                count(copy.folder, size)
        except BaseException:
            _remove(linked)
            raise
        finally:
            _remove(written)

    def _put(self, folder: str, put: Callable[[], None]) -> None:
        """Put something into a Maildir, which is made where it is missing. Raises OSError."""
        try:
            put()
        except FileNotFoundError:
            for name in ("tmp", "new", "cur"):
                _make_directory(f"{folder}/{name}", self._mode)
            put()

    def _write(self, copy: "_Copy", content: Message) -> None:
        """Write a file that does not exist yet, to disk; or leave none behind."""
        descriptor = os.open(copy.tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode & 0o666)
        try:
            try:
                for chunk in _gathered(itertools.chain([copy.head], content.lf_chunks())):
                    left = memoryview(chunk)
                    while left:
                        left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)  # NFS may say only here that a quota is used up
        except BaseException:
            _remove([copy.tmp])
            raise


class SharedSyncs:
    """Syncs of directories in which several threads put files: one serves all that have asked before it began.

    Only one runs for a directory at a time, and those who ask meanwhile share the next one.
    """

    def __init__(self, sync: Callable[[str], None]) -> None:
        self._sync = sync
        self._lock = threading.Lock()
        self._running: dict[str, Future[None]] = {}
        self._coming: dict[str, Future[None]] = {}

    def sync(self, directory: str) -> None:
        """Return when what is in the directory now is on disk. Raises OSError."""
        mine: Future[None] = Future()
        with self._lock:
            shared = self._coming.setdefault(directory, mine)
            earlier = self._running.get(directory)
        if shared is not mine:
            shared.result()
            return
        if earlier is not None:
            wait([earlier])
        with self._lock:
            self._running[directory] = self._coming.pop(directory)
        try:
            self._sync(directory)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(None)
        finally:
            with self._lock:
                if self._running.get(directory) is mine:
                    del self._running[directory]


@dataclass(frozen=True, slots=True)
class _Copy:
    folder: str
    name: str
    recipients: tuple[Mailbox, ...]
    head: bytes

    @property
    def tmp(self) -> str:
        return f"{self.folder}/tmp/{self.name}"  # noqa: S108 - of a Maildir

    @property
    def new(self) -> str:
        return f"{self.folder}/new/{self.name}"


class _NoFolderError(Exception):
    """A recipient whose address makes no directory name."""


def _check_subdir(subdir: str) -> str:
    letters = _SUBSTITUTION.findall(subdir)
    if not {"l", "d", "u"}.intersection(letters) or not {"l", "d", "u", "%"}.issuperset(letters):
        raise ValueError(f"SUBDIR {subdir!r} must hold %l, %d or %u, and no % but these and %%")
    if not {"", ".", ".."}.isdisjoint(subdir.split("/")):
        raise ValueError(f"SUBDIR {subdir!r} must be names with single slashes between them")
    return subdir


def _size_within_quota(copy: _Copy) -> int:
    """The size of a copy that is written. Raises OSError if its Maildir has no room for it."""
    size = os.stat(copy.tmp).st_size
    if not has_room(copy.folder, size):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), copy.folder)
    return size


def _make_directory(path: str, mode: int) -> None:
    """Make a directory and those above it, each written to disk."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_directory(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):  # else another thread was first
            raise
    _sync_directory(parent)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a filesystem that does not know this
            raise
    finally:
        os.close(descriptor)


def _gathered(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces: each call of the system lets another thread go first."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _link(old: str, new: str) -> None:
    """Give a file its final name, and never overwrite one."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.exists(new):
            raise
        os.rename(old, new)  # some network and container filesystems have no hard links


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)
