"""Finds out where a client is on the globe, by databases of MaxMind (GeoLite2, GeoIP2).

The plugin refuses nobody: it leaves notes for other plugins, writes a line such as
`EU, AT, Vienna, AS64496, 8745 km` to the log, and adds header fields to messages. Local clients
are not looked up.

Databases: of each kind the first of `GeoLite2-KIND.mmdb` and `GeoIP2-KIND.mmdb`, where
KIND is City, Country or ASN. One of them is enough. Country is only asked what City does not know. A file
that is replaced is opened again within a minute; replace it by renaming a new one, as
geoipupdate does, since a file that is overwritten while it is in use may end the server.

Arguments:
- `db_dir DIRECTORY`: where the databases are; by default the first of
  /usr/local/share/GeoIP, /usr/share/GeoIP and /var/lib/GeoIP that has one.
- `distance ADDRESS`: the public IP address of this server; the distance to clients is then
  found out as well. It needs City.
- `too_far KILOMETRES`: a client that is farther away has its karma lowered by 1.
- `add_headers false`: add no header fields.

Notes of the connection, each where it is known: `geoip_country` (two letters),
`geoip_country_name`, `geoip_continent` (two letters), `geoip_city`, `geoip_asn` (the
number as text), `geoip_organization` (whose network that is) and `geoip_distance` (kilometres).

Header fields: X-GeoIP-Country, X-GeoIP-Continent, X-GeoIP-City and X-GeoIP-ASN, on top of each
message at `data_post`. Fields of these names that came with it are removed.

Result: DECLINED. What is wrong with a database while the server runs is logged, and the client goes on.

Needs maxminddb: `pip install 'qpsmtpd[geoip]'`.

In config/plugins:

    ident/geoip distance 192.0.2.1 too_far 6000
"""

import math
from collections.abc import Callable, Mapping
from email.header import Header
from pathlib import Path
from typing import Any, Protocol, cast

import maxminddb

from qpsmtpd import DECLINED, LOGERROR, LOGINFO, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.config import fingerprint
from qpsmtpd.plugins._options import flag
from qpsmtpd.session.connection import is_ipv6

_DIRECTORIES = ("/usr/local/share/GeoIP", "/usr/share/GeoIP", "/var/lib/GeoIP")
_KINDS = ("City", "Country", "ASN")
_EDITIONS = ("GeoLite2", "GeoIP2")
_FIELDS = ("Country", "Continent", "City", "ASN")
_RECHECK = 60.0  # seconds between two looks at a database file
_EARTH = 6378.0  # kilometres

# Its own type says less.
_open_database = cast("Callable[[str], _Reader]", maxminddb.open_database)  # pyright: ignore[reportUnknownMemberType]

_Place = tuple[float, float]  # latitude and longitude, degrees


class GeoIp(Plugin):
    """Finds out where a client is on the globe, by databases of MaxMind (GeoLite2, GeoIP2)."""

    def register(self, qp: Site, *args: str) -> None:
        """Open the databases. Raises ValueError."""
        options = self.options(args, "db_dir", "distance", "too_far", "add_headers")
        add_fields = flag(options, "add_headers", default=True)
        self._too_far = _kilometres(options)
        self._databases = self._open(_directory(options.get("db_dir", "")))
        self._here = self._place_of(options["distance"]) if "distance" in options else None
        if add_fields:
            self.register_hook("data_post", self.add_fields)

    def _open(self, directory: Path) -> Mapping[str, "_Database"]:
        found = {kind: _file_of(directory, kind) for kind in _KINDS}
        return {kind: _Database(path, self) for kind, path in found.items() if path is not None}

    def _place_of(self, address: str) -> _Place:
        """Where this server is. Raises ValueError if nobody knows."""
        if not self.is_valid_ip(address):
            raise ValueError(f"distance {address!r} is no IP address")
        if "City" not in self._databases:
            raise ValueError("distance needs the database GeoLite2-City.mmdb")
        place = _place(self._databases["City"].find(address))
        if place is None:
            raise ValueError(f"distance: the database does not know where {address} is")
        return place

    @blocking
    def hook_connect(self, transaction: Transaction) -> Result:
        """Look the client up, and leave notes."""
        address = self.connection.remote_ip
        if self.is_localhost(address) or not self.is_valid_ip(address):
            return DECLINED
        place = self._find("City", address)
        network = self._find("ASN", address)
        country = place if _at(place, "country") else self._find("Country", address)
        notes = {
            "geoip_continent": _text(country, "continent", "code"),
            "geoip_country": _text(country, "country", "iso_code"),
            "geoip_country_name": _text(country, "country", "names", "en"),
            "geoip_city": _text(place, "city", "names", "en"),
            "geoip_asn": _text(network, "autonomous_system_number"),
            "geoip_organization": _text(network, "autonomous_system_organization"),
        }
        self.connection.notes.update((name, text) for name, text in notes.items() if text)
        shown = [notes[name] for name in ("geoip_continent", "geoip_country", "geoip_city")]
        shown += [f"AS{notes['geoip_asn']}" if notes["geoip_asn"] else "", self._measure(_place(place))]
        self.log(LOGINFO, ", ".join(filter(None, shown)) or "skip, no results")
        return DECLINED

    def _find(self, kind: str, address: str) -> object:
        database = self._databases.get(kind)
        try:
            return database.find(address) if database is not None else None
        except Exception as error:  # noqa: BLE001 - the library raises anything for a file that is broken inside
            self.log(LOGERROR, f"error, {kind}: {type(error).__name__}: {error}")
            return None

    def _measure(self, place: _Place | None) -> str:
        """Note how far away the client is, and what that means; give it as a text."""
        if place is None or self._here is None:
            return ""
        distance = round(_distance(self._here, place))
        self.connection.notes["geoip_distance"] = distance
        if distance > self._too_far:
            self.adjust_karma(-1)
        return f"{distance} km"

    def add_fields(self, transaction: Transaction) -> Result:
        """Serve the hook data_post."""
        for name in _FIELDS:
            transaction.header.delete(f"X-GeoIP-{name}")
            text = str(self.connection.notes.get(f"geoip_{name.lower()}") or "")
            if text:
                transaction.header.add(f"X-GeoIP-{name}", _encoded(text), 0)
        return DECLINED


