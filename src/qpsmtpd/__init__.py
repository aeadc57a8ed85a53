"""qpsmtpd: the SMTP server whose every decision is a plugin's."""

__version__ = "0.1.0"
