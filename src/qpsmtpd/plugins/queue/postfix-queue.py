"""Hands messages to Postfix's cleanup service, which puts them into its queue.

    queue/postfix-queue [SOCKET] [FLAG ...] [timeout SECONDS]

SOCKET is the path of the service, by default /var/spool/postfix/public/cleanup. Where
`config/cleanup_sockets` names some, one a line, they are tried in their order instead; a line is a path,
or HOST:PORT of a cleanup service that listens there. The environment variable
POSTFIXQUEUE comes before both. The user of this server has to be let into Postfix's
directory `public`: add it to the group postdrop.

The flags say what cleanup is to do besides; none is set by default:
- `FLAG_FILTER`: heed header_checks, body_checks and content_filter,
- `FLAG_MILTER`: ask the milters of non_smtpd_milters,
- `FLAG_BCC_OK`: add recipients by always_bcc and the like,
- `FLAG_MAP_OK`: replace addresses by virtual_alias_maps and the like,
- `FLAG_MASK_EXTERNAL`: these four, as for mail that Postfix takes from the network; usually
  what you want,
- `FLAG_NONE`, `FLAG_BOUNCE`, `FLAG_HOLD`, `FLAG_DISCARD`, `FLAG_SMTP_REPLY`, `FLAG_SMTPUTF8`,
  `FLAG_AUTOUTF8`, `FLAG_FILTER_ALL`, `FLAG_MASK_INTERNAL` and `FLAG_MASK_EXTRA` are as in
  Postfix's `cleanup_user.h`. FLAG_DISCARD drops every message.

`timeout` is how long the whole talk may take, 100 by default; keep it below `timeouthook`.

Postfix is told what the client wants of delivery status notifications (ENVID, RET, NOTIFY,
ORCPT), and that SMTPUTF8 is needed where the client says so. The message goes over as it is; a
bare LF ends a line. Postfix refuses a message without a Received field.

Notes: `postfix-queue-flags` and `postfix-queue-sockets`, of the transaction, say what was used.

Result: OK if the message is in Postfix's queue; DENY (552) if Postfix says that it will never
take it: too big, too many hops, content refused; DENYSOFT (452) if it says later, or if no
service can be reached or makes sense, which is logged.

In config/plugins:

    queue/postfix-queue FLAG_MASK_EXTERNAL
"""

import os

from qpsmtpd import DENY, DENYSOFT, LOGERROR, LOGINFO, LOGWARN, OK, Plugin, Result, Site, Transaction, blocking
from qpsmtpd.config import did_you_mean
from qpsmtpd.plugins._lists import parse_each
from qpsmtpd.plugins._options import seconds
from qpsmtpd.plugins._streams import Place, Stream
from qpsmtpd.plugins.queue._cleanup import FLAG_SMTPUTF8, FLAGS, Answer, deliver, envelope_records, verdict
from qpsmtpd.plugins.queue._common import LATER, TIMEOUT, message_id

_SOCKET = "/var/spool/postfix/public/cleanup"


class PostfixQueue(Plugin):
    """Hands messages to Postfix's cleanup service, which puts them into its queue."""

    def register(self, qp: Site, *args: str) -> None:
        """Read the arguments. Raises ValueError."""
        words = list(args)
        options = self.options((words.pop(-2), words.pop()) if words[-2:-1] == ["timeout"] else (), "timeout")
        self._timeout = seconds(options, "timeout", TIMEOUT)
        self._default = _place(words.pop(0) if words and words[0].startswith("/") else _SOCKET)
        self._flags = 0
        for name in words:
            if name not in FLAGS:
                raise ValueError(f"there is no flag {name!r}{did_you_mean(name, FLAGS)}")
            self._flags |= FLAGS[name]
        wanted = os.environ.get("POSTFIXQUEUE")
        self._wanted = (_place(wanted),) if wanted else ()
        self._listed = parse_each(self, "cleanup_sockets", _place)

    @blocking
    def hook_queue(self, transaction: Transaction) -> Result:
        """Hand the message over."""
        places = self._wanted or self._listed() or (self._default,)
        flags = self._flags | (FLAG_SMTPUTF8 if "smtputf8" in transaction.sender_parameters else 0)
        transaction.notes["postfix-queue-flags"] = flags
        transaction.notes["postfix-queue-sockets"] = places
        try:
            envelope = envelope_records(transaction, self.qp.wall())
        except ValueError as error:
            self.log(LOGERROR, f"fail, {error}")
            return DENY, "an address of this message cannot be handed on"
        try:
            with self._connect(places) as stream:
                answer = deliver(stream, flags, envelope, transaction.content.lf_chunks())
        except OSError as error:
            self.log(LOGERROR, f"error, {error}")
            return DENYSOFT, LATER
        return self._result(answer, message_id(transaction))

    def _connect(self, places: tuple[Place, ...]) -> Stream:
        """Connect to the first service that can be reached. Raises OSError if none can."""
        trouble: list[str] = []
        for place in places:
            try:
                return Stream(place, self._timeout)
            except OSError as error:
                trouble.append(f"{place}: {error}")
                self.log(LOGWARN, f"error, {trouble[-1]}")
        raise OSError(f"no cleanup service can be reached: {'; '.join(trouble)}")

    def _result(self, answer: Answer, name: str) -> Result:
        code, text = verdict(answer)
        if code is OK:
            self.log(LOGINFO, f"pass, queued as {answer.queue_id}")
            return OK, f"Queued! {name} (Queue-Id: {answer.queue_id})"
        self.log(LOGINFO, f"fail, {answer.queue_id}, status {answer.status}: {text}")
        return code, text


def _place(text: str) -> Place:
    """A path, or a host with a port, since this service has none of its own. Raises ValueError."""
    return Place.parse(text, 0)
