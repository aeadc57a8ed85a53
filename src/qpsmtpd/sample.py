"""The config directory that `qpsmtpd init` writes: an MX of today."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from qpsmtpd.config import Config, ConfigError, Line
from qpsmtpd.loader import add_line
from qpsmtpd.site import Site

__all__ = ["write_sample"]

_FILES: Mapping[str, str] = {
    "plugins": """\
# The plugins, one a line, with their arguments. They are asked in this order; the first that
# has an opinion decides. `qpsmtpd plugins list` shows them all, `qpsmtpd plugins help NAME`
# says what one does, `qpsmtpd check` tries this file.


## Who connects

# STARTTLS; a pair for trials: qpsmtpd certificate ssl NAME
# tls ssl/NAME.crt ssl/NAME.key

# Clients that we know: config/hosts_allow refuses them, config/relayclients may send to anywhere.
hosts_allow
relay

# The client's name, looked up both ways, for the log, trace fields and other plugins.
fcrdns reject 0

# Clients that talk before they are greeted, or say nonsense, are no mail servers.
earlytalker
count_unrecognized_commands 4

# Clients on the lists of config/dnsbl_zones.
dnsbl

# Who may authenticate, under TLS only: `qpsmtpd passwd config/flat_auth_pw USER` adds a user, with a
# hash of the password, which does for these mechanisms.
# auth/auth_flat_file plain login


## From whom, to whom

# Names of clients that cannot be right.
helo policy lenient

# Senders nobody wants (config/badmailfrom), senders who cannot be answered, and whether the
# client may send for their domain, which dmarc needs to know; without dmarc let it refuse, by `reject 3`.
badmailfrom
resolvable_fromhost
sender_permitted_from reject 1

# Recipients nobody wants: config/badrcptto
badrcptto

# Unknown clients are to try again in a while. Servers do, and most programs that send spam do not.
# greylisting

# Recipients we take mail for: config/rcpthosts. Keep this behind all other checks of RCPT.
rcpt_ok


## What they say

# Mail that goes around in circles, has no sender or no date, or answers what nobody wrote.
loop
headers reject 1 require From,Date
bogus_bounce

# Signatures, and what the domain of From wants done about mail without a good one.
dkim
dmarc

# Scanners, where they run.
# virus/clamdscan
# rspamd
# spamassassin reject 12


## Where it goes

# A path with %d and %l makes a Maildir for each recipient, such as queue/maildir /var/mail/hosts %d/%l
queue/maildir ./mail

# To another server, or to the one that keeps the mailboxes:
# queue/smtp-forward 192.0.2.25 25
# queue/lmtp /run/dovecot/lmtp
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
    "dnsbl_zones": """\
# Lists of clients in the DNS. Read the terms of a list before you use it; most want a name server of
# your own to ask them, not a public one.
# zen.spamhaus.org
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
    """Write a commented config directory; give the files. Raises ConfigError, OSError.

    Plugins whose library is not installed are commented out, with what to install.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} exists and is not empty; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in _FILES.items():
        path = directory / name
        path.write_text(text, "utf-8")
        written.append(path)
    plugins = directory / "plugins"
    plugins.write_text("".join(_usable(plugins)), "utf-8")
    return written


def _usable(plugins: Path) -> Iterator[str]:
    """The lines of `config/plugins`, those that cannot be loaded here as comments."""
    for number, line in enumerate(plugins.read_text("utf-8").splitlines(keepends=True), 1):
        if line.strip() and not line.startswith("#"):
            try:
                add_line(Site(Config(plugins.parent)), Line(line, plugins, number))
            except ConfigError as error:
                yield f"# Left out, since {str(error).partition(': ')[2]}\n# {line}"
                continue
        yield line