class _Reader(Protocol):
    """What is used of `maxminddb.Reader`."""

    def get(self, ip_address: str) -> object: ...

    def metadata(self) -> Any: ...


class _Database:
    """A database file, opened again when it has been replaced."""

    def __init__(self, path: Path, plugin: Plugin) -> None:
        """Raises ValueError if the file is no database."""
        self._path = path
        self._plugin = plugin
        self._looked = plugin.qp.clock()
        self._state = fingerprint(path)
        self._reader = self._open()

    def _open(self) -> tuple[_Reader, int]:
        """What reads the file, and the version of IP that it knows at most."""
        try:
            reader = _open_database(str(self._path))
            return reader, int(reader.metadata().ip_version)
        except Exception as error:  # the library raises anything for what is no database
            raise ValueError(f"{self._path} cannot be read: {type(error).__name__}: {error}") from error

    def find(self, address: str) -> object:
        """The record for an address, or None; the library may raise anything."""
        now = self._plugin.qp.clock()
        if now - self._looked >= _RECHECK:
            self._looked = now
            self._look_again()
        reader, version = self._reader
        return reader.get(address) if version == 6 or not is_ipv6(address) else None

    def _look_again(self) -> None:
        state = fingerprint(self._path)
        if state in (None, self._state):  # it may be between two files
            return
        self._state = state
        try:
            # Other threads may still use the old one: it is closed when the last of them has let it go.
            self._reader = self._open()
        except ValueError as error:
            self._plugin.log(LOGERROR, f"error, {error}; going on with the old one")
        else:
            self._plugin.log(LOGINFO, f"{self._path} is new")


def _directory(named: str) -> Path:
    """Where the databases are. Raises ValueError."""
    for directory in map(Path, (named,) if named else _DIRECTORIES):
        if any(_file_of(directory, kind) for kind in _KINDS):
            return directory
    where = named or ", ".join(_DIRECTORIES)
    raise ValueError(f"there is no database such as GeoLite2-City.mmdb in {where}; see the argument db_dir")


def _file_of(directory: Path, kind: str) -> Path | None:
    files = (directory / f"{edition}-{kind}.mmdb" for edition in _EDITIONS)
    return next(filter(Path.is_file, files), None)


def _kilometres(options: Mapping[str, str]) -> float:
    """The argument `too_far`, endless by default. Raises ValueError."""
    if "too_far" not in options:
        return math.inf
    try:
        far = float(options["too_far"])
    except ValueError:
        far = -1.0
    if not 0 < far < math.inf:
        raise ValueError(f"too_far {options['too_far']!r} is no number of kilometres above 0")
    if "distance" not in options:
        raise ValueError("too_far needs the argument distance")
    return far


# Records: whatever a file holds, nothing in it may make trouble.


def _at(record: object, *path: str) -> object:
    for key in path:
        record = cast("dict[str, object]", record).get(key) if isinstance(record, dict) else None
    return record


def _text(record: object, *path: str) -> str:
    value = _at(record, *path)
    return str(value) if isinstance(value, str | int) else ""


def _place(record: object) -> _Place | None:
    latitude, longitude = _at(record, "location", "latitude"), _at(record, "location", "longitude")
    if not isinstance(latitude, float | int) or not isinstance(longitude, float | int):
        return None
    return (latitude, longitude) if math.isfinite(latitude) and math.isfinite(longitude) else None


def _distance(here: _Place, there: _Place) -> float:
    """Kilometres along a great circle, by the haversine formula."""
    (north, east), (other_north, other_east) = (tuple(map(math.radians, place)) for place in (here, there))
    chord = math.sin((other_north - north) / 2) ** 2
    chord += math.cos(north) * math.cos(other_north) * math.sin((other_east - east) / 2) ** 2
    return 2 * _EARTH * math.asin(math.sqrt(min(max(chord, 0.0), 1.0)))


def _encoded(text: str) -> str:
    """A text as a header field may hold it (RFC 2047)."""
    return text if text.isascii() else Header(text, "utf-8", maxlinelen=10_000).encode()
