"""One client, from accept to close: the protocol's host, which runs hooks, and effects out.

Theory of operation. `run` is a generator of effects (`effects`). For most of the time it is the
conversation of `protocol.Server`, which turns to the session as its host (`protocol.host`): a
hook is answered by its chain of plugins (`chain`), and what the conversation has come to goes
into the connection and the transaction.

Between the transport's bytes and the protocol's there may be a PROXY header, once, and TLS:
from the start, by the role of the listener, or after STARTTLS. `data_to_send` and `_take` are
the two places where bytes pass; a transport never learns what they mean.

Nothing in here reads or writes a socket, starts a thread or sleeps; clock and randomness
are the site's, and arguments there.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

from qpsmtpd.logs import LOGERROR, LOGINFO, LOGWARN
from qpsmtpd.networks import is_listed
from qpsmtpd.protocol import (
    FAILED,
    OK,
    VERDICTS,
    Authentication,
    Extension,
    Hook,
    Mailbox,
    Parameters,
    Reply,
    Security,
    Server,
    StartTls,
    XClient,
    hooks,
)
from qpsmtpd.protocol.host import FAILURE, HangUp, Host, Result
from qpsmtpd.session.arrival import read_proxy_header, shake_hands
from qpsmtpd.session.chain import PARSE_HOOKS, Chains
from qpsmtpd.session.connection import Connection, Peer, plain_address
from qpsmtpd.session.effects import SHUTTING_DOWN, CallBlocking, Close, Effect, Flush, Interruption, Receive
from qpsmtpd.session.role import MX, Role
from qpsmtpd.session.tls import TlsChannel, TlsError
from qpsmtpd.session.trace import authentication_results_field, from_clause, received_field
from qpsmtpd.session.transaction import Transaction
from qpsmtpd.site import Settings, Site, current_session

__all__ = ["Session", "open_session"]

_TIMEOUT = Reply(421, "4.4.2", "Timeout, closing the connection")
_TOO_LONG = Reply(421, "4.4.2", "This session has lasted too long, closing the connection")
_SHUTDOWN = Reply(421, "4.3.2", "Service shutting down, closing the connection")
_TOO_MANY = Reply(421, None, "Too many connections, please try again later")
_TOO_MANY_FROM_YOU = Reply(421, None, "Too many connections from your address, please try again later")


def open_session(site: Site, peer: Peer, role: Role = MX, *, alone: bool = False) -> "Session":
    """A session of the kind that the site is for; the arguments are those of `Session`."""
    return (site.session_type or Session)(site, peer, role, alone=alone)


class Session(Chains, Host):
    """The session of one client. A transport drives `run` and sends `data_to_send`."""

    _server_type: type[Server] = Server

    # Few sessions have these. CPython 3.11 is slower with an instance of more than 30 attributes.
    _out_of_tls = False  # a handshake has failed; the alert must not be lost
    _login = ""  # who the client is by XCLIENT
    _leaving: tuple[Transaction, ...] = ()  # what is still to be discarded

    def __init__(self, site: Site, peer: Peer, role: Role = MX, *, alone: bool = False) -> None:
        """`alone`: the session has a thread to itself, and a hook that takes its time holds up nobody else."""
        super().__init__(site, self._choose_settings(site), alone=alone)
        self.connection = Connection(peer, site.new_identity(), site.wall())
        settings = self._settings
        self._role = role
        self._server = self._make_server()
        self._take: Callable[[bytes], None] = self._server.receive_data  # where what the client sends goes
        self._special = PARSE_HOOKS | {"queue"} if role.lmtp else PARSE_HOOKS
        self._output = b""  # what the protocol has not said: the flights of a TLS handshake, a refusal before it begins
        self._tls: TlsChannel | None = None
        self._before_hello: tuple[bool | None, dict[str, object]] | None = None  # what STARTTLS goes back to
        self._trace_from = ""
        self._broken: OSError | None = None  # why the content could not be kept
        self._chore: Callable[[], None] | None = None  # work on the disk that is due
        self._transactions = 0
        self._last_chance = False  # the time left is less than a command may take
        self._deadline = site.clock() + settings.session_timeout
        self._next_command = Receive(settings.command_timeout)
        self._next_content = Receive(settings.content_timeout)
        self.transaction = self._make_transaction()

    def _choose_settings(self, site: Site) -> Settings:
        return site.current_settings()

    def _make_server(self) -> Server:
        site, settings, role = self._site, self._settings, self._role
        return self._server_type(
            hooks=site.wanted,
            hostname=settings.hostname,
            greeting=settings.greeting.replace("ESMTP", "LMTP") if role.lmtp else settings.greeting,
            limits=settings.limits,
            extensions=self._extensions(),
            line_endings=role.line_endings or settings.line_endings,
            lmtp=role.lmtp,
            auth_in_clear=settings.auth_in_clear,
            auth_required=role.auth_required,
            nonce=site.nonce,
            secret=site.secret,
            host=self,
        )

    def _extensions(self) -> frozenset[Extension]:
        settings = self._settings
        return _offered(
            settings.extensions,
            starttls=self._site.tls is not None and not self._role.implicit_tls,
            xclient=is_listed(self.connection.remote_ip, settings.xclient_networks),
        )

    @property
    def path_argument(self) -> str:
        """What stood behind the word of the last MAIL or RCPT, as sent."""
        return self._server.path_argument

    # The transport's side

    def data_to_send(self) -> bytes:
        """What waits to be written; it is then forgotten here."""
        data = self._server.data_to_send()
        if self._tls is not None:
            if data:
                self._tls.write(data)
            data = self._tls.data_to_send()
        if self._output:
            data, self._output = self._output + data, b""
        return data

    def run(self) -> Generator[Effect, object, None]:
        """The session as a generator of effects; closing it early leaves nothing behind."""
        census, address = self._site.census, self.connection.remote_ip
        census.enter(address)
        try:
            if not (yield from self._introduce()):
                yield Close()
                return
            if self.connection.remote_ip != address:
                census.leave(address)
                address = self.connection.remote_ip
                census.enter(address)
            self._log(LOGINFO, f"connected, {address}:{self.connection.remote_port}")
            refusal = yield from self._admit(address)
            in_clear = self._role.implicit_tls and self.connection.security is None
            if refusal is not None:
                self._output = b"" if in_clear else refusal.encode(enhanced=False)
                yield Close(linger=True)
                return
            if in_clear and not (yield from self._begin_tls()):
                yield Close(linger=True)
                return
            yield from self._server.conversation
            self._end_tls()
            yield Close(linger=self._out_of_tls or not self._server.peer_has_finished)
            if "post-connection" in self._chains:
                yield from self.ask(hooks.PostConnection())
        finally:
            census.leave(address)
            self._server.conversation.close()
            self.transaction.discard()
            for transaction in self._leaving:
                transaction.discard()

    # From accept to close

    def _introduce(self) -> Generator[Effect, object, bool]:
        """Hear from a trusted proxy who is really connected; false if it does not say."""
        settings, peer = self._settings, self.connection.peer
        if not is_listed(peer.remote_ip, settings.proxy_networks):
            return True
        header, self._early = yield from read_proxy_header(self._site.clock, settings.handshake_timeout)
        if header is None:
            self._log(LOGWARN, f"fail, no PROXY header from {peer.remote_ip}, which is in proxy_networks")
            return False
        self.connection.proxy = header
        if header.source is not None and header.destination is not None:
            (host, port), (to, to_port) = header.source, header.destination
            self.connection.peer = Peer(plain_address(host), port, plain_address(to), to_port)
            self._server.conversation.close()
            self._server = self._make_server()  # anew, as what is offered depends on who the client is
            self._take = self._server.receive_data
        if header.tls is not None:
            self._secure(header.tls)
        return True

    def _admit(self, address: str) -> Generator[Effect, object, Reply | None]:
        census, settings = self._site.census, self._settings
        if census.total > settings.max_connections:
            self._log(LOGWARN, f"fail, {census.total - 1} connections already")
            return _TOO_MANY
        if census.count(address) > settings.max_per_ip:
            self._log(LOGWARN, f"fail, {settings.max_per_ip} connections already from {address}")
            return _TOO_MANY_FROM_YOU
        if "pre-connection" not in self._chains:
            return None
        peer = self.connection.peer
        others = list(census.addresses())
        others.remove(address)
        answer, texts, _ = yield from self.ask(
            hooks.PreConnection(
                peer.remote_ip, peer.remote_port, peer.local_ip, peer.local_port, settings.max_per_ip, tuple(others)
            )
        )
        verdict = VERDICTS["pre-connection"][answer]
        if verdict.reply is None or not texts or not verdict.plugin_text:
            return verdict.reply
        return Reply(verdict.reply.code, None, "\n".join(texts))

    # The host of the conversation: what takes time

    def ask(self, hook: Hook) -> Generator[Effect, object, Result]:
        """Have a hook answered by the plugins."""
        self._own_reply = None
        if hook.name in self._special or self._chore is not None or self._leaving or self._broken is not None:
            return self._ask_specially(hook)
        return self._ask(hook)

    def _ask_specially(self, hook: Hook) -> Generator[Effect, object, Result]:
        if self._chore is not None or self._leaving:
            yield from self._do_chore()
        if self._broken is not None and VERDICTS[hook.name][FAILED].reply is not None:
            self._trace_result(hook.name, FAILURE)
            return FAILURE
        if isinstance(hook, hooks.ParseHook):
            return (yield from self._parse(hook))
        self.transaction.narrow(hook.recipient if isinstance(hook, hooks.Queue) and self._role.lmtp else None)
        result = yield from self._ask(hook)
        self.transaction.narrow(None)
        return result

    def _unread(self) -> bytes:
        return self._early or self._server.unread

    def receive(self) -> Generator[Effect, object, None]:
        """Have the transport give what the client sends."""
        if self._chore is not None or self._leaving:
            yield from self._do_chore()
        early, self._early = self._early, b""
        wait = self._next_wait()
        outcome = early or (yield wait)
        if isinstance(outcome, bytes):
            self._take(outcome)
        elif isinstance(outcome, Interruption):
            raise HangUp(self._goodbye(outcome))

    def drain(self) -> Generator[Effect, object, None]:
        """Have the transport write."""
        outcome = yield Flush(self._settings.command_timeout)
        if isinstance(outcome, Interruption):
            raise HangUp(self._goodbye(outcome))

    def content(self, data: bytes, *, in_header: bool) -> Iterable[Effect]:
        """Keep a piece of the message."""
        message = self.transaction.content
        if in_header:
            message.write_header(data)
        elif self._broken is None and message.write(data):
            self._chore = message.spool
            return self._do_chore()
        return ()

    def tell(self, news: StartTls | Authentication | XClient) -> Generator[Effect, object, None]:
        """Act on what the client has said."""
        if isinstance(news, Authentication):
            self._authenticated(news)
        elif isinstance(news, XClient):
            self._speak_for(news)
        elif (yield from self._begin_tls()):
            self._forget_client()
        else:
            self._server.receive_data(b"")

    def _next_wait(self) -> Receive:
        receive = self._next_content if self._server.in_content else self._next_command
        left = self._deadline - self._site.clock()
        self._last_chance = left < receive.timeout
        return Receive(max(left, 0.0)) if self._last_chance else receive

    def _goodbye(self, why: Interruption) -> Reply:
        """What to hang up with."""
        if why is SHUTTING_DOWN:
            return _SHUTDOWN
        expired = self._last_chance  # not by the clock: a loop's timer may be early by its granularity
        self._log(LOGINFO, "fail, session limit" if expired else "fail, timeout")
        return _TOO_LONG if expired else _TIMEOUT

    # Encryption, and who the client is

    def _begin_tls(self) -> Generator[Effect, object, bool]:
        """Perform the handshake; if it fails the connection is of no more use."""
        tls = self._site.tls
        if tls is None:
            self._log(LOGERROR, "error, TLS is asked for, and there is no certificate")
            return False
        channel, early = tls.channel(), self._early
        self._early, self._output = b"", self.data_to_send()  # what is said in clear goes before the handshake
        seconds = min(self._settings.handshake_timeout, self._deadline - self._site.clock())
        failure = yield from shake_hands(channel, early, self._send, self._site.clock, seconds)
        if failure is not None:
            self._log(LOGINFO, f"fail, TLS handshake: {failure}")
            self._out_of_tls = True
            return False
        self._tls, self._take = channel, self._take_ciphertext
        self._secure(channel.security)
        self._decrypt(channel)  # the client may have sent more with the last flight of its handshake
        return True

    def _send(self, data: bytes) -> None:
        self._output += data

    def _take_ciphertext(self, data: bytes) -> None:
        assert self._tls is not None
        self._tls.receive_data(data)
        self._decrypt(self._tls)

    def _decrypt(self, channel: TlsChannel) -> None:
        try:
            while plain := channel.read():
                self._server.receive_data(plain)
        except TlsError as error:
            self._log(LOGINFO, f"fail, TLS: {error}")
        if channel.eof:
            self._server.receive_data(b"")

    def _end_tls(self) -> None:
        if self._tls is not None:
            self._output = self.data_to_send()
            self._tls.close()

    def _secure(self, security: Security) -> None:
        self.connection.security = security
        self._server.secure(security)
        self._log(LOGINFO, f"pass, {security}")

    def _forget_client(self) -> None:
        """Go back to what was known before the client has said anything (RFC 3207 section 4.2)."""
        connection = self.connection
        connection.hello = connection.hello_host = connection.authentication = None
        if self._before_hello is not None:
            connection.relay_client, connection.notes = self._before_hello
            self._before_hello = None

    def _authenticated(self, event: Authentication) -> None:
        """Believe the client who it is: it may relay, and what made it suspect is forgiven."""
        connection = self.connection
        connection.authentication = event
        if event.succeeded:
            self._log(LOGINFO, f"pass, {event.user} by {event.mechanism}")
            connection.relay_client = True
            if "naughty" in connection.notes:
                connection.notes["naughty"] = 0
        else:
            self._log(LOGINFO, f"fail, {event.user or 'nobody'} by {event.mechanism}")

    def _speak_for(self, client: XClient) -> None:
        """Take this connection for that of the client a trusted one speaks for; its hooks begin anew."""
        old = self.connection
        peer = old.peer
        if client.address is not None:  # empty if the trusted client does not know it
            peer = replace(peer, remote_ip=plain_address(client.address), remote_port=client.port or 0)
        if client.destination_address:
            port = client.destination_port or peer.local_port
            peer = replace(peer, local_ip=plain_address(client.destination_address), local_port=port)
        peer = replace(peer, remote_host=client.name or None, remote_user=None)
        self.connection = Connection(
            peer, old.id, old.started, hello_host=client.helo or None, security=old.security, proxy=old.proxy
        )
        self._login = client.login or ""
        self._log(LOGINFO, f"pass, {old.remote_ip} speaks for {peer.remote_ip}")

    # The host of the conversation: what it has come to

    def connected(self) -> None:
        """Remember what a TLS handshake goes back to; believe XCLIENT who has authenticated."""
        if self._site.tls is not None and self.connection.security is None:
            notes = self.connection.notes
            self._before_hello = self.connection.relay_client, {key: _copied(note) for key, note in notes.items()}
        if self._login:  # behind what STARTTLS goes back to
            self._authenticated(Authentication("xclient", self._login, succeeded=True))
            self._login = ""

    def greeted(self, hello: hooks.Helo | hooks.Ehlo) -> None:
        """Remember what the client calls itself; announce what plugins have in the note `capabilities`."""
        connection = self.connection
        connection.hello = "lhlo" if self._role.lmtp else hello.name
        connection.hello_host = hello.host
        self._trace_from = from_clause(connection)
        keywords = self.transaction.notes.get("capabilities", ())
        if isinstance(keywords, list | tuple):
            self._server.announce(*map(str, cast("Sequence[object]", keywords)))

    def sender_accepted(self, sender: Mailbox, parameters: Parameters) -> None:
        """Put the sender into the transaction."""
        self.transaction.sender, self.transaction.sender_parameters = sender, parameters

    def recipient_accepted(self, recipient: Mailbox, parameters: Parameters) -> None:
        """Put a recipient into the transaction."""
        self.transaction.accept_recipient(recipient, parameters)

    def chunks_follow(self) -> None:
        """Let plugins know that nobody has to tell the client to go ahead."""
        self.transaction.chunked = True

    def header_ended(self) -> None:
        """Have the header ready for plugins."""
        message = self.transaction.content
        if message.end_header():
            self._chore = message.spool

    def content_ended(self, line: hooks.ReceivedLine, result: Result) -> None:
        """Put the trace fields on top."""
        transaction, hostname = self.transaction, self._settings.hostname
        header = transaction.header
        answer, texts, _ = result
        if answer is OK:
            header.add("Received", "\n".join(texts), 0)
        else:
            comments = line.tls + line.authentication
            how = f"{line.protocol} {' '.join(comments.split())}" if comments else line.protocol
            by = f"by {hostname} (qpsmtpd) with {how}"
            header.prepend(received_field(self._trace_from, by, transaction, self._site.date()))
        for forged in header.take("Authentication-Results"):
            header.add("Original-Authentication-Results", forged)
        header.prepend(authentication_results_field(hostname, self.connection, transaction))

    def transaction_ended(self) -> None:
        """Begin a new transaction, unless the one we have is as good as new."""
        self._chore = None  # what is forgotten need not be kept
        if not self.transaction.is_fresh:
            if self.transaction.has_files:
                self._leaving = *self._leaving, self.transaction
            self.transaction = self._make_transaction()
        self._broken = None

    def _make_transaction(self) -> Transaction:
        self._transactions += 1
        identity = f"{self.connection.id}.{self._transactions}"
        return Transaction(identity, self._settings.size_threshold, self._site.spool_dir)

    def _do_chore(self) -> Generator[Effect, object, None]:
        """Do what takes time on the disk, where it holds up nobody."""
        chore, self._chore, leaving = self._chore, None, self._leaving

        def work() -> None:
            for transaction in leaving:
                transaction.discard()
            if chore is not None:
                chore()

        try:
            yield CallBlocking(work, self._settings.hook_timeout)
            self._leaving = self._leaving[len(leaving) :]
        except OSError as error:  # the content cannot be kept: the client is told 451 when it has sent all of it
            self._broken = error
            self._log(LOGERROR, f"error, the message cannot be kept: {error}")

    def _log(self, level: int, text: str) -> None:
        if level <= self._site.verbosity:
            current_session.set(self)
            self._site.log(level, text, hook="")


@lru_cache(64)  # sessions share what they offer
def _offered(extensions: frozenset[Extension], *, starttls: bool, xclient: bool) -> frozenset[Extension]:
    unfit = {Extension.STARTTLS: not starttls, Extension.XCLIENT: not xclient}
    return frozenset(each for each in extensions if not unfit.get(each))


def _copied(note: object) -> object:
    """A note as it is now: what plugins add to collections in it later is not in it."""
    if isinstance(note, dict):
        return {key: _copied(value) for key, value in cast("dict[object, object]", note).items()}
    if isinstance(note, list):
        return list(map(_copied, cast("list[object]", note)))
    return set(cast("set[object]", note)) if isinstance(note, set) else note
