"""A site from lines of `config/plugins` and plugin classes, in the order given."""

import pytest

from qpsmtpd import OK, Plugin
from qpsmtpd.config import Line
from qpsmtpd.loader import _chains, _load_line
from qpsmtpd.testing import Client, make_site
from qpsmtpd.testing.memory import CLIENT, Clock


class Base(Plugin):
    """Accepts every recipient and every message that no other plugin has an opinion about."""

    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK, "taken by base"


class Stage:
    """A server whose plugins are lines and classes; `Base` comes last."""

    def __init__(self, directory):
        self.directory = directory
        self.log = []
        self.clock = Clock()
        self.site = None

    def load(self, *plugins, config=None, base=True):
        self.site = site = make_site(directory=self.directory, log=self.log, clock=self.clock, config=config)
        for number, plugin in enumerate((*plugins, Base) if base else plugins, 1):
            if isinstance(plugin, str):
                site.plugins.append(_load_line(site, Line(plugin, self.directory / "plugins", number)))
            else:
                site.plugins.append(plugin(site, plugin.__name__))
                site.plugins[-1].register(site)
            site.chains = _chains(site.plugins)
        return self

    def connect(self, ip=CLIENT.remote_ip):
        return Client(self.site, type(CLIENT)(ip, 40000, "192.0.2.1", 25, "client.example"))

    def logged(self, text):
        return [line for line in self.log if text in line]


@pytest.fixture
def stage(tmp_path):
    (tmp_path / "config").mkdir()
    return Stage(tmp_path / "config")
