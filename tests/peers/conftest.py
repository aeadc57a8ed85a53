"""Other people's servers as fixtures: started once for a run, and empty for every test."""

import contextlib
import functools
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # last: tests/oracle imports its own conftest by name

import servers


@pytest.fixture(scope="session")
def files():
    """The authority whose certificates these servers show, as files."""
    with servers.directory() as base:
        yield servers.Files.make(base)


def _skipping(start):
    """Start a server inside a test, or skip the test, with the reason."""

    @contextlib.contextmanager
    def started(*args, **kwargs):
        with contextlib.ExitStack() as stack:
            try:
                server = stack.enter_context(start(*args, **kwargs))
            except servers.MissingError as reason:
                pytest.skip(str(reason))
            yield server

    return started


def _started(start, *args):
    """Run a server for the session, or skip the tests that want it, with the reason."""
    with _skipping(start)(*args) as server:
        yield server


@pytest.fixture(scope="session")
def _postfix(files):
    yield from _started(servers.postfix, files)


@pytest.fixture(scope="session")
def _exim(files):
    yield from _started(servers.exim, files)


@pytest.fixture(scope="session")
def _dovecot(files):
    yield from _started(servers.dovecot, files)


@pytest.fixture(scope="session")
def _submission(files, _dovecot):
    yield from _started(servers.postfix, files, _dovecot.sasl)


@pytest.fixture(scope="session")
def redis():
    """Redis: `url`, and `path` of its Unix socket; what is in it belongs to all tests."""
    yield from _started(servers.redis)


@pytest.fixture
def own_redis():
    """A Redis for one test, which may kill its `process`, as a context manager."""
    return _skipping(servers.redis)


@pytest.fixture
def postfix(_postfix):
    """Postfix: `address`, `inbox(user)`, `forget()`, `also["bare"]` without PIPELINING and CHUNKING."""
    _postfix.forget()
    return _postfix


@pytest.fixture
def submission(_submission):
    """Postfix, as `postfix`, for users who authenticate; it asks Dovecot."""
    _submission.forget()
    return _submission


@pytest.fixture
def exim(_exim):
    """Exim: as `postfix`."""
    _exim.forget()
    return _exim


@pytest.fixture
def dovecot(_dovecot):
    """Dovecot's LMTP: as `postfix`, and `path` is a Unix socket where it listens too."""
    _dovecot.forget()
    return _dovecot


@pytest.fixture(scope="session")
def clamd():
    """ClamAV's daemon: `port`, and `path` of its Unix socket."""
    yield from _started(servers.clamd)


@pytest.fixture(scope="session")
def spamd():
    """SpamAssassin's daemon: `port`."""
    yield from _started(servers.spamd)


@pytest.fixture(scope="session")
def rspamd():
    """Rspamd: `port`."""
    yield from _started(servers.rspamd)


@pytest.fixture(scope="session")
def opendkim():
    """OpenDKIM: `port`."""
    yield from _started(servers.opendkim)


@pytest.fixture(params=["postfix", "exim"])
def mta(request):
    """Each of the servers that take mail by SMTP."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def haproxy(files):
    """HAProxy in front of an address, as a context manager: `haproxy(address, tls=False)` gives the address in front."""
    return functools.partial(_skipping(servers.haproxy), files)


@pytest.fixture
def smtp_sink():
    """Postfix's smtp-sink, as a context manager: `smtp_sink(*options)` gives `address` and `messages(count)`."""
    return _skipping(servers.smtp_sink)


@pytest.fixture
def smtp_source():
    """Send messages by Postfix's smtp-source: `smtp_source(address, *options)`."""
    try:
        servers.program("smtp-source")
    except servers.MissingError as reason:
        pytest.skip(str(reason))
    return servers.smtp_source
