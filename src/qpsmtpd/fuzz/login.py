"""AUTH in a dialogue with `protocol.Server`, and a witness who knows the password.

An input is what the client sends behind EHLO. There is one user, `user`, with the password `secret`. The witness reads
PLAIN, LOGIN and CRAM-MD5 for itself; of other mechanisms it knows that nobody gets in whom no plugin has let in.
"""

import base64
import hmac
from collections.abc import Iterable, Sequence
from typing import Any

from qpsmtpd.fuzz.dialogue import codes_of
from qpsmtpd.fuzz.wrong import Edges, Wrong
from qpsmtpd.protocol import DENY, OK, Hook, Limits, ScramVerifier, Server, hooks
from qpsmtpd.protocol.host import NOTHING, Host, Result, Steps

__all__ = ["check_sasl"]

_USER, _PASSWORD = b"user", b"secret"
_VERIFIER = str(ScramVerifier.of_password(_PASSWORD.decode(), b"salt"))
_HOOKS = frozenset({"auth", "auth-scram-sha-256", "auth-xoauth2", "auth-oauthbearer"})
_LIMITS = Limits(command_line=512, auth_line=512, errors=6, auth_failures=3)
_NONCE = "abcdef"
_KNOWN = frozenset({b"PLAIN", b"LOGIN", b"CRAM-MD5", b"SCRAM-SHA-256", b"XOAUTH2", b"OAUTHBEARER"})
_TICKET = f"<{_NONCE}@a>".encode()
_LET_IN: Result = (OK, (), None)
_NOT: Result = (DENY, (), None)


class _Doorman(Host):
    """The server's host: judges who the client says it is."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.let_in = 0
        self.server: Server

    def ask(self, hook: Hook) -> Steps[Result]:
        if isinstance(hook, hooks.AuthScramSha256):
            return (OK, (_VERIFIER,), None) if hook.user == _USER.decode() else NOTHING
        assert isinstance(hook, hooks.Auth)
        known = hook.user == _USER.decode()
        if hook.digest is not None:
            assert hook.ticket is not None
            right = hmac.new(_PASSWORD, hook.ticket.encode(), "md5").hexdigest() == hook.digest
        else:
            right = hook.password == _PASSWORD.decode()
        if known and right:
            self.let_in += 1
            return _LET_IN
        return _NOT
        yield  # makes it a generator

    def receive(self) -> Iterable[Any]:  # type: ignore[override]
        stream, self.stream = self.stream, b""
        self.server.receive_data(stream)
        return ()

    def tell(self, news: object) -> Iterable[Any]:  # type: ignore[override]
        del news
        return ()


def check_sasl(data: bytes, *, thoroughly: bool = False) -> Edges:
    """What is sent behind EHLO."""
    del thoroughly
    host = _Doorman(b"EHLO a\r\n" + data)
    server = host.server = Server(
        hooks=_HOOKS, hostname="a", limits=_LIMITS, auth_in_clear=True, nonce=lambda: _NONCE, host=host
    )
    for step in server.conversation:
        raise Wrong(f"it waits for {step!r}")
    said = server.data_to_send()
    codes = codes_of(said)
    edges = _witness(data, codes)
    if codes.count(b"235") > host.let_in:  # by SCRAM nobody can, who has to guess
        raise Wrong(f"{codes.count(b'235')} times somebody gets in, {host.let_in} times by right")
    if codes.count(b"535") + codes.count(b"454") > _LIMITS.auth_failures:
        raise Wrong("more failures than are let pass")
    return edges


def _witness(data: bytes, codes: Sequence[bytes]) -> Edges:
    """Hold replies against commands, as far as it is certain which belongs to which."""
    lines = iter(data.split(b"\n")[:-1])
    edges: set[object] = set()
    left = iter(codes[2:])  # behind those to the connection and to EHLO
    for line in lines:
        if line[:4].upper() == b"BDAT":
            break  # what follows may be no line
        words = line.removesuffix(b"\r").split()
        code = next(left, None)
        if code is None:
            break
        if words[:1] and words[0].upper() == b"AUTH" and line[:4].upper() == b"AUTH":
            said = [code]
            answers: list[bytes] = []
            while said[-1] == b"334" and (answer := next(lines, None)) is not None:
                answers.append(answer)
                if (code := next(left, None)) is None:
                    break
                said.append(code)
            name = words[1].upper() if len(words) > 1 else b""
            edges.add((name if name in _KNOWN else b"", *said[-3:]))
            expected = _expected(name, words[2:3], answers, line)
            if expected is None or said[-1] == b"334" or (expected and said[-1] in (b"503", b"421")):
                continue  # who is in already, or out, is not let in again
            if (said[-1] == b"235") is not expected:
                raise Wrong(f"{line!r} and {answers!r} are answered {said!r}")
        else:
            edges.add(code)
    return edges


def _expected(name: bytes, initial: list[bytes], answers: list[bytes], line: bytes) -> bool | None:
    """Whether these responses let the client in; None for what the witness does not know."""
    form = all(each.endswith(b"\r") and b"\r" not in each[:-1] and len(each) < 511 for each in (line, *answers))
    if name not in (b"PLAIN", b"LOGIN", b"CRAM-MD5") or b"\t" in line or b"\x0b" in line or b"\x0c" in line:
        return None
    given = [_decoded(each.removesuffix(b"\r").partition(b" ")[0]) for each in answers]
    given = [_decoded(each) for each in initial] + given
    if not form or None in given:
        return False
    responses = [each for each in given if each is not None]
    if name == b"PLAIN":
        parts = responses[0].split(b"\0") if len(responses) == 1 else []
        return len(parts) >= 3 and parts[1:3] == [_USER, _PASSWORD]
    if name == b"LOGIN":
        return responses == [_USER, _PASSWORD]
    digest = hmac.new(_PASSWORD, _TICKET, "md5").hexdigest().encode()
    return not initial and len(responses) == 1 and responses[0].split(b" ")[:2] == [_USER, digest]


def _decoded(text: bytes) -> bytes | None:
    """Base64 with all its padding and nothing else (RFC 4648 section 3), `=` for nothing."""
    if text == b"=":
        return b""
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return decoded if len(text) % 4 == 0 and len(base64.b64encode(decoded)) == len(text) else None
