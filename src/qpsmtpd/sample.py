"""The config directory that `qpsmtpd init` writes."""

from collections.abc import Mapping
from pathlib import Path

from qpsmtpd.config import ConfigError

__all__ = ["write_sample"]

_FILES: Mapping[str, str] = {
    "plugins": """\
# The plugins, one a line, with their arguments. They are asked in this order; the first that
# has an opinion decides. `qpsmtpd plugins list` shows them all, `qpsmtpd plugins help NAME`
# says what one does, `qpsmtpd check` tries this file.

# STARTTLS; a pair for trials: qpsmtpd certificate ssl NAME
# tls ssl/NAME.crt ssl/NAME.key

# Who may connect at all: config/hosts_allow
hosts_allow

# Who may authenticate, under TLS only: `qpsmtpd passwd config/flat_auth_pw USER` adds a user, with a
# hash of the password, which does for these mechanisms.
# auth/auth_flat_file plain login

# Who may send mail to anywhere: config/relayclients
relay

# Clients that talk nonsense are sent away.
count_unrecognized_commands 4

# Senders and recipients nobody wants: config/badmailfrom, config/badrcptto
badmailfrom
badrcptto

# Recipients we take mail for: config/rcpthosts. Keep this behind all other checks of RCPT.
rcpt_ok

# Where the mail goes. A path with %d and %l makes a Maildir for each recipient, such as
# queue/maildir /var/mail/hosts %d/%l
queue/maildir ./mail
""",
    "me": """\
# The name of this host, as others know it. Without it the system is asked.
# mx.example.org
""",
    "rcpthosts": """\
# The domains we take mail for, one a line; a leading dot stands for all names below.
# example.org
# .example.org
""",
    "relayclients": """\
# Clients that may send to anywhere: addresses, networks, or beginnings of addresses.
127.0.0.1
::1
""",
    "hosts_allow": """\
# Clients to refuse at once, first match first:
# 192.0.2.66      DENY      go away
# 198.51.100.0/24 DENYSOFT  not now, please
""",
    "badmailfrom": """\
# Senders to refuse: an address, @domain, or a regular expression; then the reason.
# spammer@example.com  we have had enough of your mail
""",
    "badrcptto": """\
# Recipients to refuse: an address, @domain, or a regular expression; then the reason.
# former.colleague@example.org  has left us
""",
    "extensions": """\
# What EHLO offers besides (NAME) or no longer (-NAME); see `docs/encryption-and-identity.md`.
# -DSN
""",
    "databytes": """\
# The largest message, in octets. Without it there is no limit.
52428800
""",
    "loglevel": """\
# How much is logged where config/logging has no plugin: LOGEMERG (0) to LOGDEBUG (7).
LOGINFO
""",
    "logging": """\
# Logging plugins, as in config/plugins. Without one the log goes to standard error.
# logging/file loglevel LOGINFO /var/log/qpsmtpd.log
""",
    "timeout": """\
# Seconds a client may take for a command; config/timeoutdata is for message content (600).
300
""",
}


def write_sample(directory: Path) -> list[Path]:
    """Write a commented config directory; give the files. Raises ConfigError, OSError."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} exists and is not empty; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in _FILES.items():
        path = directory / name
        path.write_text(text, "utf-8")
        written.append(path)
    return written
