"""AUTH (RFC 4954): the script of the command, around the mechanisms of `sasl`.

A mechanism yields what it needs: a challenge goes to the client, credentials are judged by
the hooks, the mechanism's own first. What came of it the client is told, and the driver too.
"""

import base64
from collections.abc import Callable, Mapping, Sequence

from qpsmtpd.protocol import hooks
from qpsmtpd.protocol.commands import parse_words
from qpsmtpd.protocol.conversation import BARE_LINE_END, Conversation, Script
from qpsmtpd.protocol.events import Authentication
from qpsmtpd.protocol.host import FAILURE, NOTHING, Result, Steps
from qpsmtpd.protocol.replies import Reply
from qpsmtpd.protocol.returncodes import DECLINED, DENY, OK
from qpsmtpd.protocol.sasl import (
    Credentials,
    Exchange,
    Mechanism,
    Outcome,
    SaslError,
    ScramVerifier,
    VerifierFor,
    decode_base64,
)
from qpsmtpd.protocol.security import NO_BINDINGS
from qpsmtpd.protocol.verdicts import FAILED, VERDICTS

__all__ = ["Authenticating"]

_AUTHENTICATED_ALREADY = Reply(503, "5.5.1", "You are authenticated already")
_NO_MECHANISM = Reply(501, "5.5.4", "AUTH needs the name of a mechanism")
_UNKNOWN_MECHANISM = Reply(504, "5.5.4", "This authentication mechanism is not offered")
_BAD_BASE64 = Reply(501, "5.5.2", "This is not base64")
_BAD_RESPONSE = Reply(501, "5.5.2", "This is no response of the authentication mechanism")
_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
_RESPONSE_TOO_LONG = Reply(500, "5.5.6", "Authentication line too long")
_TOO_MANY_FAILURES = Reply(421, "4.7.0", "Too many failed attempts to authenticate")


