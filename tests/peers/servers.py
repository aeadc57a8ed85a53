"""Other people's servers, each on loopback ports of its own, and the mail that they have delivered.

A server is a context manager: it writes its configuration into a directory, starts the program in the foreground, waits
until it answers, and in the end stops what it has started and nothing else. Raises `MissingError` where a program is not
installed or needs the rights of root. Addresses are USERS at DOMAIN; every other one is refused at RCPT.
"""

import contextlib
import grp
import importlib.metadata
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

DOMAIN = "peer.example"
USERS = ("alice", "bob", "carol")
PASSWORD = "an open secret"
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256")
SECONDS = 20

# Debian lets only one mail server be installed; `.ci/run` unpacks the second one here.
UNPACKED = Path("/opt/qpsmtpd-peers")
PATH = ":".join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", f"{UNPACKED}/usr/sbin"])


class MissingError(Exception):
    """This machine cannot run the server; the text says why."""


class PeerError(Exception):
    """The server does not start, or does not deliver; the text is its log."""


def program(name):
    """The path of a program."""
    if path := shutil.which(name, path=PATH):
        return path
    raise MissingError(f"{name} is not installed")


def need_root(name):
    if os.geteuid() != 0:
        raise MissingError(f"{name} can be started by root only")


def wait_for(condition, what, seconds=SECONDS):
    """Ask until the answer is true, and give it."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise PeerError(what())
        threading.Event().wait(0.01)
    return answer


@contextlib.contextmanager
def directory():
    """A directory for the files of a server: unlike those of pytest, users to whom a server changes may enter it,
    and its name is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="qpsmtpd-peer-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@contextlib.contextmanager
def free_port():
    """A port that nobody else is given meanwhile: bound and never listened on, which leaves it to one server that sets
    SO_REUSEADDR, as all of these do."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def running(command, log, ready):
    """A program in the foreground, until `ready()` and then until the block ends; `log` says what went wrong."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )  # fmt: skip

    def story():
        return f"{' '.join(map(str, command))}\n{log.read_text('utf-8', 'replace')}"

    def started():
        if ended(process):
            raise PeerError(story())
        return ready()

    # Its status is asked for last, so that until then its number and its group's are nobody else's.
    try:
        wait_for(started, story)
        yield process
    finally:
        os.kill(process.pid, signal.SIGTERM)
        try:
            wait_for(lambda: ended(process), story)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(process):
    """Whether a program has ended, without asking for its status."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def answers(address, greeting=b"220"):
    """Whether a server greets at an address, a pair or the path of a Unix socket."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as client:
        client.settimeout(SECONDS)
        try:
            client.connect(address if isinstance(address, tuple) else str(address))
            return not greeting or client.recv(512).startswith(greeting)
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Files:
    """An authority, and a certificate of it for localhost and 127.0.0.1, as PEM files."""

    ca: Path
    certificate: Path  # with the chain
    key: Path
    both: Path  # the key, then the certificate
    client: Path  # the same for a client by the name client.example

    @classmethod
    def make(cls, base):
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1", common_name="localhost")
        client = authority.issue_cert("client.example", common_name="client.example")
        files = cls(*(base / f"{name}.pem" for name in ("ca", "certificate", "key", "both", "client")))
        authority.cert_pem.write_to_path(files.ca)
        files.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(files.key)
        leaf.private_key_and_cert_chain_pem.write_to_path(files.both)
        client.private_key_and_cert_chain_pem.write_to_path(files.client)
        for path in base.glob("*.pem"):
            path.chmod(0o644)  # it protects nothing, and servers read it as other users
        return files


@dataclass(frozen=True, slots=True)
class Peer:
    """A running server, and the Maildirs into which it delivers, one for each of USERS."""

    address: tuple[str, int]
    mail: Path
    log: Path
    path: Path | None = None  # a Unix socket where it takes messages too: by LMTP, Postfix by its own protocol
    sasl: Path | None = None  # a Unix socket where it authenticates for others
    also: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # where it listens with other settings

    def inbox(self, user, count=1):
        """Wait until so many messages have come to a user, and give them, in no order."""
        new = self.mail / user / "new"

        def arrived():
            return new.is_dir() and len(found := sorted(new.iterdir())) >= count and found

        found = wait_for(arrived, lambda: f"no mail for {user}\n{self.log.read_text('utf-8', 'replace')}")
        return [path.read_bytes() for path in found]

    def forget(self):
        """Empty the Maildirs."""
        for path in self.mail.glob("*/new/*"):
            path.unlink()


