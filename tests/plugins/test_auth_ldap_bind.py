"""What `auth/auth_ldap_bind` looks for in a directory, as whom it binds, and what it makes of the answer."""

import contextlib
import socket
import ssl
import sys
import threading

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.ber import decoder, encoder
from tests.plugins.test_auth_plugins import authenticate, ehlo

from qpsmtpd import DECLINED, DENYSOFT, OK
from qpsmtpd.config import ConfigError
from qpsmtpd.plugins.auth import auth_ldap_bind
from qpsmtpd.testing import Kit

rfc4511 = auth_ldap_bind._library().protocol.rfc4511

BASE = "ou=people,dc=example,dc=org"
ENTRIES = {
    f"uid=user,{BASE}": {"uid": "user", "mail": "user@example.org", "password": "s3cret"},
    f"uid=us\u00e9r,{BASE}": {"uid": "us\u00e9r", "mail": "us\u00e9r@example.org", "password": "p\u00e4ss \u2603"},
    f"cn=one,{BASE}": {"uid": "twice", "mail": "one@example.org", "password": "s3cret"},
    f"cn=two,{BASE}": {"uid": "twice", "mail": "two@example.org", "password": "s3cret"},
    f"cn=star,{BASE}": {"uid": "a*(b)\\c", "mail": "star@example.org", "password": "s3cret"},
    "": {"uid": "rootless", "mail": "x@example.org", "password": "s3cret"},
    "cn=searcher": {"password": "searching"},
}  # fmt: skip


class Ldap:
    """A directory on loopback with `ENTRIES`, one client after another."""

    def __init__(self, tls=None, *, implicit=False):
        self.asked = []
        """The requests as (name, what matters of it), and `tls` for a handshake."""
        self.codes = {}
        """Result codes in place of those that should be, by request; None hangs up, octets are sent as they are."""
        self.anonymous_may_search = True
        self._tls, self._implicit = tls, implicit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):  # the listener is shut down
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(5)
                with connection, contextlib.suppress(OSError):
                    self._talk(self._encrypted(connection) if self._implicit else connection)

    def _encrypted(self, connection):
        connection = self._tls.wrap_socket(connection, server_side=True)
        self.asked.append("tls")
        return connection

    def _talk(self, connection):
        bound = ""
        judges = {
            "bindRequest": self._bind, "searchRequest": self._search,
            "extendedReq": self._extend,
        }  # fmt: skip
        with connection, connection.makefile("rwb", buffering=0) as file:
            while frame := _frame(file):
                message, _ = decoder.decode(frame, asn1Spec=rfc4511.LDAPMessage())
                name = message["protocolOp"].getName()
                if name == "unbindRequest":  # nobody waits for it
                    return
                answer, note = judges[name](message["protocolOp"][name], bound)
                self.asked.append((name, note))
                code = self.codes.get(name, answer)
                if code is None:
                    return
                if isinstance(code, bytes):
                    file.write(code)
                    continue
                if name == "bindRequest" and code == 0:
                    bound = note[0]
                if name == "searchRequest" and code == 0:
                    for dn in self._found:
                        entry = rfc4511.SearchResultEntry()
                        entry["object"], entry["attributes"] = dn, rfc4511.PartialAttributeList()
                        file.write(_message(message, "searchResEntry", entry))
                    code = 4 if len(self._found) > 1 else 0
                file.write(_message(message, *_result(name, code)))
                if name == "extendedReq" and code == 0:
                    self._talk(self._encrypted(connection))
                    return

    def _bind(self, request, bound):
        dn, password = str(request["name"]), bytes(request["authentication"]["simple"]).decode()
        right = not password or (dn in ENTRIES and ENTRIES[dn]["password"] == password)
        return 0 if right else 49, (dn, password)

    def _search(self, request, bound):
        match = request["filter"]["equalityMatch"]
        attribute, value = str(match["attributeDesc"]), bytes(match["assertionValue"]).decode()
        self._found = [dn for dn, entry in ENTRIES.items() if entry.get(attribute, "").lower() == value.lower()][:2]
        allowed = self.anonymous_may_search or bound
        return 0 if allowed else 50, (str(request["baseObject"]), attribute, value)

    def _extend(self, request, bound):
        return 0 if self._tls else 2, str(request["requestName"])


