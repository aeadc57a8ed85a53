"""Help for tests of plugins and of programs that embed the server: no socket, no event loop."""

from qpsmtpd.testing.memory import Client, make_site

__all__ = ["Client", "make_site"]