MASTER = """\
{listeners}
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""

MAIN = """\
compatibility_level = 3.6
queue_directory = {base}/queue
data_directory = {base}/data
maillog_file = {base}/log
maillog_file_prefixes = {base}
myhostname = localhost
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {base}/mail
virtual_mailbox_maps = inline:{{ {users} }}
virtual_minimum_uid = 1
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
default_transport = discard
smtpd_recipient_restrictions = {who}, reject
smtpd_tls_security_level = may
smtpd_tls_chain_files = {both}
smtpd_client_connection_rate_limit = 0
local_header_rewrite_clients =
"""

SASL = """\
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {sasl}
smtpd_tls_auth_only = yes
"""

# The directories that `postfix check` would make, in two seconds.
QUEUES = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "private", "public",
    "saved", "trace",
)  # fmt: skip


@contextlib.contextmanager
def postfix(files, sasl=None):
    """Postfix by SMTP, with STARTTLS.

    It listens again as `bare`, without PIPELINING and CHUNKING, and as `trusting`, which takes XCLIENT. If `sasl` is Dovecot's socket for that, it takes mail
    of USERS with the password PASSWORD only, and listens again for each of MECHANISMS, by that name.
    """
    postconf = program("postconf")
    need_root("postfix")
    owner = pwd.getpwnam("nobody")
    daemons = subprocess.run([postconf, "-dh", "daemon_directory"], capture_output=True, text=True, check=True).stdout
    settings = {
        "": "",
        "bare": "-o smtpd_discard_ehlo_keywords=pipelining,chunking",
        "trusting": "-o smtpd_authorized_xclient_hosts=127.0.0.1",
    }
    if sasl:
        settings |= {name: f"-o smtpd_sasl_mechanism_filter={name.lower()}" for name in MECHANISMS}
    with directory() as base, contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(free_port()) for name in settings}
        for name in ("etc", "queue", "data", "mail", "queue/pid"):
            (base / name).mkdir()
        for name in QUEUES:
            (base / "queue" / name).mkdir()
            shutil.chown(base / "queue" / name, "postfix")
        shutil.chown(base / "data", "postfix")
        shutil.chown(base / "mail", owner.pw_uid)
        config = MAIN.format(
            base=base, domain=DOMAIN, users=", ".join(f"{user}@{DOMAIN}={user}/" for user in USERS), uid=owner.pw_uid,
            gid=owner.pw_gid, both=files.both, who="permit_sasl_authenticated" if sasl else "permit_auth_destination",
        )  # fmt: skip
        if sasl:
            config += SASL.format(sasl=sasl)
        (base / "etc" / "main.cf").write_text(config)
        os.utime(base / "etc" / "main.cf", (0, 0))  # Postfix waits until its configuration is some seconds old
        listeners = "\n".join(f"{ports[name]} inet n - n - - smtpd {options}" for name, options in settings.items())
        (base / "etc" / "master.cf").write_text(MASTER.format(listeners=listeners))
        log, addresses = base / "log", {name: ("127.0.0.1", port) for name, port in ports.items()}
        master = [f"{daemons.strip()}/master", "-c", base / "etc", "-d"]
        with running(master, log, lambda: answers(addresses[""])):
            yield Peer(addresses.pop(""), base / "mail", log, path=base / "queue/public/cleanup", also=addresses)


EXIM = """\
primary_hostname = localhost
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
spool_directory = {base}/spool
log_file_path = {base}/log-%s
pid_file_path = {base}/pid
keep_environment =
deliver_drop_privilege = true
smtp_accept_max = 0
smtp_accept_queue = 0
smtp_accept_queue_per_connection = 0
host_lookup =
rfc1413_hosts =
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
acl_smtp_rcpt = recipients
acl_smtp_data = accept

begin acl
recipients:
  accept verify = recipient
  deny message = no such user

begin routers
local:
  driver = accept
  domains = {domain}
  local_parts = {users}
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {base}/mail/$local_part_data
  maildir_format
  create_directory
  message_prefix =
  message_suffix =
