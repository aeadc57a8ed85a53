"""The domains that a message says it comes from, for the plugins that ask whether that is true."""

import re
from collections.abc import Iterator

from qpsmtpd.session.message import Header

__all__ = ["ascii_domain", "author_domain"]

_LONGEST_NAME = 253  # RFC 1035 section 2.3.4, as text
_LONGEST_FROM = 10_000

_LABEL = r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")

_OUTSIDE = re.compile(r'[^"(\\]+|"(?:[^"\\]|\\.)*+"?|\\.?|\(', re.DOTALL)
_IN_COMMENT = re.compile(r"[^()\\]+|\\.?|[()]", re.DOTALL)
_ELEMENT = re.compile(r"(?:<[^<>]*>?|[^,;:<])+")
_IN_ANGLES = re.compile(r"<([^<>]*)")


def ascii_domain(text: str) -> str:
    """A domain as the DNS knows it: lower case, A-labels (RFC 5890), no last dot; empty for what is none.

    It holds letters, digits, `-`, `_` and single dots only, and is fit for a header field or a path.
    """
    domain = text.lower().removesuffix(".")
    if len(domain) <= _LONGEST_NAME and not domain.isascii():
        import idna  # noqa: PLC0415 - comes with the extra dns

        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except UnicodeError:
            return ""
    return domain if len(domain) <= _LONGEST_NAME and _DOMAIN.fullmatch(domain) else ""


def author_domain(header: Header) -> str:
    """The domain of the authors: that of all addresses in the only From field.

    Raises ValueError where there is not exactly one such domain; the text says why.
    """
    fields = header.get_all("From")
    if len(fields) != 1:
        raise ValueError(f"there are {len(fields)} From fields" if fields else "there is no From field")
    if len(fields[0]) > _LONGEST_FROM:
        raise ValueError("the From field is too long")
    domains = {ascii_domain(domain) for domain in _written_domains(fields[0])}
    if len(domains) != 1:
        raise ValueError("the From field names several domains" if domains else "the From field names no domain")
    domain = domains.pop()
    if not domain:
        raise ValueError("the From field names a domain that cannot exist")
    return domain


def _written_domains(value: str) -> Iterator[str]:
    """What stands behind the `@` of each address (RFC 5322 section 3.4); display names do not count."""
    for element in _ELEMENT.findall(_bare(value)):
        for address in _IN_ANGLES.findall(element) or [element]:
            _, at, domain = address.rpartition("@")
            if at:
                yield domain.strip()


def _bare(value: str) -> str:
    """A field body without its comments, which nest, and without quoted text."""
    kept: list[str] = []
    depth = place = 0
    while place < len(value):
        match = (_IN_COMMENT if depth else _OUTSIDE).match(value, place)
        assert match is not None  # together the alternatives match anything
        piece, place = match[0], match.end()
        if piece == "(":
            depth += 1
        elif depth:
            depth -= piece == ")"
        elif piece[0] not in '"\\':
            kept.append(piece)
    return "".join(kept)
