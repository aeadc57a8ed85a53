r"""Spares clients, senders and recipients that are listed the checks of later plugins.

Four lists, one for each hook; where the entry matches, no later plugin of that hook is
asked, and a note tells the plugins of other hooks:

| file | a line is | hook | note |
|---|---|---|---|
| `config/whitelisthosts` | an address, a block, or the beginning of addresses up to a dot or colon | connect | `whitelisthost` of the connection |
| `config/whitelisthelo` | what the client calls itself | helo, ehlo | `whitelisthelo` of the connection |
| `config/whitelistsenders` | an address or a domain | mail | `whitelistsender` of the transaction |
| `config/whitelistrcpt` | an address or a domain | rcpt | `whitelistrcpt` of the transaction, their number |

Case does not count, and a domain does not mean its subdomains. Most bundled plugins skip their checks for
a whitelisted host or sender at any hook. If the environment variable WHITELISTCLIENT is
set (as tcpserver does), every client passes at connect, with the note `whitelistclient`.

Two of the lists need care. A recipient in `whitelistrcpt` is accepted at once, whoever
sends, and without `rcpt_ok` being asked, so list recipients of yours alone. What a client calls itself,
and the sender, are its own words, and prove nothing.

Arguments:
- `per_recipient 1`: all four lists are looked at for each recipient, at rcpt, by the settings of
  that recipient (see the plugin `user_config`). Whoever is on any of the lists has the recipient accepted,
  even one elsewhere.
- `merge 0`: with `per_recipient 1`, a recipient that has a list of its own is not subject to the
  common one. By default both count.

A line of `whitelisthosts` that makes no sense is logged and left out.

Result: OK for what is listed, else DECLINED.

In config/plugins, before the plugins that check:

    whitelist
"""

import contextlib
import os
from functools import lru_cache

from qpsmtpd import DECLINED, LOGDEBUG, LOGINFO, OK, Mailbox, Parameters, Plugin, Result, Site, Transaction
from qpsmtpd.networks import Network, is_listed, parse_network
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.plugins._options import flag

_HOSTS, _HELLOS, _SENDERS, _RECIPIENTS = "whitelisthosts", "whitelisthelo", "whitelistsenders", "whitelistrcpt"


class Whitelist(Plugin):
    """Spares clients, senders and recipients that are listed the checks of later plugins."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments, and serve the hooks they ask for."""
        options = self.options(args, "per_recipient", "merge")
        self._merge = flag(options, "merge", default=True)
        self._networks = parse_each(self, _HOSTS, parse_network)
        self._networks()  # what is wrong in the file should be in the log from the start
        self._per_recipient = flag(options, "per_recipient")
        if self._per_recipient:
            for check in (self.check_host_for, self.check_hello_for, self.check_sender_for):
                self.register_hook("rcpt", check)
            for hook in ("helo", "ehlo"):
                self.register_hook(hook, self.wait_for_recipient)
        else:
            self.register_hook("connect", self.check_host)
            for hook in ("helo", "ehlo"):
                self.register_hook(hook, self.check_hello)
            self.register_hook("mail", self.check_sender)
        self.register_hook("rcpt", self.check_recipient)

    # A list for each hook

    def check_host(self, transaction: Transaction) -> Result:
        """Serve the hook connect."""
        return self._judge_host(is_listed(self.connection.remote_ip, self._networks()))

    def check_hello(self, transaction: Transaction, host: str, *_: str) -> Result:
        """Serve the hooks helo and ehlo."""
        return self._judge_hello(host, self.qp.config(_HELLOS))

    def check_sender(self, transaction: Transaction, sender: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook mail."""
        return self._judge_sender(sender, self.qp.config(_SENDERS))

    def check_recipient(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt."""
        lines = self._lines_for(recipient, _RECIPIENTS) if self._per_recipient else self.qp.config(_RECIPIENTS)
        if not _names(lines, recipient):
            return DECLINED
        before = transaction.notes.get("whitelistrcpt", 0)
        transaction.notes["whitelistrcpt"] = before + 1 if isinstance(before, int) else 1
        self.log(LOGINFO, f"pass, {recipient.address} is in {_RECIPIENTS}")
        return OK

    # All lists for each recipient

    def wait_for_recipient(self, transaction: Transaction, host: str, *_: str) -> Result:
        """Serve the hooks helo and ehlo with `per_recipient`."""
        self.log(LOGDEBUG, "skip, until there is a recipient")
        return DECLINED

    def check_host_for(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt with `per_recipient`: look at the client."""
        networks = _networks_in(self.qp.config(_HOSTS, recipient))
        if self._merge:
            networks += self._networks()
        return self._judge_host(is_listed(self.connection.remote_ip, networks))

    def check_hello_for(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt with `per_recipient`: look at what the client calls itself."""
        return self._judge_hello(self.connection.hello_host or "", self._lines_for(recipient, _HELLOS))

    def check_sender_for(self, transaction: Transaction, recipient: Mailbox, parameters: Parameters) -> Result:
        """Serve the hook rcpt with `per_recipient`: look at the sender."""
        return self._judge_sender(transaction.reverse_path, self._lines_for(recipient, _SENDERS))

    def _lines_for(self, recipient: Mailbox, setting: str) -> tuple[str, ...]:
        own = self.qp.config(setting, recipient)
        return own + self.qp.config(setting) if self._merge else own

    # What it means to be listed

    def _judge_host(self, listed: bool) -> Result:
        notes, address = self.connection.notes, self.connection.remote_ip
        if "WHITELISTCLIENT" in os.environ:
            notes["whitelistclient"] = 1
            self.log(LOGINFO, "pass, WHITELISTCLIENT is set")
            return OK
        if not listed:
            return DECLINED
        notes["whitelisthost"] = 1
        self.log(LOGINFO, f"pass, {address} is in {_HOSTS}")
        return OK

    def _judge_hello(self, host: str, lines: tuple[str, ...]) -> Result:
        if not host or host.lower() not in _entries(lines):
            return DECLINED
        self.connection.notes["whitelisthelo"] = 1
        self.log(LOGINFO, f"pass, {host} is in {_HELLOS}")
        return OK

    def _judge_sender(self, sender: Mailbox, lines: tuple[str, ...]) -> Result:
        if not _names(lines, sender):
            return DECLINED
        self.transaction.notes["whitelistsender"] = 1
        self.log(LOGINFO, f"pass, {sender.address} is in {_SENDERS}")
        return OK


@lru_cache(256)
def _entries(lines: tuple[str, ...]) -> frozenset[str]:
    return frozenset(line.lower() for line in lines)


@lru_cache(256)
def _networks_in(lines: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks that lines name; what names none is left out."""
    networks: list[Network] = []
    for line in lines:
        with contextlib.suppress(ValueError):
            networks.append(parse_network(line))
    return tuple(networks)


def _names(lines: tuple[str, ...], mailbox: Mailbox) -> bool:
    """Whether one of the lines is the address, or its domain; the null sender has neither."""
    domain = mailbox.domain
    return bool(domain and not _entries(lines).isdisjoint((mailbox.address.lower(), domain.lower())))