def _frame(file):
    """The octets of one message; empty at the end."""
    head = file.read(2)
    if len(head) < 2:
        return b""
    length = head[1]
    if length & 0x80:
        more = file.read(length & 0x7F)
        head, length = head + more, int.from_bytes(more, "big")
    body = b""
    while len(body) < length and (piece := file.read(length - len(body))):
        body += piece
    return head + body


def _result(name, code):
    kind, answer = {
        "bindRequest": ("bindResponse", rfc4511.BindResponse),
        "searchRequest": ("searchResDone", rfc4511.SearchResultDone),
        "extendedReq": ("extendedResp", rfc4511.ExtendedResponse),
    }[name]
    result = answer()
    result["resultCode"], result["matchedDN"], result["diagnosticMessage"] = code, "", ""
    return kind, result


def _message(request, kind, content):
    message = rfc4511.LDAPMessage()
    message["messageID"] = request["messageID"]
    message["protocolOp"] = rfc4511.ProtocolOp().setComponentByName(kind, content)
    return encoder.encode(message)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="module")
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def ldap():
    """Start directories."""
    with contextlib.ExitStack() as stack:

        def ldap(*args, **options):
            server = Ldap(*args, **options)
            stack.callback(server.stop)
            return server

        yield ldap


@pytest.fixture
def load(kit):
    """A kit with the plugin, for a directory."""

    def load(server, words="", host="127.0.0.1", **options):
        port = server if isinstance(server, int) else server.port
        line = f"auth/auth_ldap_bind ldap_host {host} ldap_port {port} ldap_base {BASE} {words}"
        return kit(line, **options)

    return load


def attempt(stage, user="user@example.org", password="s3cret", mechanism="PLAIN"):
    """Try to authenticate; give the reply code, and the plugin's code."""
    reply = authenticate(stage.connect(), mechanism, user, password)
    assert not stage.logged("s3cret")
    return reply.code, stage.calls(f"auth-{mechanism.lower()}")[-1].code


def names(server):
    return [each if isinstance(each, str) else each[0] for each in server.asked]


def test_it_offers_plain_and_login(load):
    assert "AUTH LOGIN PLAIN" in ehlo(load(389))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(
    ("user", "password", "result"),
    [
        ("user@example.org", "s3cret", OK),
        ("USER", "s3cret", OK),
        ("us\u00e9r@example.org", "p\u00e4ss \u2603", OK),
        ("user@example.org", "wrong", DECLINED),
        ("nobody@example.org", "s3cret", DECLINED),
        ("twice@example.org", "s3cret", DECLINED),
        ("rootless@example.org", "s3cret", DECLINED),
        ("*", "s3cret", DECLINED),
        ("u*", "s3cret", DECLINED),
        ("user)(uid=user", "s3cret", DECLINED),
        ("@example.org", "s3cret", DECLINED),
        ("\u00adx\u2028", "s3cret", DECLINED),
    ],
)
def test_who_can_bind_there_is_let_in(ldap, load, user, password, result, mechanism):
    if user == "*":
        mechanism = "PLAIN"  # in LOGIN it is the end of the exchange
    stage = load(ldap())
    assert attempt(stage, user, password, mechanism) == (235 if result is OK else 535, result)
    assert stage.logged("auth::auth_ldap_bind: pass, " if result is OK else "auth::auth_ldap_bind: fail, ")


def test_the_entry_is_looked_for_as_nobody_and_the_bind_is_as_the_entry(ldap, load):
    server = ldap()
    attempt(load(server), "User@example.org")
    assert server.asked == [
        ("bindRequest", ("", "")),
        ("searchRequest", (BASE, "uid", "user")),
        ("bindRequest", (f"uid=user,{BASE}", "s3cret")),
    ]


@pytest.mark.parametrize("user", ["nobody", "twice", "rootless"])
def test_without_one_entry_there_is_no_bind(ldap, load, user):
    server = ldap()
    attempt(load(server), user)
    assert names(server) == ["bindRequest", "searchRequest"]


