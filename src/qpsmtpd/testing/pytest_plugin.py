"""Fixtures for pytest: a server that keeps the mail it is sent.

    def test_it_sends_a_mail(smtpd):
        send_a_mail(smtpd.host, smtpd.port)
        assert smtpd.messages[0].message["Subject"] == "hi"

pytest finds this by an entry point. Nothing else is imported before a test asks for a fixture.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import pytest

if TYPE_CHECKING:
    from qpsmtpd.plugin import Plugin
    from qpsmtpd.testing.capture import CapturingKit, Smtpd

__all__ = ["async_smtpd", "pytest_configure", "smtpd", "smtpd_factory", "smtpd_kit"]


class _Options(TypedDict, total=False):
    plugins: "Sequence[str | type[Plugin]]"
    config: Mapping[str, Sequence[str]]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "smtpd(plugins=[], config={}): plugins, as lines or classes, and settings of the smtpd fixtures"
    )


def _options(request: pytest.FixtureRequest) -> _Options:
    """What the nearest markers say; one on the test stands before one on its class or module."""
    options: _Options = {}
    for marker in request.node.iter_markers("smtpd"):
        if marker.args or marker.kwargs.keys() - {"plugins", "config"}:
            raise pytest.UsageError("pytest.mark.smtpd takes plugins=[...] and config={...}")
        options = cast("_Options", {**marker.kwargs, **options})
    return options


@pytest.fixture
def smtpd(request: pytest.FixtureRequest) -> "Generator[Smtpd]":
    """A server on loopback, in threads of its own, for tests of any kind."""
    from qpsmtpd.testing.capture import running

    with running(**_options(request)) as server:
        yield server


@pytest.fixture
def smtpd_factory() -> "Generator[Callable[..., Smtpd]]":
    """Start servers: `smtpd_factory(plugins=[...], config={...})`; they stop when the test ends."""
    from qpsmtpd.testing.capture import running

    with contextlib.ExitStack() as stack:

        def start(
            plugins: "Sequence[str | type[Plugin]]" = (), config: Mapping[str, Sequence[str]] | None = None
        ) -> "Smtpd":
            return stack.enter_context(running(plugins, config))

        yield start


@pytest.fixture
async def async_smtpd(request: pytest.FixtureRequest, anyio_backend: object) -> "AsyncGenerator[Smtpd]":  # noqa: ARG001 - anyio's plugin runs what asks for it
    """A server on loopback in the loop of the test itself, asyncio or trio; for `@pytest.mark.anyio`."""
    from qpsmtpd.testing.capture import running_async

    async with running_async(**_options(request)) as server:
        yield server


@pytest.fixture
def smtpd_kit(request: pytest.FixtureRequest) -> "CapturingKit":
    """A server without any port: `smtpd_kit.connect()` gives a client in memory."""
    from qpsmtpd.testing.capture import CapturingKit

    options = _options(request)
    return CapturingKit(*options.get("plugins", ()), config=options.get("config"))
