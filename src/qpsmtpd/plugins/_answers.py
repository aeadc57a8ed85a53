"""What lines of lists say about a recipient: a return code, and a text for the client."""

from collections.abc import Mapping

from qpsmtpd import DECLINED, DENY, DENY_DISCONNECT, DENYSOFT, DENYSOFT_DISCONNECT, OK, ReturnCode

__all__ = ["Answer", "parse_answer"]

Answer = tuple[ReturnCode, *tuple[str, ...]]

_CODES: Mapping[str, ReturnCode] = {
    code.name: code for code in (OK, DECLINED, DENY, DENYSOFT, DENY_DISCONNECT, DENYSOFT_DISCONNECT)
} | {"DENYHARD": DENY_DISCONNECT}  # its old name


def parse_answer(words: str) -> Answer:
    """Read a return code and, if there is one, the text behind it. Raises ValueError."""
    code, text = (*words.split(None, 1), "", "")[:2]
    if code.upper() not in _CODES:
        raise ValueError(f"{code!r} is no return code; known are {', '.join(_CODES)}")
    return (_CODES[code.upper()], text) if text else (_CODES[code.upper()],)
