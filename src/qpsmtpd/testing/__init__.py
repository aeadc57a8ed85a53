"""Help for tests of plugins and of programs that embed the server: no socket, no event loop."""

from qpsmtpd.testing.kit import Call, Kit
from qpsmtpd.testing.memory import CLIENT, Client, Clock, make_site
from qpsmtpd.testing.names import Names

__all__ = ["CLIENT", "Call", "Client", "Clock", "Kit", "Names", "make_site"]
