"""Settings from a web server.

For a setting its name is put behind each URL in turn, and the first server that answers
200 with at least one value decides; where none does, the file in the config directory
counts. With the line below `me` is asked for at `http://localhost/smtpd/me`, then at
`https://config.example/qp?name=me`. Of an answer the lines are stripped, and empty ones
and those that begin with `#` left out. Proxies and redirects are not followed.

`plugins`, `logging` and `plugin_dirs` are read from files in any case, and so is whatever
is asked for before this plugin is loaded: put it first.

Arguments: one or more URLs, http or https, then if you like
- `cache`: seconds that an answer is kept, 300 by default; that there is none is kept too,
- `retry`: seconds that a server is left alone which cannot be reached or is too slow, 60
  by default; until then its settings are those of the next one, or of the files,
- `timeout`: seconds that a server has to answer, 2 by default. All sessions may have to
  wait for it, so use servers that are near.

Result: OK with the values, or DECLINED. An answer of more than 1 MiB counts as none.

In config/plugins, first of all:

    http_config http://localhost/smtpd/ https://config.example/qp?name= cache 60
"""

import itertools
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import cast

from qpsmtpd import DECLINED, LOGDEBUG, LOGWARN, OK, Plugin, Result, Site, Transaction
from qpsmtpd.config import values_in
from qpsmtpd.plugins._options import seconds

_SIZE_LIMIT = 1 << 20  # octets in an answer
_PIECE = 1 << 16
_MOST_SETTINGS = 1000  # names are the plugins', but nothing keeps one from making them up


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found for a setting, values or none, and until when that holds."""

    values: tuple[str, ...]
    until: float


class HttpConfig(Plugin):
    """Settings from a web server."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments."""
        self._urls = tuple(itertools.takewhile(lambda word: "://" in word, args))
        options = self.options(args[len(self._urls) :], "cache", "retry", "timeout")
        if not self._urls:
            raise ValueError("the address of a web server is missing, such as http://localhost/smtpd/")
        for url in self._urls:
            _check_url(url)
        self._cache = seconds(options, "cache", 300)
        self._retry = seconds(options, "retry", 60)
        self._timeout = seconds(options, "timeout", 2)
        self._known: dict[str, _Known] = {}
        self._left_alone: dict[str, float] = {}
        """Until when a server is not asked, by its URL."""
        # One that is made by hand knows no other scheme, follows nothing, and raises for no status.
        self._opener = urllib.request.OpenerDirector()
        self._opener.add_handler(urllib.request.HTTPHandler())
        self._opener.add_handler(urllib.request.HTTPSHandler())

    def hook_config(self, transaction: Transaction | None, setting: str) -> Result:
        """Give what is known of the setting; ask only if that is nothing, or old."""
        now = self.qp.clock()
        known = self._known.get(setting)
        if known is None or now >= known.until:
            if len(self._known) >= _MOST_SETTINGS:
                self._known.clear()
            known = self._known[setting] = self._look_up(setting, now)
        return (OK, *known.values) if known.values else DECLINED

    def _look_up(self, setting: str, now: float) -> _Known:
        """Ask one server after another. If one has failed, what was found holds for a shorter time."""
        keep, failed = self._cache, min(self._cache, self._retry)
        for url in self._urls:
            if now < self._left_alone.get(url, now):
                keep = failed
                continue
            try:
                body = self._fetch(url + urllib.parse.quote(setting, safe=""))
                values = values_in(body.decode("utf-8", "surrogateescape"))
            except OSError as error:
                self._left_alone[url] = now + self._retry
                self.log(LOGWARN, f"error, {setting} from {url}: {error}; leaving it alone for {self._retry:g} s")
                keep = failed
            except (HTTPException, ValueError) as error:
                self.log(LOGWARN, f"error, {setting} from {url}: {error!r}")
                keep = failed
            else:
                if values:
                    self.log(LOGDEBUG, f"pass, {setting} from {url}")
                    return _Known(values, now + keep)
        self.log(LOGDEBUG, f"skip, {setting}")
        return _Known((), now + keep)

    def _fetch(self, url: str) -> bytes:
        """The body of a whole answer with the status 200; nothing for another status.

        Raises OSError if the server cannot be reached or is too slow, and HTTPException or
        ValueError if it makes no sense.
        """
        deadline = self.qp.clock() + self._timeout  # the time-out of a socket begins again with every octet
        with cast("HTTPResponse", self._opener.open(url, timeout=self._timeout)) as answer:
            if answer.status != 200:
                return b""
            body = bytearray()
            while piece := answer.read1(_PIECE):
                body += piece
                if len(body) > _SIZE_LIMIT:
                    raise ValueError(f"more than {_SIZE_LIMIT} octets")
                if self.qp.clock() > deadline:
                    raise TimeoutError(f"more than {self._timeout:g} s")
            if answer.length:
                raise IncompleteRead(bytes(body), answer.length)
        return bytes(body)


def _check_url(url: str) -> None:
    """Raises ValueError for what is no URL to ask at."""
    parts = urllib.parse.urlsplit(url)
    usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not usable or "@" in parts.netloc or not url.isascii():
        raise ValueError(f"{url} is no address of a web server, such as http://localhost/smtpd/")
