"""The plugin kit with a directory of its own, and a plugin that accepts the rest."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # last: tests/oracle imports its own conftest by name

from name_server import NameServer

from qpsmtpd import OK, Plugin
from qpsmtpd.testing import Kit


class Base(Plugin):
    """Accepts every recipient and every message that no other plugin has an opinion about."""

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK, "taken by base"


@pytest.fixture
def directory(tmp_path):
    """The config directory that `kit` reads."""
    (tmp_path / "config").mkdir(exist_ok=True)
    return tmp_path / "config"


@pytest.fixture
def kit(directory):
    """Make a kit from lines and classes; `Base` comes last, unless told otherwise."""

    def kit(*plugins, config=None, base=True, names=None):
        return Kit(*plugins, *([Base] if base else []), directory=directory, config=config, names=names)

    return kit


@pytest.fixture
def name_server():
    """A DNS server on loopback: `set(records)`, `asked`, and `config` for the setting `nameservers`."""
    with NameServer() as server:
        yield server
