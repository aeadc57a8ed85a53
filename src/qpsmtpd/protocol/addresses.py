"""Mail addresses: paths, mailboxes and domains (RFC 5321 section 4.1.2, RFC 6531).

`parse_path` is total: any text gives a `Mailbox` or a `SyntaxProblem`.

Three liberties are taken, all of them the original's: a source route is read and dropped
(RFC 5321 appendix C), `<postmaster>` needs no domain, and blanks inside an unquoted local
part are let pass (old clients forget the quotes; printing puts them back). Lengths have no
limit of their own: the command line has one, and RFC 5321 section 4.5.3.1 asks for no other.
"""

import ipaddress
import re
from dataclasses import dataclass, field
from functools import lru_cache

from qpsmtpd.protocol.errors import SyntaxProblem
from qpsmtpd.protocol.replies import Reply

__all__ = ["NULL_PATH", "Mailbox", "parse_path"]

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_UTF8 = r"\u00a1-\ud7ff\ue000-\U0010ffff"
_ATOM = rf"[{_ATEXT}{_UTF8}]+"
_LABEL = rf"[A-Za-z0-9{_UTF8}](?:[A-Za-z0-9{_UTF8}\-]*[A-Za-z0-9{_UTF8}])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"

_PLAIN_LABEL = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
_PLAIN = re.compile(rf"<([{_ATEXT}]++(?:\.[{_ATEXT}]++)*+)@({_PLAIN_LABEL}(?:\.{_PLAIN_LABEL})*+)>")
_PATH = re.compile(
    rf"<(?:@{_DOMAIN}(?:,@?{_DOMAIN})*:)?"
    rf"(?:(?P<dots>{_ATOM}(?:[. ]+{_ATOM})*)|\"(?P<quoted>(?:[^\"\\\x00-\x1f\x7f-\x9f\ud800-\udfff]|\\[ -~])*)\")"
    rf"@(?:(?P<domain>{_DOMAIN})|\[(?P<literal>[^\[\]\\]*)\])>"
)
_NULL = re.compile(rf"<(?:@{_DOMAIN}(?:,@?{_DOMAIN})*:)?>")
_BAD_DOTS = re.compile(r"\.\s*\.")
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_SPECIAL = re.compile(rf"[^{_ATEXT}.\u0080-\U0010ffff]")  # a quoted pair is ASCII
_QUOTED_PAIR = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, init=False)
class Mailbox:
    """A mailbox, or the null reverse-path (`NULL_PATH`, which is false).

    `local_part` holds the text itself, without quotes; `domain` is None only for the null
    path and for `<postmaster>`. An address literal keeps its brackets.
    """

    local_part: str
    domain: str | None
    _notes: dict[str, object] = field(init=False, compare=False, repr=False)  # once somebody asks for them

    def __init__(self, local_part: str, domain: str | None) -> None:
        _set_local_part(self, local_part)
        _set_domain(self, domain)

    def __bool__(self) -> bool:
        return bool(self.local_part) or self.domain is not None

    @property
    def notes(self) -> dict[str, object]:
        """Whatever plugins keep about this address, for as long as the mail transaction lasts."""
        try:
            return self._notes
        except AttributeError:
            object.__setattr__(self, "_notes", {})
            return self._notes

    @property
    def user(self) -> str:
        """The local part, by the name the original gives it."""
        return self.local_part

    @property
    def host(self) -> str | None:
        """The domain, by the name the original gives it."""
        return self.domain

    @property
    def address(self) -> str:
        """`local-part@domain` as people write it: no brackets, no quotes; empty if null."""
        return self.local_part if self.domain is None else f"{self.local_part}@{self.domain}"

    @property
    def path(self) -> str:
        """The canonical path with brackets, quoted where it must be (RFC 5321 section 4.1.2)."""
        return _printed(self.local_part, self.domain)

    def __str__(self) -> str:
        return self.path

    def __lt__(self, other: "Mailbox") -> bool:
        """By domain, then by local part, as the original sorts."""
        return (self.domain or "", self.local_part) < (other.domain or "", other.local_part)

    @property
    def is_ascii(self) -> bool:
        """Whether the address may be sent without SMTPUTF8."""
        return self.local_part.isascii() and (self.domain is None or self.domain.isascii())


# One is made for each MAIL and RCPT; the __init__ of a frozen dataclass takes twice the time.
_set_local_part, _set_domain = vars(Mailbox)["local_part"].__set__, vars(Mailbox)["domain"].__set__

NULL_PATH = Mailbox("", None)
"""The null reverse-path `<>` of bounces (RFC 5321 section 4.5.5)."""

_MALFORMED = SyntaxProblem(Reply(501, "5.1.3", "Syntax error in the address"))


def parse_path(text: str) -> Mailbox | SyntaxProblem:
    """Read a path in angle brackets, such as `<user@example.org>`.

    Whether UTF-8 is allowed is for the caller to judge, by `Mailbox.is_ascii`.
    """
    parts = _parts(text)
    return parts if isinstance(parts, SyntaxProblem) else Mailbox(*parts)


@lru_cache(1024)  # a server hears the same addresses again and again
def _parts(text: str) -> tuple[str, str | None] | SyntaxProblem:
    """Local part and domain of a path."""
    plain = _PLAIN.fullmatch(text)  # nearly every address is of this form
    if plain is not None:
        return plain[1], plain[2]
    if _NULL.fullmatch(text):
        return "", None
    if text.lower() == "<postmaster>":
        return "postmaster", None
    match = _PATH.fullmatch(text)
    if match is None:
        return _MALFORMED
    local, quoted, domain, literal = match["dots"], match["quoted"], match["domain"], match["literal"]
    if quoted is not None:
        local = _QUOTED_PAIR.sub(r"\1", quoted)
    elif _BAD_DOTS.search(local):
        return _MALFORMED
    if literal is not None:
        domain = f"[{literal}]"
        if not _is_address_literal(literal):
            return _MALFORMED
    return local, domain


@lru_cache(1024)
def _printed(local: str, domain: str | None) -> str:
    if domain is None:
        return f"<{local}>"
    if not _DOT_STRING.fullmatch(local):
        local = '"' + _SPECIAL.sub(r"\\\g<0>", local) + '"'
    return f"<{local}@{domain}>"


def _is_address_literal(literal: str) -> bool:
    """RFC 5321 section 4.1.3. General address literals have no registered tag but IPv6."""
    try:
        if literal[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(literal[5:])
            return "%" not in literal
        ipaddress.IPv4Address(literal)
    except ValueError:
        return False
    return True
