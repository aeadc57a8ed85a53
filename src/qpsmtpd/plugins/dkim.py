"""Checks the DKIM signatures of messages, and signs those of your own users (RFC 6376).

A signature says that a domain takes responsibility for a message, and that nobody has changed
it since. Messages of strangers are checked when all of their content has come; up to 8
signatures of each, by rsa-sha256 or ed25519-sha256. Messages of relay clients, which are
those who have authenticated, too, are signed just before they are queued. Whitelisted clients
and those that are refused anyway are not checked.

The result of a signature is pass, fail (the message was changed, or somebody else has signed),
policy (it relies on what is too weak, rsa-sha1 or an RSA key below 1024 bits, or on a key that is too
large to try), neutral (it makes no sense, or has expired), permerror (there is no key that fits) or temperror (the DNS does not answer). Each
stands in the header field Authentication-Results. Text that is added behind a body of which only a
part is signed (`l=`) counts as a change.

Arguments:
- `reject`: 1 refuses a message that has signatures of which one is fail, and none is pass or temperror;
  naughty leaves that to the plugin naughty; 0, the default, refuses nothing. The default is
  what RFC 6376 section 6.1 asks for: mailing lists often change what they forward, so leave it
  to the plugin dmarc to refuse.
- `reject_type` is perm (the default), soft, disconnect or temp_disconnect.

To sign for a domain, make a directory `config/dkim/DOMAIN` with two files, `private`, an RSA key in PEM
that the server may read and nobody else, and `selector`, a word that names this key:

    mkdir -p config/dkim/example.org
    cd config/dkim/example.org
    echo mar2026 > selector
    openssl genrsa -out private 2048
    chmod 400 private
    openssl rsa -in private -pubout -outform DER | openssl base64 -A

The last command prints the public key. Publish it as a TXT record of
`mar2026._domainkey.example.org`: `v=DKIM1; k=rsa; p=` and the key.

Which domain signs is a matter of the sender; of the From field, if the sender is empty. For
mail.example.org the directory of example.org is taken, if there is none of its own. Where the
directory is a symbolic link to that of another domain, that domain signs. The files are read anew
for each message. The other files of the directory may be anything.

Notes of the transaction: `dkim_result` is the best result, or none; `dkim_pass_domains` is a list
of the domains that have signed; `dkim_signatures` is a list of (domain, result).

Result: DECLINED, or what `reject_type` says: DENY (554) by default. A pass raises the
connection's karma by 1, a fail lowers it by 1. If the DNS does not answer, or a key for signing
is no good, the message passes, unsigned, and the log says so.

Needs dkimpy and cryptography: `pip install 'qpsmtpd[dkim]'`.

In config/plugins, before dmarc and naughty, and behind the plugins that change messages:

    dkim
"""

from collections.abc import Sequence
from pathlib import Path

from qpsmtpd import DECLINED, LOGDEBUG, LOGERROR, LOGINFO, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.plugins._dkim import Signature, SigningKey, check_signatures, dkim_library, hash_body, sign
from qpsmtpd.plugins._domains import ascii_domain, author_domain

_BEST_FIRST = ("pass", "temperror", "fail", "policy", "permerror", "neutral")
_LONGEST_FILE = 65_536


