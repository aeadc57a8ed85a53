"""Look-ups in the DNS, for the plugins that need them.

There are three outcomes, and plugins treat them differently: there are values; there are none
(no such name, or no such record); nobody can say now (`DnsError`). Whatever a name or an answer
looks like, it is one of these. dnspython asks, on asyncio and trio; a look-up has `timeoutdns`
seconds in all, whatever name servers do, and what was found is kept for as long as it holds.
"""

import contextlib
import importlib
import ipaddress
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from qpsmtpd.config import ConfigError

if TYPE_CHECKING:
    import dns.resolver

__all__ = ["DnsError", "NameServer", "Resolver", "SystemResolver", "parse_name_server", "reversed_address"]

NameServer = tuple[str, int]
"""The address of a name server, and its port."""

Question = tuple[str, str]
"""A name, and the type of the records wanted: A, AAAA, CNAME, MX, NS, PTR, TXT, ...."""

_PORT = 53
_MOST_AT_ONCE = 500  # each has a socket; the connections of clients need some too
_SHARE = 50  # of these, for one who asks several questions
_PATIENCE = 0.02  # seconds until somebody who found all of them taken looks again
_CACHED = 10_000
_TRY = 2.0  # seconds until the question is asked again, or another server


class DnsError(Exception):
    """Nobody can say now: no name server answers, or what they answer makes no sense."""