"""


@contextlib.contextmanager
def exim(files):
    """Exim by SMTP, with STARTTLS."""
    command = program("exim4")
    need_root("exim4")
    try:
        owner = pwd.getpwnam("Debian-exim")
    except KeyError:
        raise MissingError("exim4 needs the user Debian-exim") from None
    with directory() as base, free_port() as port:
        for name in ("spool", "mail"):
            (base / name).mkdir()
            shutil.chown(base / name, owner.pw_uid, owner.pw_gid)
        config = base / "exim.conf"
        config.write_text(
            EXIM.format(
                base=base, port=port, certificate=files.certificate, key=files.key, domain=DOMAIN, users=" : ".join(USERS)
            )
        )  # fmt: skip
        base.chmod(0o777)  # it writes its log and its process id as its user
        log, address = base / "log", ("127.0.0.1", port)
        with running([command, "-C", config, "-bdf"], log, lambda: answers(address)):
            yield Peer(address, base / "mail", log)


OPENSMTPD = """\
listen on 127.0.0.1 port {port} hostname localhost
action "sink" relay host smtp://127.0.0.1:{sink}
match from any for domain "{domain}" action "sink"
"""


@contextlib.contextmanager
def opensmtpd(sink):
    """OpenSMTPD by SMTP, which relays to a port on loopback. Its queue has one place, so there is one at a time."""
    command = f"{UNPACKED}/usr/sbin/smtpd"
    if not Path(command).exists():
        raise MissingError("opensmtpd is not unpacked")
    need_root("opensmtpd")
    if answers("/var/run/smtpd.sock", b""):
        raise MissingError("another OpenSMTPD runs here, and it has one control socket")
    for user in ("opensmtpd", "opensmtpq"):
        try:
            pwd.getpwnam(user)
        except KeyError:
            raise MissingError(f"opensmtpd needs the user {user}") from None
    with directory() as base, free_port() as port:
        config, log, address = base / "smtpd.conf", base / "log", ("127.0.0.1", port)
        config.write_text(OPENSMTPD.format(port=port, sink=sink, domain=DOMAIN))
        with running([command, "-d", "-f", config], log, lambda: answers(address)):
            yield Peer(address, base / "mail", log)


@contextlib.contextmanager
def aiosmtpd():
    """aiosmtpd by SMTP, which takes mail for everybody into one Maildir."""
    try:
        importlib.metadata.version("aiosmtpd")
    except importlib.metadata.PackageNotFoundError:
        raise MissingError("aiosmtpd is not installed") from None
    with directory() as base, free_port() as port:
        for name in ("new", "cur", "tmp"):
            (base / "mail" / name).mkdir(parents=True)
        log, address = base / "log", ("127.0.0.1", port)
        command = [
            sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{port}", "-c", "aiosmtpd.handlers.Mailbox", base / "mail",
        ]  # fmt: skip
        with running(command, log, lambda: answers(address)):
            yield Peer(address, base / "mail", log)


DOVECOT = """\
base_dir = {base}/run
state_dir = {base}/state
log_path = {base}/log
protocols = lmtp
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
mail_location = maildir:{base}/mail/%n
mail_save_crlf = yes
first_valid_uid = 1
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
passdb {{
  driver = passwd-file
  args = username_format=%n {base}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%n {base}/users
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
  unix_listener {base}/lmtp {{
    mode = 0666
  }}
}}
service auth {{
  unix_listener {base}/sasl {{
    mode = 0666
  }}
}}
"""

DOVECOT_WITHOUT_ROOT = """\
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
service anvil {{
  chroot =
}}
"""


@contextlib.contextmanager
def dovecot(files):
    """Dovecot by LMTP, on a port and on a Unix socket; it keeps the message's own line endings."""
    command = program("dovecot")
    if not Path("/usr/lib/dovecot/lmtp").exists():
        raise MissingError("dovecot-lmtpd is not installed")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.split()[0]
    if not version.startswith("2.3."):
        raise MissingError(f"this configuration is for Dovecot 2.3 and not for {version}")
    root = os.geteuid() == 0
    owner = pwd.getpwnam("nobody") if root else pwd.getpwuid(os.geteuid())
    with directory() as base, free_port() as port:
        (base / "mail").mkdir()
        if root:
            shutil.chown(base / "mail", owner.pw_uid)
        (base / "users").write_text(
            "".join(f"{user}:{{PLAIN}}{PASSWORD}:{owner.pw_uid}:{owner.pw_gid}::{base}/mail::\n" for user in USERS)
        )
        text = DOVECOT.format(
            base=base, port=port, certificate=files.certificate, key=files.key, mechanisms=" ".join(MECHANISMS).lower()
        )
        if not root:
            text += DOVECOT_WITHOUT_ROOT.format(user=owner.pw_name, group=grp.getgrgid(owner.pw_gid).gr_name)
        config, log, address = base / "dovecot.conf", base / "log", ("127.0.0.1", port)
        config.write_text(text)
        with running([command, "-F", "-c", config], log, lambda: answers(address)):
            yield Peer(address, base / "mail", log, path=base / "lmtp", sasl=base / "sasl")


HAPROXY = """\
global
  stats socket {base}/control
defaults
  mode tcp
  timeout connect 20s
  timeout client 20s
  timeout server 20s
listen front
  bind 127.0.0.1:{port} {tls}
  server back {host}:{back} {proxy}
"""


