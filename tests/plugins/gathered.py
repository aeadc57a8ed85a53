"""A DNS that answers nothing before so many questions have been asked: who asks one by one waits in vain."""

import anyio

from qpsmtpd.testing import Names


class Gathered(Names):
    def __init__(self, records=None, *, at_once, **rest):
        super().__init__(records, **rest)
        self.at_once = at_once
        self._waiting = 0
        self._all_there = None

    async def look_up(self, name, kind):
        if self._all_there is None:
            self._all_there = anyio.Event()
        self._waiting += 1
        if self._waiting >= self.at_once:
            self._all_there.set()
        with anyio.fail_after(10):
            await self._all_there.wait()
        return await super().look_up(name, kind)
