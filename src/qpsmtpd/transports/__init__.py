"""Drivers that move bytes: `asyncio`, `trio`, `anyio` and `blocking`, one file each.

Each has `listen(site, addresses)`, a context manager that serves while its block runs and
gives the bound addresses, and `serve(site, addresses)`, which serves until it is cancelled.
None of them knows SMTP: they perform the effects that a `Session` asks for.
"""