@contextlib.contextmanager
def haproxy(files, address, *, tls=False):
    """HAProxy, which says with PROXY v2 who has connected; with TLS (and certificates of clients) taken off, if asked.

    Gives the address to connect to. It connects to `address` for clients only, not on its own.
    """
    command = program("haproxy")
    host, back = address
    with directory() as base, free_port() as port:
        config, log = base / "haproxy.conf", base / "log"
        config.write_text(
            HAPROXY.format(
                base=base, port=port, host=host, back=back,
                tls=f"ssl crt {files.both} ca-file {files.ca} verify optional" if tls else "",
                proxy="send-proxy-v2-ssl-cn proxy-v2-options authority,crc32c,ssl-cipher" if tls else "send-proxy-v2",
            )
        )  # fmt: skip
        with running([command, "-db", "-f", config], log, lambda: answers(base / "control", greeting=b"")):
            yield "127.0.0.1", port


@dataclass(frozen=True, slots=True)
class Sink:
    """A running smtp-sink, and the messages that it has dumped."""

    address: tuple[str, int]
    dumps: Path

    def messages(self, count=1):
        """Wait until so many messages have come; each begins with what was said about it, in X- fields."""

        def arrived():
            return len(found := sorted(self.dumps.iterdir())) >= count and [path.read_bytes() for path in found]

        return wait_for(arrived, lambda: f"{count} messages have not come: {list(self.dumps.iterdir())}")


@contextlib.contextmanager
def smtp_sink(*options):
    """Postfix's smtp-sink; its options choose what it offers (`-p`: no PIPELINING, `-L`: LMTP) and what fails."""
    root = os.geteuid() == 0
    with directory() as base, free_port() as port:
        dumps = base / "dumps"
        dumps.mkdir()
        user = ()
        if root:
            shutil.chown(dumps, "nobody")
            user = ("-u", "nobody")
        address = ("127.0.0.1", port)
        command = [program("smtp-sink"), *user, *options, "-d", f"{dumps}/%M.", f"{address[0]}:{port}", "64"]
        with running(command, base / "log", lambda: answers(address, greeting=b"")):  # it may be asked to greet nobody
            yield Sink(address, dumps)


