"""A session in memory: the transport whose peer is the program itself."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import TypeVar, cast

from qpsmtpd.session.effects import Await, CallBlocking, Close, Effect, Pause, Receive
from qpsmtpd.session.session import Session
from qpsmtpd.site import current_session

__all__ = ["Link", "complete"]

T = TypeVar("T")


class Link:
    """One session: what the peer sends is given to `go`, which gives what the peer is told."""

    def __init__(self, session: Session, pause: Callable[[Pause], bytes]) -> None:
        """`pause` lets time pass, or does not; it gives the bytes that end the pause, if any do."""
        self.session = session
        self.closed = False
        """The session has closed the connection."""
        self._pause = pause
        self._run = session.run()

    def go(self, outcome: object = None) -> bytes:
        """Go on to the next time that the session wants bytes, and give what it has said.

        `outcome` is what comes of the last time: bytes, `b""` at the end of file, or an `Interruption`.
        """
        said = b""
        outside = current_session.get()
        step: Callable[..., Effect] = self._run.send
        try:
            while True:
                effect = step(outcome)
                said += self.session.data_to_send()
                if isinstance(effect, Receive):
                    break
                try:
                    outcome, step = self._perform(effect), self._run.send
                except Exception as error:  # noqa: BLE001 - it is the session's to handle
                    outcome, step = error, self._run.throw
        except StopIteration:
            said += self.session.data_to_send()
            self.closed = True
        finally:
            current_session.set(outside)  # what the program does next belongs to no session
        return said

    def vanish(self) -> None:
        """End the session as a transport does that is stopped itself."""
        self._run.close()
        self.closed = True

    def _perform(self, effect: Effect) -> object:
        if isinstance(effect, Pause):
            return self._pause(effect)
        self.closed = self.closed or isinstance(effect, Close)
        return _perform(effect)


def complete(effects: Generator[Effect, object, T]) -> T:
    """Perform effects that need no peer until there are no more; give what comes of them."""
    outcome: object = None
    step: Callable[..., Effect] = effects.send
    outside = current_session.get()
    try:
        while True:
            effect = step(outcome)
            try:
                outcome, step = _perform(effect), effects.send
            except Exception as error:  # noqa: BLE001 - it is for those who have asked for the effect
                outcome, step = error, effects.throw
    except StopIteration as stop:
        return cast("T", stop.value)
    finally:
        current_session.set(outside)


def _perform(effect: Effect) -> object:
    """Perform an effect that needs no peer, at once; of the others there is nothing to do."""
    match effect:
        case CallBlocking(function):
            return function()
        case Await(awaitable):
            return _finish(awaitable)
        case _:
            return None


def _finish(awaitable: Awaitable[object]) -> object:
    """Run something to its end: in an event loop of asyncio, or without one where the program itself runs in a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_await(awaitable))
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError(
        "a hook waits for I/O, which a session in memory has not while the program runs in an event loop itself"
    )


async def _await(awaitable: Awaitable[object]) -> object:
    return await awaitable
