"""What `ident/geoip` finds in databases, and what it makes of broken ones."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))

import mmdb

from qpsmtpd.config import ConfigError
from qpsmtpd.testing import Kit

VIENNA = {
    "continent": {"code": "EU"}, "country": {"iso_code": "AT", "names": {"en": "Austria"}},
    "city": {"names": {"en": "Vienna"}}, "location": {"latitude": 48.2, "longitude": 16.37},
}  # fmt: skip
SYDNEY = {
    "continent": {"code": "OC"}, "country": {"iso_code": "AU", "names": {"en": "Australia"}},
    "city": {"names": {"en": "S\xeddney"}}, "location": {"latitude": -33.87, "longitude": 151.21},
}  # fmt: skip
CITIES = {"192.0.2.0/24": VIENNA, "203.0.113.0/24": SYDNEY, "2001:db8::/32": VIENNA, "198.51.100.7/32": {"city": "?"}}
NETWORKS = {"192.0.2.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "Example Net"}}


@pytest.fixture
def databases(tmp_path):
    def databases(**files):
        for kind, networks in files.items():
            content = networks if isinstance(networks, bytes) else mmdb.database(networks)
            (tmp_path / f"GeoLite2-{kind}.mmdb").write_bytes(content)
        return f"ident/geoip db_dir {tmp_path}"

    return databases


def notes(client):
    return {name[6:]: value for name, value in client.connection.notes.items() if name.startswith("geoip_")}


def test_where_a_client_is_stands_in_notes_and_in_the_log(kit, databases):
    stage = kit(databases(City=CITIES, ASN=NETWORKS))
    assert notes(stage.connect("192.0.2.7")) == {
        "continent": "EU", "country": "AT", "country_name": "Austria", "city": "Vienna", "asn": "64496",
        "organization": "Example Net",
    }  # fmt: skip
    assert stage.logged("ident::geoip: EU, AT, Vienna, AS64496\n")
    assert notes(stage.connect("2001:db8::9"))["country"] == "AT"


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1", "198.18.0.1", "198.51.100.7"])
def test_of_others_nothing_is_known(kit, databases, ip):
    assert notes(kit(databases(City=CITIES)).connect(ip)) == {}


def test_the_country_comes_from_its_own_database_where_there_is_no_city(kit, databases):
    line = databases(City={"192.0.2.0/25": VIENNA}, Country={"192.0.2.0/24": SYDNEY})
    stage = kit(line)
    assert notes(stage.connect("192.0.2.7"))["country"] == "AT"
    assert notes(stage.connect("192.0.2.200"))["country"] == "AU"


def test_who_is_too_far_away_has_bad_karma(kit, databases):
    stage = kit(databases(City=CITIES) + " distance 192.0.2.1 too_far 6000")
    near, far = stage.connect("192.0.2.7"), stage.connect("203.0.113.7")
    assert (notes(near)["distance"], near.connection.notes.get("karma")) == (0, None)
    assert 15_900 < notes(far)["distance"] < 16_100  # Vienna to Sydney
    assert far.connection.notes["karma"] == -1
    assert stage.logged(" km\n")


def test_messages_say_where_they_come_from_and_nobody_else_does(kit, databases, tmp_path):
    line = databases(City=CITIES, ASN=NETWORKS)
    stage = kit(line, f"queue/maildir {tmp_path}/mail")
    forged = b"X-GeoIP-Country: ZZ\r\nX-GeoIP-ASN: 1\r\nSubject: hi\r\n\r\n\r\n"
    assert stage.connect("203.0.113.7").deliver(forged)[-1].code == 250
    (path,) = (tmp_path / "mail" / "new").iterdir()
    text = path.read_bytes()
    assert b"\nX-GeoIP-Country: AU\n" in text
    assert b"\nX-GeoIP-City: =?utf-8?" in text
    assert b"ZZ" not in text
    assert b"ASN" not in text
    assert (
        kit(line + " add_headers false", f"queue/maildir {tmp_path}/two").connect("203.0.113.7").deliver()[-1].code
        == 250
    )
    (path,) = (tmp_path / "two" / "new").iterdir()
    assert b"GeoIP" not in path.read_bytes()


def test_a_database_that_is_replaced_is_opened_again(kit, databases, tmp_path):
    stage = kit(databases(City={"192.0.2.0/24": VIENNA}))
    (tmp_path / "new").write_bytes(mmdb.database({"192.0.2.0/24": SYDNEY, "2001:db8::/32": SYDNEY}))
    (tmp_path / "new").rename(tmp_path / "GeoLite2-City.mmdb")
    assert notes(stage.connect("192.0.2.7"))["country"] == "AT"
    stage.clock.advance(61)
    assert notes(stage.connect("192.0.2.7"))["country"] == "AU"
    assert stage.logged("GeoLite2-City.mmdb is new")


def test_a_broken_new_database_leaves_the_old_one(kit, databases, tmp_path):
    stage = kit(databases(City={"192.0.2.0/24": VIENNA}))
    (tmp_path / "new").write_bytes(b"no database")
    (tmp_path / "new").rename(tmp_path / "GeoLite2-City.mmdb")
    stage.clock.advance(61)
    assert notes(stage.connect("192.0.2.7"))["country"] == "AT"
    assert stage.logged("going on with the old one")


def test_a_database_that_is_broken_inside_costs_nobody_mail(kit, databases):
    content = mmdb.database({"192.0.2.0/24": VIENNA}).replace(mmdb.encode("continent"), b"\xff" * 10)
    stage = kit(databases(City=content))
    assert stage.connect("192.0.2.7").replies.startswith(b"220 ")
    assert stage.logged("ident::geoip: error, City: ")


@given(record=st.recursive(st.text(max_size=20) | st.integers(0, 1 << 31) | st.floats(allow_nan=True), lambda inner: st.dictionaries(
    st.sampled_from(["continent", "country", "city", "location", "code", "iso_code", "names", "en", "latitude", "longitude"]), inner
), max_leaves=12))  # fmt: skip
def test_any_record_is_a_place_or_none(tmp_path_factory, record):
    directory = tmp_path_factory.mktemp("geo")
    files = {"192.0.2.0/24": VIENNA, "203.0.113.0/24": record if isinstance(record, dict) else {"location": record}}
    (directory / "GeoLite2-City.mmdb").write_bytes(mmdb.database(files))
    stage = Kit(f"ident/geoip db_dir {directory} distance 192.0.2.1 too_far 5")
    assert stage.connect("203.0.113.7").replies.startswith(b"220 ")
    assert not stage.logged("Traceback")
    assert not stage.logged("error,")


@pytest.mark.parametrize(
    ("args", "text"),
    [("distance x", "is no IP address"), ("distance 198.18.0.1", "does not know where"), ("too_far 5", "needs the argument"),
     ("distance 192.0.2.1 too_far -1", "no number of kilometres"), ("add_headers perhaps", "neither yes nor no")],
)  # fmt: skip
def test_bad_arguments_are_seen_at_load(kit, databases, args, text):
    with pytest.raises(ConfigError, match=f"plugins:1: ident/geoip: .*{text}"):
        kit(f"{databases(City=CITIES)} {args}")


def test_missing_and_broken_databases_are_seen_at_load(kit, databases, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no database such as GeoLite2-City\.mmdb in"):
        kit(f"ident/geoip db_dir {tmp_path}")
    with pytest.raises(ConfigError, match=r"GeoLite2-ASN\.mmdb cannot be read"):
        kit(databases(ASN=b"nonsense"))
    with pytest.raises(ConfigError, match="needs the database GeoLite2-City"):
        kit(databases(ASN=NETWORKS) + " distance 192.0.2.1")