class Dkim(Plugin):
    """Checks the DKIM signatures of messages, and signs those of your own users."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError, and ConfigError if a library is not installed."""
        self._rejects = "reject" in self.options(args)
        self._dkim = dkim_library()
        self._keys = (qp.settings.directory or Path("config")) / "dkim"
        _ = qp.resolver

    # Messages of strangers

    @blocking
    def hook_data_post_headers(self, transaction: Transaction) -> Result:
        """Check the signatures, of the message as the client has sent it."""
        if self.is_immune():
            return DECLINED
        signatures = check_signatures(
            self._dkim, transaction.header, hash_body(transaction.body_file), self._look_up_text
        )
        for signature in signatures:
            self._note(signature)
        if not signatures:
            self.log(LOGINFO, "skip, no signature")
            self.store_auth_results("dkim=none")
        results = {signature.result for signature in signatures}
        result = next((each for each in _BEST_FIRST if each in results), "none")
        transaction.notes["dkim_result"] = result
        transaction.notes["dkim_signatures"] = [(each.domain, each.result) for each in signatures]
        transaction.notes["dkim_pass_domains"] = [each.domain for each in signatures if each.result == "pass"]
        if result in {"pass", "fail"}:
            self.adjust_karma(1 if result == "pass" else -1)
        return DECLINED

    def _look_up_text(self, name: str) -> Sequence[str]:
        return self.qp.resolver.look_up_blocking(name, "TXT")

    def _note(self, signature: Signature) -> None:
        """Log a result, and have it shown in the header."""
        where = f" header.d={signature.domain} header.s={signature.selector}" if signature.domain else ""
        self.store_auth_results(f"dkim={signature.result}{where}")
        who = f"{signature.domain or 'unknown domain'}, selector {signature.selector or 'unknown'}"
        match signature.result:
            case "pass":
                self.log(LOGINFO, f"pass, {who}")
            case "temperror":
                self.log(LOGERROR, f"error, {who}: {signature.reason}")
            case _:
                self.log(LOGINFO, f"fail, {signature.result}, {who}: {signature.reason}")

    def hook_data_post(self, transaction: Transaction) -> Result:
        """Refuse a message whose signatures are false, if that is wanted."""
        if not self._rejects or transaction.notes.get("dkim_result") != "fail" or self.is_immune():
            return DECLINED
        return self.get_reject("the DKIM signature of this message does not fit it", "the signature does not fit")

    # Messages of our own users

    @blocking
    def hook_queue_pre(self, transaction: Transaction) -> Result:
        """Sign the message as it is queued."""
        if not self.connection.relay_client:
            return DECLINED
        author = _author(transaction)
        found = self._find_key(author)
        if found is None:
            self.log(LOGDEBUG, f"skip, there is no key for {author or 'nobody'}")
            return DECLINED
        domain, directory = found
        try:
            field = self._sign(transaction, domain, directory)
        except (OSError, ValueError) as error:
            self.log(LOGERROR, f"error, not signed for {domain}: {error}")
            return DECLINED
        except Exception as error:  # noqa: BLE001 - dkimpy raises anything for what makes no sense
            self.log(LOGERROR, f"error, not signed for {domain}: dkimpy fails: {type(error).__name__}: {error}")
            return DECLINED
        transaction.header.prepend(field)
        self.log(LOGINFO, f"pass, signed for {domain}")
        return DECLINED

    def _find_key(self, author: str) -> tuple[str, Path] | None:
        """The domain that signs for the author's, and its directory."""
        labels = author.split(".") if author else []
        for start in range(len(labels)):
            domain = ".".join(labels[start:])
            directory = self._keys / domain
            if directory.is_symlink():
                domain = ascii_domain(directory.readlink().name)
            if domain and directory.is_dir():
                return domain, directory
        return None

    def _sign(self, transaction: Transaction, domain: str, directory: Path) -> bytes:
        selector = ascii_domain(_read(directory / "selector").decode("ascii", "replace").strip())
        if not selector:
            raise ValueError(f"{directory / 'selector'} holds no selector")
        key = SigningKey(domain, selector, _read(directory / "private"))
        return sign(self._dkim, transaction.header, hash_body(transaction.body_file), key, int(self.qp.wall()))


def _author(transaction: Transaction) -> str:
    """The domain whose key is looked for; empty if there is none."""
    if transaction.reverse_path.domain:
        return ascii_domain(transaction.reverse_path.domain)
    try:
        return author_domain(transaction.header)
    except ValueError:
        return ""


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LONGEST_FILE)
