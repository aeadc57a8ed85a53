"""Answers for the recipients of one domain by a map of all its addresses.

A line of the map is an address, a return code, and the text for the client if you like:

    me@example.org       OK
    info@example.org     DENY      this address is not used any more
    ann@example.org      DENYSOFT  moving house, try again tomorrow

Case does not count. The codes are OK (the recipient is accepted, whatever plugins behind
this one say), DECLINED (they decide), DENY, DENYSOFT, DENY_DISCONNECT and
DENYSOFT_DISCONNECT. Empty lines and those that begin with `#` are left out, and so is,
with a message in the log, a line that makes no sense. A map that has changed is read
again; if that fails, or nothing is in it, the log says so and the old one stays.
Recipients elsewhere are none of this plugin's business.

Arguments:
- `domain`: the domain. For several load the plugin several times: `rcpt_map:0`, `rcpt_map:1`.
- `file`: the map, relative to the config directory.
- `default`: the answer for the addresses of the domain that are not in the map, as
  `CODE` or `CODE=TEXT`, with `_` for blanks. By default `DENY=No_such_user`.

Result: what the line says, or the default; DECLINED for another domain.

In config/plugins, before rcpt_ok:

    rcpt_map domain example.org file map_example_org default DENY=Nobody_of_that_name
"""

from collections.abc import Mapping
from pathlib import Path

from qpsmtpd import (
    DECLINED,
    LOGDEBUG,
    LOGERROR,
    LOGINFO,
    OK,
    Mailbox,
    Parameters,
    Plugin,
    Site,
    Transaction,
    dsn,
)
from qpsmtpd.config import fingerprint, values_in
from qpsmtpd.plugins._answers import Answer, parse_answer
from qpsmtpd.plugins._lists import parse_values
from qpsmtpd.session.effects import CallBlocking, Effects


class RcptMap(Plugin):
    """Answers for the recipients of one domain by a map of all its addresses."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments and the map."""
        options = self.options(args, "domain", "file", "default")
        for name in ("domain", "file"):
            if not options.get(name):
                raise ValueError(f"the argument {name} is missing")
        self._domain = options["domain"].lower()
        self._path = (qp.settings.directory or Path()) / Path(options["file"]).expanduser()
        code, _, text = options.get("default", "DENY").partition("=")
        self._default = _about_user(parse_answer(f"{code} {text.replace('_', ' ')}"))
        self._seen = fingerprint(self._path)
        try:
            self._map = self._read()
        except OSError as error:
            raise ValueError(f"{self._path}: {error.strerror}") from error

    def hook_rcpt(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Effects:
        """Look the recipient up, in the map as it is now."""
        if (recipient.domain or "").lower() != self._domain:
            self.log(LOGDEBUG, "skip, another domain")
            return DECLINED
        if fingerprint(self._path) != self._seen:
            yield CallBlocking(self._read_again, self.qp.number("timeouthook"))
        found = self._map.get(recipient.address.lower())
        answer = found or self._default
        word = "pass" if answer[0] in (OK, DECLINED) else "fail"
        self.log(LOGINFO, f"{word}, {answer[0].name}, {'in' if found else 'not in'} the map")
        return answer

    def _read_again(self) -> None:
        self._seen = fingerprint(self._path)  # first, so that one session reads, and others go on meanwhile
        try:
            self._map = self._read()
        except (OSError, ValueError) as error:
            self.log(LOGERROR, f"error, {error}; the old map stays")

    def _read(self) -> Mapping[str, Answer]:
        """The map. Raises OSError, and ValueError if there is nothing in it."""
        values = values_in(self._path.read_text("utf-8", "surrogateescape"))
        answers = dict(parse_values(self, f"{self._path}", values, _parse_line))
        if not answers:
            raise ValueError(f"{self._path} names no address")
        return answers


def _parse_line(line: str) -> tuple[str, Answer]:
    address, words = (*line.split(None, 1), "", "")[:2]
    if "@" not in address:
        raise ValueError("there is no address at its beginning")
    return address.lower(), _about_user(parse_answer(words))


def _about_user(answer: Answer) -> Answer:
    """The answer, with a text if it is a refusal."""
    code, *texts = answer
    return answer if texts or code in (OK, DECLINED) else dsn.no_such_user(code)