class Authenticating(Conversation):
    """A conversation in which the client may say who it is."""

    __slots__ = ("_auth_failures", "_identity", "_mechanisms", "_nonce", "_secret")

    _mechanisms: Mapping[str, Mechanism]
    """What is offered now."""

    _identity: tuple[str, str] | None
    """Mechanism and user, once authenticated."""

    _auth_failures: int
    _nonce: Callable[[], str] | None
    _secret: bytes

    def _authenticate(self, argument: str) -> Script:
        words: Sequence[str] = parse_words(argument)
        if "auth_parse" in self._wanted:
            parsed = yield from self._pieces(hooks.AuthParse, argument)
            if parsed is None:
                return
            words = parsed[1] if parsed[0] is OK else words
        if self._identity is not None:
            self._refuse(_AUTHENTICATED_ALREADY)
            return
        if self._auth_failures >= self._limits.auth_failures:
            self._say(_TOO_MANY_FAILURES)
            yield from self._disconnect()
            return
        if not words:
            self._refuse(_NO_MECHANISM)
            return
        mechanism = self._mechanisms.get(words[0].upper())
        if mechanism is None:
            self._refuse(_UNKNOWN_MECHANISM)
            return
        initial = None
        if len(words) > 1:  # further words are tolerated, as in the original
            initial = self._decoded(words[1].encode("utf-8", "surrogateescape"))
            if initial is None:
                return
        yield from self._exchange(mechanism, initial)

    def _exchange(self, mechanism: Mechanism, initial: bytes | None) -> Script:
        """Go through the challenges of a mechanism, and tell the client what came of it."""
        name, ruling = mechanism.name.lower(), ("auth", NOTHING)
        steps = mechanism.serve(
            Exchange(
                initial=initial,
                nonce=self._nonce() if self._nonce is not None and mechanism.needs_nonce else "",
                hostname=self._hostname,
                bindings=self.security.bindings if self.security is not None else NO_BINDINGS,
                plus_offered=any(each.needs_binding for each in self._mechanisms.values()),
                fake_key=self._secret,
            )
        )
        user = ""  # who has been judged already
        try:
            step = next(steps)
            while True:
                if isinstance(step, Credentials):
                    user = step.user
                    ruling = yield from self._judged(mechanism, step)
                    step = steps.send(VERDICTS[ruling[0]][ruling[1][0]].proceed)
                elif isinstance(step, bytes):
                    # One line whatever its length, unlike other replies.
                    self._output += b"334 " + base64.b64encode(step) + b"\r\n"
                    response = yield from self._response()
                    if response is None:
                        yield from self._given_up(name, user)
                        return
                    step = steps.send(response)
                else:
                    verifier, ruling = yield from self._stored(mechanism, step)
                    step = steps.send(verifier)
        except StopIteration as stop:
            outcome: Outcome = stop.value
        except SaslError as error:
            if error.malformed:
                self._refuse(_BAD_RESPONSE)
                yield from self._given_up(name, user)
                return
            outcome = Outcome("", success=False)
        yield from self._authenticated(name, outcome, ruling)

    def _given_up(self, mechanism: str, user: str) -> Script:
        """The exchange has ended by its form, as the client has been told; a judgement counts all the same."""
        self._auth_failures += bool(user)
        yield from self._host.tell(Authentication(mechanism, user, succeeded=False))

    def _judged(self, mechanism: Mechanism, given: Credentials) -> Steps[tuple[str, Result]]:
        """What the hook of the mechanism says, or else the one of all mechanisms."""
        arguments = (mechanism.name.lower(), given.user, given.password, given.digest, given.ticket)
        hook, result = mechanism.hook, NOTHING
        if hook in self._wanted:
            asked = hooks.HOOKS[hook]
            assert issubclass(asked, hooks.Auth)
            result = yield from self._host.ask(asked(*arguments))
        if result[0] is DECLINED and mechanism.general and "auth" in self._wanted:
            hook, result = "auth", (yield from self._host.ask(hooks.Auth(*arguments)))
        return hook, result

    def _stored(
        self, mechanism: Mechanism, wanted: VerifierFor
    ) -> Steps[tuple[ScramVerifier | None, tuple[str, Result]]]:
        """What a plugin keeps of a user's password."""
        answer, texts, _ = yield from self._host.ask(hooks.AuthScramSha256(mechanism.name.lower(), wanted.user))
        verifier = None
        if answer is OK and texts:
            try:
                verifier = ScramVerifier.parse(texts[0])
            except ValueError:
                answer = FAILED
        return verifier, ((mechanism.hook, FAILURE) if answer is FAILED else ("auth", NOTHING))

    def _authenticated(self, mechanism: str, outcome: Outcome, ruling: tuple[str, Result]) -> Script:
        """Tell driver and client how the attempt has ended."""
        hook, result = ruling
        answer = result[0]
        if outcome.success:
            self._identity = mechanism, outcome.user
        elif answer is not FAILED:
            self._auth_failures += 1
        yield from self._host.tell(Authentication(mechanism, outcome.user, outcome.success))
        if not outcome.success and self._auth_failures >= self._limits.auth_failures:
            self._say(_TOO_MANY_FAILURES)
            yield from self._disconnect()
            return
        if answer is not FAILED and VERDICTS[hook][answer].proceed is not outcome.success:
            result = OK if outcome.success else DENY, (), None  # the mechanism has decided, not the hook
        self._judge(hook, result)

    def _response(self) -> Steps[bytes | None]:
        """The client's answer to a challenge; None if it has refused or has been refused."""
        limit = self._limits.auth_line
        while (line := self._line(limit)) is None:
            if self._eof:
                return None
            yield from self._host.receive()
        if len(line) >= limit:
            self._refuse(_RESPONSE_TOO_LONG)
        elif line.find(b"\r") != len(line) - 1 or not line:
            self._refuse(BARE_LINE_END)
        elif bytes(line) == b"*\r":
            self._refuse(_CANCELLED)
        else:
            return self._decoded(bytes(line[:-1]).partition(b" ")[0])  # further words as in the command
        return None

    def _decoded(self, text: bytes) -> bytes | None:
        """Base64 read strictly, `=` for nothing; None if it has been refused."""
        try:
            return b"" if text == b"=" else decode_base64(text)
        except ValueError:
            self._refuse(_BAD_BASE64)
            return None
