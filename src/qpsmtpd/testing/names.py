"""A DNS in memory, for tests of plugins that look things up."""

from collections.abc import Collection, Mapping, Sequence

from qpsmtpd.resolver import DnsError, Resolver

__all__ = ["Names"]


class Names(Resolver):
    """Records by name and type; everything else does not exist.

    `Names({"example.org": {"MX": ["mx.example.org"], "TXT": ["v=spf1 -all"]}}, failing=["dead.example"])`;
    values are as `Resolver.look_up` gives them.
    """

    def __init__(
        self, records: Mapping[str, Mapping[str, Sequence[str]]] | None = None, *, failing: Collection[str] = ()
    ) -> None:
        """`failing` are names about which nobody can say anything now."""
        self.records = {name.lower().rstrip("."): dict(types) for name, types in (records or {}).items()}
        self.failing = {name.lower().rstrip(".") for name in failing}
        self.asked: list[tuple[str, str]] = []
        """The names and types that were asked for, in order."""

    async def look_up(self, name: str, kind: str) -> tuple[str, ...]:
        """Give the records. Raises DnsError for a name that fails."""
        return self.look_up_blocking(name, kind)

    def look_up_blocking(self, name: str, kind: str) -> tuple[str, ...]:
        """Give the records. Raises DnsError for a name that fails."""
        name = name.lower().rstrip(".")
        self.asked.append((name, kind))
        if name in self.failing:
            raise DnsError(f"{kind} of {name}: a test")
        return tuple(self.records.get(name, {}).get(kind, ()))