def smtp_source(address, *options):
    """Send messages by Postfix's smtp-source, and fail if it complains."""
    host, port = address
    command = [program("smtp-source"), *options, f"{host}:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


CLAMD = """\
Foreground yes
LocalSocket {base}/socket
TCPAddr 127.0.0.1
TCPSocket {port}
DatabaseDirectory {base}/signatures
TemporaryDirectory {base}
StreamMaxLength 1M
User {user}
"""

MARKER = b"a marker that only this signature knows"
"""What clamd takes for a virus."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon that judges messages, by TCP and by a Unix socket."""

    port: int
    path: Path | None = None


@contextlib.contextmanager
def clamd():
    """ClamAV's daemon, which knows MARKER as the virus Marker, and nothing else."""
    command = program("clamd")
    with directory() as base, free_port() as port:
        (base / "signatures").mkdir()
        (base / "signatures" / "marker.ndb").write_text(f"Marker:0:*:{MARKER.hex()}\n")
        config, log = base / "clamd.conf", base / "log"
        config.write_text(CLAMD.format(base=base, port=port, user=pwd.getpwuid(os.geteuid()).pw_name))
        with running([command, "-c", config], log, lambda: answers(base / "socket", greeting=b"")):
            yield Daemon(port, base / "socket")


@contextlib.contextmanager
def spamd():
    """SpamAssassin's daemon with a few rules of our own, which calls spam what holds MARKER."""
    command = program("spamd")
    with directory() as base, free_port() as port:
        for name in ("rules", "site", "home"):
            (base / name).mkdir()
        if os.geteuid() == 0:
            shutil.chown(base / "home", "nobody")
        (base / "rules" / "rules.cf").write_text(
            f"body MARKER /{MARKER.decode()}/\nscore MARKER 9\nadd_header all Status "
            '"_YESNO_, score=_SCORE_ required=_REQD_ tests=_TESTS_ autolearn=_AUTOLEARN_ version=_VERSION_"\n'
            "use_bayes 0\nskip_rbl_checks 1\ndns_available no\n"
        )
        (base / "site" / "check.pre").write_text("loadplugin Mail::SpamAssassin::Plugin::Check\n")
        options = [
            "--local", "--nouser-config", "--syslog=stderr", f"--helper-home-dir={base}/home", "--max-children=1", "--min-children=1",
            f"--configpath={base}/rules", f"--siteconfigpath={base}/site", f"--listen=127.0.0.1:{port}", f"--pidfile={base}/pid",
        ]  # fmt: skip
        if os.geteuid() == 0:
            options.append("--username=nobody")
        with running([command, *options], base / "log", lambda: answers(("127.0.0.1", port), greeting=b"")):
            yield Daemon(port)


RSPAMD = """\
options {{
  tempdir = "{base}";
  pidfile = "{base}/pid";
  control_socket = "{base}/control mode=0600";
  cache_file = "{base}/cache";
  filters = "";
  dns {{ nameserver = "127.0.0.1:9"; timeout = 0.01s; retransmits = 1; }}
}}
logging {{ type = "console"; }}
worker "normal" {{
  bind_socket = "127.0.0.1:{port}";
  count = 1;
}}
actions {{ reject = 15; add_header = 6; }}
lua = "{base}/rules.lua";
"""

RSPAMD_RULES = """\
rspamd_config:register_symbol({{ name = "MARKER", score = 9, callback = function(task)
  task:set_milter_reply({{ add_headers = {{ ["X-Helo"] = task:get_helo() or "", ["X-From"] = task:get_from("smtp")[1].addr }} }})
  return tostring(task:get_content()):find("{marker}", 1, true) ~= nil
end }})
rspamd_config:register_symbol({{ name = "TWO", score = 9, callback = function(task)
  return #task:get_recipients("smtp") > 1
end }})
"""


@contextlib.contextmanager
def rspamd():
    """Rspamd with two rules of our own: for what holds MARKER, and for what has several recipients; both are a reason
    to reject, one of them to add a field."""
    command = program("rspamd")
    with directory() as base, free_port() as port:
        (base / "rules.lua").write_text(RSPAMD_RULES.format(marker=MARKER.decode()))
        config = base / "rspamd.conf"
        config.write_text(RSPAMD.format(base=base, port=port))
        rights = ["--insecure"] if os.geteuid() == 0 else []
        with running(
            [command, "--no-fork", *rights, "--config", config], base / "log", lambda: answers(("127.0.0.1", port), greeting=b"")
        ):  # fmt: skip
            yield Daemon(port)


@contextlib.contextmanager
def opendkim():
    """OpenDKIM, which signs mail from DOMAIN for clients on 192.0.2.0/24."""
    command = program("opendkim")
    with directory() as base, free_port() as port:
        key = base / "key"
        private = rsa.generate_private_key(65537, 2048)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        key.chmod(0o600)
        (base / "hosts").write_text("192.0.2.0/24\n")
        config = base / "opendkim.conf"
        config.write_text(
            f"Socket inet:{port}@127.0.0.1\nDomain {DOMAIN}\nSelector sel\nKeyFile {key}\nMode s\n"
            f"InternalHosts {base}/hosts\nSyslog no\nBackground no\nRequireSafeKeys no\nCanonicalization relaxed/simple\n"
        )
        with running([command, "-f", "-x", config], base / "log", lambda: answers(("127.0.0.1", port), greeting=b"")):
            yield Daemon(port)


REDIS = """\
bind 127.0.0.1
port {port}
unixsocket {base}/socket
dir {base}
save ""
appendonly no
"""


@dataclass(frozen=True, slots=True)
class Keys:
    """A running Redis."""

    port: int
    path: Path
    process: subprocess.Popen

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def redis():
    """Redis, on a port and on a Unix socket, without files."""
    command = program("redis-server")
    with directory() as base, free_port() as port:
        config, log = base / "redis.conf", base / "log"
        config.write_text(REDIS.format(base=base, port=port))
        with running([command, config], log, lambda: answers(("127.0.0.1", port), greeting=b"")) as process:
            yield Keys(port, base / "socket", process)


def _with_maildir(start):
    @contextlib.contextmanager
    def started(*files):
        with start(*files) as peer:
            yield f"{peer.address[0]}:{peer.address[1]},maildir={peer.mail}"

    return started


@contextlib.contextmanager
def _relaying(_):
    with free_port() as sink, opensmtpd(sink) as peer:
        yield f"{peer.address[0]}:{peer.address[1]},smtp=127.0.0.1:{sink}"


COMPARABLE = {
    "aiosmtpd": _with_maildir(lambda _: aiosmtpd()),
    "postfix": _with_maildir(postfix),
    "exim": _with_maildir(exim),
    "opensmtpd": _relaying,
}


@contextlib.contextmanager
def comparable(name, files):
    """Run one of COMPARABLE; give what `qpsmtpd compare` is told of it."""
    with COMPARABLE[name](files) as place:
        yield f"{name}={place},to={USERS[0]}@{DOMAIN}"
