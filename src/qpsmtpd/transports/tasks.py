"""What the drivers of trio and anyio share: tasks that somebody waits for by a callback."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Protocol

from qpsmtpd.transports.links import Finished

__all__ = ["Scope", "Task"]


class Scope(AbstractContextManager["Scope", bool | None], Protocol):
    """What can be cancelled, as trio and anyio have it."""

    def cancel(self) -> object:
        """End what runs in it."""
        ...

    @property
    def cancelled_caught(self) -> bool:
        """Whether that has happened."""
        ...


class Task:
    """Something that is waited for, in a task of its own: a `links.Hook`."""

    def __init__(self, work: Callable[[], Awaitable[object]], scope: Scope, finished: Finished) -> None:
        self._work = work
        self._scope = scope
        self._finished = finished
        self._result: object = None
        self._error: Exception | None = None

    async def run(self) -> None:
        """Do the work; then tell `finished`."""
        with self._scope:
            try:
                self._result = await self._work()
            except Exception as error:  # noqa: BLE001 - it is for those who wait
                self._error = error
        self._finished(self)

    def cancel(self) -> None:
        """End it."""
        self._scope.cancel()

    def cancelled(self) -> bool:
        """Whether it was ended before it was done."""
        return self._scope.cancelled_caught

    def exception(self) -> Exception | None:
        """What it has raised."""
        return self._error

    def result(self) -> object:
        """What it has given."""
        return self._result