def test_a_name_is_no_pattern(ldap, load):
    server = ldap()
    assert attempt(load(server), "A*(b)\\c@example.org") == (235, OK)
    assert server.asked[1] == ("searchRequest", (BASE, "uid", "a*(b)\\c"))


@settings(max_examples=25)
@given(user=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_is_looked_for_as_it_is_or_not_at_all(user):
    (plugin,) = Kit(f"auth/auth_ldap_bind ldap_base {BASE} ldap_user whole").site.plugins
    server = Ldap()
    try:
        plugin._server = lambda: plugin._ldap3.Server("127.0.0.1", server.port, get_info="NO_INFO")
        assert plugin.hook_auth_plain(None, "plain", user, "s3cret", None, None) in (OK, DECLINED)
        searched = [note for name, note in server.asked if name == "searchRequest"]
        assert searched == ([(BASE, "uid", user.lower())] if user.lower().isprintable() else [])
    finally:
        server.stop()


def test_an_empty_password_is_refused_before_the_directory_lets_it_in(ldap, load):
    server = ldap()
    stage = load(server, base=False)
    (plugin,) = stage.site.plugins
    assert plugin.hook_auth_plain(None, "plain", "user", "", None, None) is DECLINED
    assert server.asked == []
    assert stage.logged("fail, user: no password")


def test_the_whole_name_may_be_looked_for_in_another_attribute(ldap, load):
    server = ldap()
    stage = load(server, "ldap_auth_filter_attr mail ldap_user whole")
    assert attempt(stage, "User@example.org") == (235, OK)
    assert server.asked[1] == ("searchRequest", (BASE, "mail", "user@example.org"))


def test_somebody_may_be_named_who_looks_for_entries(ldap, load, directory):
    server = ldap()
    server.anonymous_may_search = False
    assert attempt(load(server)) == (535, DENYSOFT)
    (directory / "ldap").write_text("ldap_bind_dn cn=searcher\nldap_bind_password searching\n")
    assert attempt(load(server)) == (235, OK)
    (directory / "ldap").write_text("ldap_bind_dn cn=searcher\nldap_bind_password wrong\n")
    stage = load(server)
    assert attempt(stage) == (535, DENYSOFT)
    assert stage.logged("the bind for the search gave invalidCredentials")


def test_settings_may_stand_in_a_file_with_blanks_and_those_of_the_line_count(kit, ldap, directory):
    server = ldap()
    (directory / "ldap").write_text(
        f"# a directory\nldap_host 127.0.0.1\nldap_port 1\nldap_base  {BASE}, c=Some Where\n"
    )
    stage = kit(f"auth/auth_ldap_bind ldap_port {server.port}")
    assert attempt(stage) == (235, OK)
    assert server.asked[1][1][0] == f"{BASE}, c=Some Where"


# Encryption


def test_tls_from_the_first_octet(ldap, load, tls, ca):
    server = ldap(tls, implicit=True)
    assert attempt(load(server, f"ldap_tls yes ldap_ca {ca}", "localhost")) == (235, OK)
    assert names(server) == ["tls", "bindRequest", "searchRequest", "tls", "bindRequest"]


def test_starttls_comes_first(ldap, load, tls, ca):
    server = ldap(tls)
    assert attempt(load(server, f"ldap_tls starttls ldap_ca {ca}", "localhost")) == (235, OK)
    assert ("extendedReq", "1.3.6.1.4.1.1466.20037") in server.asked
    assert names(server) == [
        "extendedReq", "tls", "bindRequest", "searchRequest", "extendedReq", "tls", "bindRequest",
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["yes", "starttls"])
@pytest.mark.parametrize(("host", "known"), [("localhost", False), ("127.0.0.1", True)])
def test_a_certificate_of_a_stranger_or_for_another_name_gets_no_password(ldap, load, tls, ca, how, host, known):
    server = ldap(tls, implicit=how == "yes")
    stage = load(server, f"ldap_tls {how}" + (f" ldap_ca {ca}" if known else ""), host)
    assert attempt(stage) == (535, DENYSOFT)
    assert "bindRequest" not in names(server)
    assert stage.logged(f"error, {host}:{server.port}: ")


def test_without_the_starttls_that_was_asked_for_no_password_is_sent(ldap, load):
    server = ldap()
    assert attempt(load(server, "ldap_tls starttls")) == (535, DENYSOFT)
    assert "bindRequest" not in names(server)


def test_clear_text_to_elsewhere_is_warned_of(kit, load):
    assert not load(389).logged("in clear")
    for host, words, warned in (("ldap.example.org", "", True), ("ldap.example.org", "ldap_tls yes", False)):
        stage = kit(f"auth/auth_ldap_bind ldap_base {BASE} ldap_host {host} {words}")
        assert bool(stage.logged(f"passwords go to {host} in clear")) is warned


# Trouble


@pytest.mark.parametrize(
    ("request_", "code", "result"),
    [
        ("searchRequest", 51, DENYSOFT),
        ("searchRequest", 32, DENYSOFT),
        ("searchRequest", None, DENYSOFT),
        ("searchRequest", b"nonsense s3cret" * 20, DENYSOFT),
        ("bindRequest", None, DENYSOFT),
        ("bindRequest", b"\x30\x03\x02\x01\x07", DENYSOFT),
    ],
)
def test_a_directory_that_fails_or_makes_no_sense_is_trouble(ldap, load, request_, code, result):
    server = ldap()
    server.codes[request_] = code
    stage = load(server, "ldap_timeout 0.3")
    assert attempt(stage) == (535, result)
    assert stage.logged(f"error, 127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("code", "result"), [(19, DECLINED), (53, DECLINED), (51, DENYSOFT), (52, DENYSOFT), (80, DENYSOFT)]
)
def test_a_bind_is_refused_for_what_the_user_is_to_blame_for(ldap, load, monkeypatch, code, result):
    server = ldap()
    monkeypatch.setitem(ENTRIES, f"uid=user,{BASE}", {"uid": "user", "password": "other"})
    bind = server._bind
    server._bind = lambda request, bound: (code if bind(request, bound)[0] else 0, bind(request, bound)[1])
    assert attempt(load(server))[1] is result


@pytest.mark.parametrize("listening", [False, True])
def test_nobody_there_or_nobody_who_answers_is_trouble(load, listening):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listening:
            held.listen()
        stage = load(held.getsockname()[1], "ldap_timeout 0.1")
        assert attempt(stage) == (535, DENYSOFT)
        assert stage.logged("error, 127.0.0.1:")


# Arguments


def test_without_its_library_it_says_what_to_install(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "ldap3", None)
    with pytest.raises(ConfigError, match=r"pip install 'qpsmtpd\[ldap\]'"):
        load(389)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "ldap_base is missing"),
        ("ldap_base dc=x ldap_hots x", "unknown argument 'ldap_hots'; did you mean ldap_host?"),
        ("ldap_base dc=x ldap_port ldap", "ldap_port 'ldap' is no port"),
        ("ldap_base dc=x ldap_port 65536", "ldap_port '65536' is no port"),
        ("ldap_base dc=x ldap_tls on", "ldap_tls 'on' is none of yes, starttls, no"),
        ("ldap_base dc=x ldap_user domain", "ldap_user 'domain' is none of local, whole"),
        ("ldap_base dc=x ldap_auth_filter_attr uid=*", "is no name of an attribute"),
        ("ldap_base dc=x ldap_timeout 0", "ldap_timeout '0' is no number"),
        ("ldap_base dc=x ldap_bind_dn cn=x", "go together"),
        ("ldap_base dc=x ldap_tls yes ldap_ca /nosuch", "ldap_ca /nosuch: No such file"),
    ],
)
def test_bad_arguments_are_seen_at_load(kit, words, message):
    with pytest.raises(ConfigError) as caught:
        kit(f"auth/auth_ldap_bind {words}")
    assert message in str(caught.value)


def test_a_bad_line_of_the_file_is_seen_at_load(kit):
    with pytest.raises(ConfigError, match="config/ldap: unknown setting 'ldap_bas'; did you mean ldap_base"):
        kit("auth/auth_ldap_bind", config={"ldap": ("ldap_bas dc=x",)})
