"""Who is connected now: in this process, or in all workers together.

Workers count in shared memory. Each worker has a region that it alone writes, so there is
no lock that a killed worker could leave locked; whoever sees it end clears its region.
A worker first counts a connection in and then looks at all regions. Of two that come at the
same time at least one is seen by both workers: at worst both are refused where one had
room, but never are both let in.

To look for an address is to search the entries that the other workers have ever needed at
once: some 50 µs where 1000 addresses are connected.
"""

import mmap
import threading
from collections.abc import Iterator

__all__ = ["Census", "Regions", "WorkerCensus"]


class Census:
    """Who is connected now: how many in all, and how many from each address."""

    def __init__(self) -> None:
        self.connected: dict[str, int] = {}
        """The connections of this process by their address."""
        self._own_total = 0
        self._lock = threading.Lock()  # under the blocking driver sessions come and go in many threads

    @property
    def total(self) -> int:
        """How many are connected."""
        return self._own_total

    def count(self, address: str) -> int:
        """How many are connected from an address."""
        return self.connected.get(address, 0)

    def enter(self, address: str) -> None:
        """Count a connection in."""
        with self._lock:
            self._own_total += 1
            self.connected[address] = count = self.connected.get(address, 0) + 1
            self._publish(address, count)

    def leave(self, address: str) -> None:
        """Count a connection out."""
        with self._lock:
            self._own_total -= 1
            self.connected[address] = count = self.connected[address] - 1
            if not count:
                del self.connected[address]
            self._publish(address, count)

    def _publish(self, address: str, count: int) -> None:
        """Let others know of a change."""

    def addresses(self) -> tuple[str, ...]:
        """The addresses connected now, each as often as it is."""
        with self._lock:
            return tuple(address for address, count in self.connected.items() for _ in range(count))


_NUMBER = 4  # octets of a number
_ENTRY = 64  # octets: a count, and the address behind a mark, filled up with zeros
_MARK = b"@"  # even no address at all is something to be found


class Regions:
    """Shared memory for the censuses of workers, to be made before they are forked.

    The totals and the sizes of all regions come first, so that a sum over them is quick.
    """

    ENTRIES = 8192
    """Different addresses in one region. Connections from further ones count in the total, and
    by address in their own worker alone.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._start = -(-2 * _NUMBER * number // _ENTRY) * _ENTRY
        self._memory = mmap.mmap(-1, self._start + number * self.ENTRIES * _ENTRY)
        numbers = memoryview(self._memory).cast("I")
        self._totals = numbers[:number]
        self._used = numbers[number : 2 * number]
        """How many entries of each region have ever been in use: what is to be searched."""
        self._numbers = numbers

    @property
    def total(self) -> int:
        """How many connections are counted in all regions."""
        return sum(self._totals)

    def clear(self, region: int) -> None:
        """Forget all connections of a region; its worker has ended."""
        self._used[region] = 0
        self._totals[region] = 0

    def set_total(self, region: int, total: int) -> None:
        """Write how many connections a worker has."""
        self._totals[region] = total

    def append(self, region: int, address: str) -> int:
        """Make an entry for an address, with the count 0. Gives its place, 0 where there is no room."""
        used = self._used[region]
        if used == self.ENTRIES:
            return 0
        place = self._start + (region * self.ENTRIES + used) * _ENTRY
        self.set_count(place, 0)  # an earlier worker may have left one
        self.rename(place, address)
        self._used[region] = used + 1
        return place

    def rename(self, place: int, address: str) -> None:
        """Let an entry whose count is 0 be that of another address."""
        self._memory[place + _NUMBER : place + _ENTRY] = _key(address)

    def set_count(self, place: int, count: int) -> None:
        """Write how many connections come from the address of an entry: one store, so nobody reads half of it."""
        self._numbers[place // _NUMBER] = count

    def count(self, address: str, but: int) -> int:
        """How many connections from an address are counted, those of one region left out."""
        key, find, total = _key(address), self._memory.find, 0
        for region, used in enumerate(self._used):
            if not used or region == but:
                continue
            start = self._start + region * self.ENTRIES * _ENTRY
            place = start + _NUMBER
            # An entry that has been renamed may leave none, or for a moment two.
            while (place := find(key, place, start + used * _ENTRY)) >= 0:
                if place % _ENTRY == _NUMBER:
                    total += self._numbers[place // _NUMBER - 1]
                place += 1
        return total

    def addresses(self) -> Iterator[tuple[str, int]]:
        """The addresses in all regions with their counts."""
        for region, used in enumerate(self._used):
            start = self._start + region * self.ENTRIES * _ENTRY
            for place in range(start, start + used * _ENTRY, _ENTRY):
                if count := self._numbers[place // _NUMBER]:
                    key = self._memory[place + _NUMBER + len(_MARK) : place + _ENTRY]
                    yield key.rstrip(b"\0").decode("utf-8", "replace"), count


def _key(address: str) -> bytes:
    """An address as it stands in an entry. Of what is longer than any address, the beginning counts."""
    size = _ENTRY - _NUMBER
    return (_MARK + address.encode("utf-8", "surrogateescape"))[:size].ljust(size, b"\0")


class WorkerCensus(Census):
    """Who is connected now to all workers; this one counts in a region of its own."""

    def __init__(self, regions: Regions, region: int) -> None:
        super().__init__()
        regions.clear(region)
        self._regions = regions
        self._region = region
        self._places: dict[str, int] = {}
        self._free: list[int] = []

    @property
    def total(self) -> int:
        """How many are connected."""
        return self._regions.total

    def count(self, address: str) -> int:
        """How many are connected from an address."""
        return self.connected.get(address, 0) + self._regions.count(address, but=self._region)

    def addresses(self) -> tuple[str, ...]:
        """The addresses connected now, each as often as it is."""
        return tuple(address for address, count in self._regions.addresses() for _ in range(count))

    def _publish(self, address: str, count: int) -> None:
        self._regions.set_total(self._region, self._own_total)
        place = self._places.get(address) or self._new_place(address)
        if not place:
            return
        self._regions.set_count(place, count)
        if not count:
            del self._places[address]
            self._free.append(place)

    def _new_place(self, address: str) -> int:
        if self._free:
            place = self._free.pop()
            self._regions.rename(place, address)
        else:
            place = self._regions.append(self._region, address)
        if place:
            self._places[address] = place
        return place
