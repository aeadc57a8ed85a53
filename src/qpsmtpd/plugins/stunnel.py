"""Has stunnel on this machine say who its clients are.

    stunnel proxy on

With it, whoever connects from 127.0.0.1 has to begin with a PROXY header, which stunnel sends
where its configuration says `protocol = proxy`; the client is then the one of the header. It
is the same as a line `127.0.0.1` in `config/proxy_networks`, where the networks of other
proxies stand too. Clients on this machine that send mail themselves need another listener
address, such as [::1]:25. `proxy off`, the default, does nothing.

Today the server does TLS itself: see the plugin `tls`.

Result: the setting `proxy_networks`.

In config/plugins, before plugins that serve the hook config themselves:

    stunnel proxy on
"""

from qpsmtpd import DECLINED, OK, Plugin, Result, Site, Transaction
from qpsmtpd.plugins._options import flag

_SETTING, _HERE = "proxy_networks", "127.0.0.1"


class Stunnel(Plugin):
    """Has stunnel on this machine say who its clients are."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the argument. Raises ValueError."""
        if flag(self.options(args, "proxy"), "proxy"):
            self.register_hook("config", self.add_network)

    def add_network(self, transaction: Transaction | None, setting: str) -> Result:
        """Serve the hook config."""
        if setting != _SETTING:
            return DECLINED
        networks = (_HERE, *self.qp.settings.values(_SETTING))
        return (OK, *networks)