class Resolver(ABC):
    """Finds records. Plugins know it as `self.qp.resolver`."""

    @abstractmethod
    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        """The records of a type, as text; none where there are none, also if the name cannot exist.

        Names come in lower case without the last dot. Of MX records the exchanges come, the most
        preferred first; an empty one says that there is no mail (RFC 7505). A TXT record is one
        text, its octets that are no UTF-8 escaped as `surrogateescape` does. Raises DnsError.
        """

    @abstractmethod
    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        """Do what `look_up` does in a hook that is marked `@blocking`. Raises DnsError."""

    async def look_up_all(self, questions: Sequence[Question]) -> list[tuple[str, ...] | None]:
        """Look up several at the same time; None for each where nobody can say now."""
        from anyio import CapacityLimiter, create_task_group  # noqa: PLC0415 - comes with the extra dns

        answers: list[tuple[str, ...] | None] = [None] * len(questions)
        share = CapacityLimiter(_SHARE)

        async def look_up(index: int, question: Question) -> None:
            async with share:
                with contextlib.suppress(DnsError):
                    answers[index] = await self.look_up(*question)

        async with create_task_group() as group:
            for index, question in enumerate(questions):
                group.start_soon(look_up, index, question)
        return answers

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a host, IPv4 and IPv6. Raises DnsError if there are none for now."""
        answers = await self.look_up_all([(name, "A"), (name, "AAAA")])
        found = tuple(itertools.chain.from_iterable(answer or () for answer in answers))
        if not found and None in answers:
            raise DnsError(f"no name server can tell the addresses of {name}")
        return found

    async def names_of(self, address: str) -> tuple[str, ...]:
        """The names that an IP address claims to have (PTR records). Raises DnsError."""
        return await self.look_up(_pointer(address), "PTR")


def _pointer(address: str) -> str:
    return ipaddress.ip_address(address.partition("%")[0]).reverse_pointer


def reversed_address(address: str) -> str:
    """An IP address as lists in the DNS have it below their zone (RFC 5782 section 2): `2.0.0.127`.

    Raises ValueError for what is no address.
    """
    return _pointer(address).removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def parse_name_server(text: str) -> NameServer:
    """Read `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`. Raises ValueError."""
    with_port = re.fullmatch(r"\[(.+)\](?::([0-9]{1,5}))?", text) or re.fullmatch(r"([^:]+):([0-9]{1,5})", text)
    host, port = with_port.groups(f"{_PORT}") if with_port else (text, f"{_PORT}")
    if not 0 < int(port) < 1 << 16:
        raise ValueError(f"{port} is no port")
    return str(ipaddress.ip_address(host)), int(port)


class SystemResolver(Resolver):
    """Asks name servers: those it is given, or those of the system."""

    def __init__(self, servers: Sequence[NameServer] = (), seconds: float = 5) -> None:
        """`seconds` is what a look-up may take in all. Raises ConfigError if dnspython is not installed."""
        try:
            importlib.import_module("anyio")  # for `look_up_all`
            import dns.asyncbackend  # noqa: PLC0415 - an extra
            import dns.asyncresolver as asynchronous  # noqa: PLC0415
            import dns.nameserver  # noqa: PLC0415
            import dns.resolver as blocking  # noqa: PLC0415
        except ModuleNotFoundError:
            raise ConfigError(
                "look-ups in the DNS need dnspython and anyio; run `pip install 'qpsmtpd[dns]'`"
            ) from None
        cache = blocking.LRUCache(_CACHED)
        try:
            self._asynchronous = asynchronous.Resolver(configure=not servers)
            self._blocking = blocking.Resolver(configure=not servers)
        except blocking.NoResolverConfiguration:
            raise ConfigError(
                "the system names no name server; put the address of one into config/nameservers"
            ) from None
        for each in (self._asynchronous, self._blocking):
            if servers:
                each.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
            each.cache = cache
            each.lifetime = seconds
            each.timeout = min(_TRY, seconds)
            each.use_edns(0, 0, 1232)
        self._backends = dns.asyncbackend
        self._seconds = seconds
        self._under_way = 0  # in loops; hooks in threads are few

    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        """Look up; see `Resolver`. Raises DnsError, also if so many others ask that its turn does not come in time."""
        await self._wait_for_turn(f"{kind} of {name}")
        self._under_way += 1
        try:
            with _Attempt(name, kind) as attempt:
                if attempt.name is not None:
                    # That of the loop that runs now: dnspython itself would stay with the first one.
                    backend = self._backends.get_backend(self._backends.sniff())
                    attempt.found(
                        await self._asynchronous.resolve(
                            attempt.name, kind, raise_on_no_answer=False, search=False, backend=backend
                        )
                    )
        finally:
            self._under_way -= 1
        return attempt.values

    async def _wait_for_turn(self, shown: str) -> None:
        left = self._seconds
        while self._under_way >= _MOST_AT_ONCE:
            if left <= 0:
                raise DnsError(f"{shown}: {_MOST_AT_ONCE} look-ups are under way already")
            from anyio import sleep  # noqa: PLC0415 - comes with the extra dns

            await sleep(_PATIENCE)
            left -= _PATIENCE

    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        """Look up in a worker thread; see `Resolver`. Raises DnsError."""
        with _Attempt(name, kind) as attempt:
            if attempt.name is not None:
                attempt.found(self._blocking.resolve(attempt.name, kind, raise_on_no_answer=False, search=False))
        return attempt.values


class _Attempt:
    """A look-up under way: what there is before and behind the one call that waits."""

    def __init__(self, name: str, kind: str) -> None:
        import dns.exception  # noqa: PLC0415 - an extra
        import dns.name  # noqa: PLC0415

        self._shown = f"{kind} of {name}"
        self.values: tuple[str, ...] = ()
        try:
            self.name = dns.name.from_text(name) if name.strip(".") else None
        except (dns.exception.DNSException, ValueError):  # UnicodeError too: a name that cannot exist
            self.name = None

    def __enter__(self) -> Self:
        return self

    def found(self, answer: "dns.resolver.Answer") -> None:
        """Take what was found."""
        self.values = tuple(_texts(answer))

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> bool:
        import dns.exception  # noqa: PLC0415 - an extra
        import dns.resolver  # noqa: PLC0415

        if isinstance(error, dns.resolver.NXDOMAIN | dns.resolver.YXDOMAIN):
            return True
        if isinstance(error, dns.exception.DNSException | OSError | EOFError | ValueError):
            raise DnsError(f"{self._shown}: {type(error).__name__}") from error
        return False


def _texts(answer: "dns.resolver.Answer") -> Iterator[str]:
    if answer.rrset is None:
        return
    records: list[Any] = list(answer.rrset)  # their attributes depend on their type
    kind = answer.rdtype.name
    if kind == "MX":
        records.sort(key=lambda record: record.preference)
    for record in records:
        yield _FIELDS[kind](record) if kind in _FIELDS else record.to_text()


def _name(name: Any) -> str:
    return str(name.to_text(omit_final_dot=True)).lower().removesuffix(".")


_FIELDS: Mapping[str, Callable[[Any], str]] = {
    "A": lambda record: record.address,
    "AAAA": lambda record: record.address,
    "CNAME": lambda record: _name(record.target),
    "MX": lambda record: _name(record.exchange),
    "NS": lambda record: _name(record.target),
    "PTR": lambda record: _name(record.target),
    "TXT": lambda record: b"".join(record.strings).decode("utf-8", "surrogateescape"),
}
"""How the records of a type are given as text."""
