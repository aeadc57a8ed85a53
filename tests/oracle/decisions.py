"""Where the server differs on purpose: one decision a row of docs/differences.md, by its name.

A decision says which recorded divergences it answers (`texts`, by how they begin), and judges a
difference that was seen: `explains` is true only where the server did exactly what the row says. So
each vector that differs tests the decision. Nothing here knows a vector by its name.
"""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass

from player import same

from qpsmtpd import DENY, DENY_DISCONNECT, DENYSOFT, DENYSOFT_DISCONNECT, DONE, ReturnCode
from qpsmtpd.logs import log_level
from qpsmtpd.protocol import FAILED, REFUSALS, VERDICTS

__all__ = [
    "DECISIONS",
    "REFUSED_AT_START",
    "TESTED_ELSEWHERE",
    "Decision",
    "explanation",
    "fact_explanation",
    "logging_explanation",
    "row_of",
]


@dataclass(frozen=True)
class Decision:
    """One row of docs/differences.md."""

    row: str
    explains: Callable = lambda vector, step: False
    """Whether a step that differs is what this row says."""
    fact: Callable = lambda vector, recorded, real: False
    """Whether a fact that differs is what this row says."""
    log: Callable = lambda vector, recorded, real: False
    """Whether a log that differs is what this row says."""
    texts: tuple[str, ...] = ()
    """How the texts of recorded divergences begin that this row answers."""
    goes_on: bool = False
    """Whether the sessions are in step behind the difference, so that later steps must agree."""


# What happened in a step


def answers(step, *hooks):
    """The answers that the hooks gave in a step: return codes, FAILED, or None."""
    return [(call.hook, answer(call)) for call in step.calls if not hooks or call.hook in hooks]


def answer(call):
    if isinstance(call.code, ReturnCode) or call.code is None:
        return call.code
    return FAILED


def texts(step):
    """All texts that hooks gave in a step."""
    return [
        value
        for call in step.calls
        if isinstance(call.result, tuple)
        for value in call.result[1:]
        if isinstance(value, str)
    ]


def as_the_table_says(step, hook, code):
    """Whether the last reply and the closing are those of the verdict table."""
    verdict = VERDICTS[hook][code]
    expected = [] if verdict.reply is None else [verdict.reply.code]
    return step.real.codes[len(step.real.codes) - len(expected) :] == expected and step.real.closed == verdict.close


def refusal(hooks, codes, when=lambda step: True, *, same_calls=False):
    """Explains: one of the hooks gave one of the codes, and the table was followed.

    With `same_calls` the same hooks have been called as in the original.
    """

    def explains(vector, step):
        return (
            when(step)
            and not (same_calls and step.trace_differs)
            and any(code in codes and as_the_table_says(step, hook, code) for hook, code in answers(step, *hooks))
        )

    return explains


def failure(vector, step):
    """A hook or its parser failed: the table's reply to that, and nobody was asked any more."""
    for hook, code in answers(step):
        if code is FAILED and as_the_table_says(step, hook, FAILED):
            return True
        if hook.endswith("_parse") and any(entry[1] == "@parse" for entry in step.real.trace):
            return step.real.codes == [VERDICTS[hook][FAILED].reply.code]
    return False


def no_return_code(vector, step):
    """A small number was given where a return code belongs: it is a failure like any other nonsense."""
    return any(call.code in (0, 1) for call in step.calls if isinstance(call.code, int)) and failure(vector, step)


def differing_entries(step):
    """The pairs of trace entries that differ; None if the traces are not the same calls in the same order."""
    old, new = step.recorded.trace, step.real.trace
    if [entry[:2] for entry in old] != [entry[:2] for entry in new]:
        return None
    return [(a, b) for a, b in zip(old, new, strict=True) if not same(a, b)]


def only(step, *entries):
    """Whether nothing but trace entries of these kinds differs; gives the pairs."""
    pairs = differing_entries(step)
    if step.replies_differ or step.closing_differs or not pairs or any(old[1] not in entries for old, _ in pairs):
        return []
    return pairs


def only_snapshots(step, *parts):
    """Whether snapshots differ in these parts, and nothing else differs."""
    pairs = only(step, "@snapshot")
    found = {part for old, new in pairs for part in new[2] if not same(old[2][part], new[2][part])}
    return bool(found) and found <= set(parts)


def snapshots(trace):
    return [entry[2] for entry in trace if entry[1] == "@snapshot"]


def names(snapshot):
    return [name for name, _ in snapshot["header"]]


# The explanations that need more than a line


def own_reply(vector, step):
    """One reply where the original gave two: the plugin's own with DONE, the server's without."""
    old, new = step.recorded.codes, step.real.codes
    if len(old) != 2 or step.closing_differs or step.trace_differs:
        return False
    done = any(code is DONE for _, code in answers(step))
    return new == (old[:1] if done else old[1:])


def silent_done(vector, step):
    """DONE from HELO or EHLO: the server says nothing of its own."""
    return (
        any(code is DONE for _, code in answers(step, "helo", "ehlo"))
        and step.recorded.codes == [451]
        and step.real.codes == []
        and not step.closing_differs
    )


def header_refusal(vector, step):
    """A refusal at the end of the header is told when the content has ended."""
    calls = [call for call in step.before + step.calls if call.hook == "data_headers_end"]
    return any(
        answer(call) in (DENY, DENYSOFT)
        and as_the_table_says(step, "data_headers_end", answer(call))
        and not any(entry[1].startswith("queue") for entry in step.real.trace)
        for call in calls[-4:]
    )


def done_ends_message(vector, step):
    """DONE behind the content: the transaction is over, as behind any other answer."""
    return (
        any(code is DONE for _, code in answers(step, "data_post", "queue_pre"))
        and not step.replies_differ
        and not step.closing_differs
        and all(entry[1] == "reset_transaction" for entry in step.real.trace[len(step.recorded.trace) :])
        and step.real.trace[: len(step.recorded.trace)] == step.recorded.trace
    )


def second_greeting(vector, step):
    return (
        re.match(r"(?i)(helo|ehlo) ", step.sent) is not None
        and step.recorded.codes == [503]
        and step.real.codes == [250]
        and (
            step.real.trace[:1] == []
            or step.real.trace[0][1] in ("reset_transaction", "ehlo", "helo", "ehlo_parse", "helo_parse")
        )
    )


def nested_mail(vector, step):
    return (
        step.sent.lower().startswith("mail ")
        and step.recorded.codes == [250]
        and step.real.codes == [503]
        and step.real.trace == []
    )


_DOT_STRING = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_MAILBOX = re.compile(
    rf"<(?:(?:{_DOT_STRING}|{_QUOTED})@(?:{_LABEL}(?:\.{_LABEL})*|\[{_OCTET}(?:\.{_OCTET}){{3}}\]))?>"
)
_PATH = re.compile(r"(?is)(?:MAIL FROM|RCPT TO): ?(<.*?>)(?: .*)?\r\n")
_BARE = re.compile(r"(?<!\r)\n|\r(?!\n)")


def empty_path(vector, step):
    return (
        re.fullmatch(r"(?i)MAIL FROM: *\r\n", step.sent) is not None
        and (step.recorded.codes, step.real.codes) == ([250], [501])
        and not step.closing_differs
    )


def strict_address(vector, step):
    """A path is refused where RFC 5321 does not allow it, and accepted where it does."""
    path = _PATH.fullmatch(step.sent)
    if path is None or step.closing_differs:
        return False
    well_formed = _MAILBOX.fullmatch(path[1]) is not None
    return step.real.codes == ([250] if well_formed else [501]) and step.recorded.codes == (
        [501] if well_formed else [250]
    )


def bare_line_end(vector, step):
    """A bare CR or LF: 554 behind the content, 500 to a command, 421 where a message seems to end, or no reply yet."""
    return _BARE.search(step.sent) is not None and step.real.codes in ([554], [500], [421], [])


def undoubled_dot(vector, step):
    return re.search(r"(?m)^\.[^.\r\n]", step.sent) is not None and only_snapshots(step, "body_length", "body_lines")


def forged_results(vector, step):
    """All Authentication-Results of the client are moved aside, and the one on top is ours."""
    return (
        only_snapshots(step, "header", "header_order")
        and len(re.findall(r"(?mi)^Authentication-Results:", step.sent)) > 1
        and all(names(each).count("Authentication-Results") == 1 for each in snapshots(step.real.trace))
        and all(names(each)[0] == "Authentication-Results" for each in snapshots(step.real.trace))
    )


def fields_kept(vector, step):
    return re.search(r"(?m)^[!-9;-~]+[ \t]+:", step.sent) is not None and only_snapshots(step, "header", "header_order")


def received_folded(vector, step):
    return (
        only_snapshots(step, "header", "header_order")
        and bool(answers(step, "received_line"))
        and all(names(each).count("Received") == 1 for each in snapshots(step.real.trace))
    )


def body_seen_whole(vector, step):
    return only_snapshots(step, "body_length", "body_lines") and all(
        each["body_length"] == sum(map(len, each["body_lines"])) for each in snapshots(step.real.trace)
    )


def connection_limit(vector, step):
    """A connection over `max_per_ip` is refused before any plugin is asked, so later entries are missing."""
    if vector.get("kind") != "listener":
        return False
    old, new = step.recorded, step.real
    if old.replies or new.replies:
        return new.codes == [421] and new.closed and not step.calls
    return len(new.trace) < len(old.trace) and same(old.trace[: len(new.trace)], new.trace)


def results_kept(vector, step):
    """What the hook answered is in the notes: the recorded value is null."""
    return all(old[2][2] is None for old, _ in only(step, "@hook_result")) and bool(only(step, "@hook_result"))


def nobody_left(vector, step):
    """The original queued a message without a recipient; here no hook of queueing is asked."""
    return (
        any(each["recipients"] == [] for each in snapshots(step.recorded.trace))
        and step.real.codes == [554]
        and not any(entry[1].startswith("queue") for entry in step.real.trace)
    )


def network_edges(vector, step):
    """A client at the edge of a listed network is in it."""
    pairs = only(step, "@conn", "ok", "deny", "@note")
    return bool(pairs) and re.search(r"\.(0|255)$", vector.get("peer", {}).get("ip", "")) is not None


def empty_local_part(vector, step):
    return '<""@' in step.sent and not step.replies_differ and not step.closing_differs


def zero_text(vector, step):
    return "0" in texts(step) and any(
        as_the_table_says(step, hook, code) and (not VERDICTS[hook][code].plugin_text or said.texts == ["0"])
        for hook, code in answers(step)
        if code in REFUSALS
        for said in step.real.replies[-1:]
    )


def headers_end_lines(vector, step):
    return (
        any(code in REFUSALS for _, code in answers(step, "data_headers_end"))
        and step.recorded.codes == step.real.codes
        and not step.closing_differs
        and step.real.replies[0].texts[:1] == step.recorded.replies[0].texts
    )


def ip_as_hello(vector, step):
    """The plugin helo refuses a name that is an address of four octets, whatever they are, and no shorter one."""
    name = re.fullmatch(r"(?i)(?:HELO|EHLO) ([0-9.]+)\r\n", step.sent)
    if name is None or not any(call.plugin == "helo" for call in step.calls):
        return False
    return (DENY_DISCONNECT in dict(answers(step, "helo", "ehlo")).values()) is is_whole_ip(name[1])


def helo_reject_type(vector, step):
    """The plugin helo refuses as its argument says."""
    arguments = next((plugin["args"] for plugin in vector["plugins"] if plugin["name"] == "helo"), ())
    codes = [code for hook, code in answers(step, "helo", "ehlo") if code in REFUSALS]
    return (
        "reject_type" in arguments
        and step.recorded.codes == [550]
        and any(as_the_table_says(step, hook, code) for hook in ("helo", "ehlo") for code in codes)
    )


def hello_parser(vector, step):
    return step.real.codes == [501] and any(entry[1] == "@parse" for entry in step.real.trace)


def early_talk(vector, step):
    """Content behind DATA, before the go-ahead, is refused; nothing of it is executed."""
    return (
        re.match(r"(?i)DATA\r\n.", step.sent) is not None
        and (step.real.codes, step.real.closed) in (([554], True), ([421], True))
        and any(call.plugin == "earlytalker" for call in step.calls if answer(call) in REFUSALS)
    )


def content_is_logged(vector, step):
    """Where config/content_log_enabled says so, `content_log` is asked, and declines; nothing else differs."""
    entry = ["watch", "ok", ["content_log", "DECLINED", ""]]
    enabled = vector["config"].get("content_log_enabled", ["0"])[0].lower() in ("1", "yes", "true")
    rest = [each for each in step.real.trace if each != entry]
    return enabled and same(step.recorded.trace, rest) and not step.replies_differ and not step.closing_differs


# AUTH and TLS


def decoded(text):
    """What base64 stands for; None if it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def response(step):
    """What the client has sent to AUTH, with the command or behind it; None if that was no response."""
    words = step.sent.strip().split(" ")
    if words[0].lower() != "auth":
        return words[0]
    return words[2] if len(words) > 2 else None


def answered(step, code):
    """Whether the reply is this one, and neither closing nor a call of a hook differs from what one expects then."""
    return step.real.codes == [code] and not step.closing_differs and step.real.trace == []


def bad_base64(vector, step):
    text = response(step)
    return text not in (None, "*", "=") and decoded(text) is None and answered(step, 501)


def cancelled(vector, step):
    return response(step) == "*" and answered(step, 501)


def no_password(vector, step):
    """A response without a password gets the reply to bad credentials."""
    given = decoded(response(step) or "")
    return bool(given) and not given.partition(b"\0")[2].partition(b"\0")[2] and answered(step, 535)


def user_names(vector, step):
    given = decoded(response(step) or "") or b""
    return re.search(rb"[\x01-\x1f\x7f]", given) is not None and answered(step, 535)


def early_response(vector, step):
    return re.match(r"(?i)AUTH CRAM-MD5 .", step.sent) is not None and answered(step, 501)


def auth_in_transaction(vector, step):
    return step.sent.upper().startswith("AUTH ") and step.recorded.codes != [503] and answered(step, 503)


def gone_in_auth(vector, step):
    return step.sent == "" and step.recorded.codes == [535] and step.real.codes == [] and step.real.closed


def keywords_of(step):
    recorded = [set(reply.keywords) for reply in step.recorded.replies if reply.keywords is not None]
    return recorded[0] - set(step.real.replies[0].texts[1:]) if recorded else set()


def no_mechanism_parse(vector, step):
    """The hook auth_parse is not taken for a mechanism `_PARSE`."""
    missing = keywords_of(step)
    if missing:
        return not step.trace_differs and all("_PARSE" in keyword for keyword in missing)
    return step.sent.upper().startswith("AUTH _PARSE") and step.real.codes == [504]


def auth_behind_tls(vector, step):
    """Where AUTH is to come behind TLS it does, whether TLS can be had or not."""
    told = vector["config"].get("tls_before_auth", ["0"]) != ["0"]
    return told and bool(keywords_of(step)) and all(each.startswith("AUTH") for each in keywords_of(step))


def tls_without_hooks(vector, step):
    """The plugin tls serves no hooks: it declined in all of them, and nothing else differs."""
    old = [entry for entry in step.recorded.trace if entry != ["watch", "ok", ["tls", "DECLINED", ""]]]
    return step.trace_differs and same(old, step.real.trace) and not step.replies_differ and not step.closing_differs


def failed_auth_is_told(vector, step):
    """The result field of a message behind a failed AUTH names the mechanism and the user."""
    if not only_snapshots(step, "header"):
        return False
    values = [dict(each["header"])["Authentication-Results"] for each in snapshots(step.real.trace)]
    return all(re.search(r"auth=fail \(([a-z0-9-]+)\) smtp\.auth=.+", value) for value in values)


def known_command(vector, step):
    return re.match(r"(?i)(expn|etrn)\b", step.sent) is not None and step.real.codes == [502] and not step.trace_differs


def parameter_not_offered(vector, step):
    """The parameter of an extension that is not offered, or of the other command."""
    foreign = re.search(r"(?i)^(MAIL .* AUTH|RCPT .* (SIZE|BODY))=", step.sent)
    return foreign is not None and step.real.codes == [555]


def users_are_no_patterns(vector, step):
    """A user name that is not in the file, but would match a line of it as a pattern."""
    return step.recorded.codes == [235] and step.real.codes == [535] and "flat_auth_pw" in vector["config"]


def refused_by(plugin, step):
    """Whether this plugin has refused the content, and the table was followed."""
    return any(
        call.plugin == plugin and answer(call) in REFUSALS and as_the_table_says(step, call.hook, answer(call))
        for call in step.calls
        if call.hook == "data_post"
    )


def header_text(vector, step):
    """What is wrong with the header is said in words where the original said a number; it refuses the same messages."""
    refused = [[entry[2] for entry in each.trace if entry[1] == "deny"] for each in (step.recorded, step.real)]
    (old, number), (new, words) = [(each[0][:2], each[0][2]) if each else (None, "") for each in refused]
    return refused_by("headers", step) and old == new and number.isdecimal() and not words.isdecimal()


def bogus_bounce(vector, step):
    """Bounces to several recipients, and those that `deny` or `denysoft` is for, are refused."""
    args = next((entry["args"] for entry in vector["plugins"] if entry["name"] == "bogus_bounce"), [])
    several = len([call for call in step.before if call.hook == "rcpt"]) > 1
    wanted = args[:1] in (["deny"], ["denysoft"]) or args[:2] == ["reject", "1"]
    return wanted and (several or "Return-Path:" in step.sent) and refused_by("bogus_bounce", step)


def map_line(vector, step):
    """A line of a map has no line end: it holds without a text, and the text is the text alone."""
    pairs = only(step, "ok", "deny")
    if pairs:
        return all(old[2][:2] == new[2][:2] and old[2][2].rstrip("\n") == new[2][2] for old, new in pairs)
    line = next((call for call in step.calls if call.plugin == "rcpt_map"), None)
    address = _PATH.fullmatch(step.sent)
    if line is None or address is None:
        return False
    words = [each.split() for text in vector["files"].values() for each in text.splitlines()]
    return step.recorded.codes == [550] and [address[1].strip("<>"), answer(line).name] in words


# Facts


def address_fact(vector, recorded, real):
    """The address is refused where it is no RFC 5321 path, and accepted where it is one."""
    if vector["kind"] not in ("address", "address_parts") or isinstance(vector["input"], str) is (
        vector["kind"] != "address"
    ):
        return False
    given = vector["input"] if isinstance(vector["input"], str) else vector["input"]["user"]
    well_formed = _MAILBOX.fullmatch(given if given.startswith("<") else f"<{given}>") is not None
    return recorded["accepted"] != real["accepted"] == well_formed


def parts_fact(vector, recorded, real):
    """The parts of a mailbox are taken as they are."""
    return vector["kind"] == "address_parts" and (real["user"], real["host"]) == (
        vector["input"]["user"],
        vector["input"]["host"],
    )


def empty_path_fact(vector, recorded, real):
    return (
        vector["kind"] == "command_parse" and vector["input"]["line"].strip() == "FROM:" and real == {"result": "DENY"}
    )


def include_fact(vector, recorded, real):
    return vector["kind"] == "config_file" and real == {"error": True}


def is_whole_ip(text):
    parts = text.split(".")
    return len(parts) == 4 and all(part.isdecimal() and int(part) <= 255 for part in parts)


def ip_fact(vector, recorded, real):
    return vector["kind"] == "is_valid_ip" and real["result"] is is_whole_ip(vector["input"])


REFUSED_AT_START = "bad-settings"
"""Told by the player: the server did not start, since an argument or a setting makes no sense."""


# Logs


def level_by_name(vector, recorded, real):
    """`config/loglevel` takes names too."""
    (word,) = vector["config"].get("loglevel", [""])
    return str(word).startswith("LOG") and real.levels == list(range(log_level(word) + 1))


def full_prefix(vector, recorded, real):
    """Every logging plugin writes the hook and the plugin before the text."""
    return real.levels == recorded.levels and real.prefix and real.plugin_name


_CLOSING = (DENY_DISCONNECT, DENYSOFT_DISCONNECT)

DECISIONS = (
    Decision("zero-is-a-text", zero_text, texts=("a message that is the single character 0",)),
    Decision(
        "return-codes",
        no_return_code,
        texts=("result codes are matched",),
    ),
    Decision("header-texts", header_text, texts=("the text sent to the client is the number",), goes_on=True),
    Decision("failed-hook", failure, texts=("a hook that raises or returns", "when a HELO/EHLO parser dies")),
    Decision(REFUSED_AT_START, texts=("the arguments are refused with a warning", "with no directory given")),
    Decision("circular-include", fact=include_fact, texts=("a circular include",)),
    Decision(
        "greeting-position",
        refusal(("connect", "pre-connection"), REFUSALS, lambda step: step.recorded.closed, same_calls=True),
        texts=("RFC 5321 3.1 wants 554", "RFC 5321 wants 421 for a temporary refusal to talk"),
        goes_on=True,
    ),
    Decision(
        "closing-is-421",
        refusal(VERDICTS, {DENYSOFT_DISCONNECT}, lambda step: step.recorded.closed, same_calls=True),
        texts=("RFC 5321 requires 421",),
        goes_on=True,
    ),
    Decision(
        "one-reply-to-hello",
        refusal(
            ("helo", "ehlo"),
            REFUSALS,
            lambda step: step.recorded.codes[-1:] == [451] or step.recorded.closed,
            same_calls=True,
        ),
        texts=("the denial is followed by", "one command produced two replies"),
        goes_on=True,
    ),
    Decision("own-reply", own_reply, goes_on=True),
    Decision("done-is-done", silent_done, texts=("although the plugin says it replied itself",), goes_on=True),
    Decision("done-ends-message", done_ends_message),
    Decision("second-greeting", second_greeting, texts=("RFC 5321 allows EHLO at any time",)),
    Decision("nested-mail", nested_mail, texts=("RFC 5321 wants 503 for a nested MAIL",)),
    Decision(
        "soft-refusals",
        refusal(("noop", "vrfy", "unrecognized_command"), {DENYSOFT, *_CLOSING}),
        texts=("soft denial", "any soft denial", "a soft denial of VRFY", "a DENY_DISCONNECT from VRFY"),
    ),
    Decision(
        "answered-refusals",
        refusal(("unrecognized_command",), REFUSALS, lambda step: not step.recorded.codes, same_calls=True),
        texts=("the client gets no reply and would wait", "the connection is closed without any reply"),
        goes_on=True,
    ),
    Decision(
        "queue-pre-refusals",
        refusal(("queue_pre",), REFUSALS, lambda step: not step.recorded.codes),
        texts=(
            "the client gets no reply at all to the end-of-data dot",
            "the client gets no reply to the end of its message",
        ),
    ),
    Decision(
        "queue-closes",
        refusal(("queue",), set(_CLOSING)),
        texts=("a DENY_DISCONNECT from queue", "no disconnect happens"),
    ),
    Decision(
        "content-refusals",
        refusal(("data_post",), REFUSALS, lambda step: step.recorded.codes in ([552], [452]), same_calls=True),
        texts=("552 (storage) is sent", "452 (storage) is sent"),
        goes_on=True,
    ),
    Decision(
        "header-refusals",
        header_refusal,
        texts=("plain DENY is ignored at this hook", "plain DENYSOFT is ignored at this hook"),
    ),
    Decision(
        "header-refusal-lines",
        headers_end_lines,
        texts=("the reply is sent and the connection closed while",),
        goes_on=True,
    ),
    Decision("hello-parser", hello_parser, texts=("the result code of a HELO/EHLO parser",)),
    Decision("nobody-left", nobody_left),
    Decision("empty-path", empty_path, empty_path_fact, texts=("a missing path after FROM:",)),
    Decision(
        "addresses",
        strict_address,
        address_fact,
        texts=(
            "only the beginning of an unquoted local part",
            "a quoted local part",
            "any character may stand between two",
            "octets above 255",
            "an unquoted space in the local part",
            "a double dot in the local part",
            "an unquoted @ in the local part",
            "taken for the null sender",
            "no length limit on the local part",
        ),
    ),
    Decision("address-parts", empty_local_part, parts_fact, texts=("the empty quoted local part",), goes_on=True),
    Decision("helo-reject-type", helo_reject_type),
    Decision("ip-addresses", ip_as_hello, ip_fact, texts=("any address containing 255",)),
    Decision("network-edges", network_edges, texts=("the first and last address of a CIDR block",), goes_on=True),
    Decision(
        "bare-line-ends",
        bare_line_end,
        texts=("a bare CR is kept", "CR CR LF keeps", "bare LF accepted", "LF . CRLF is accepted"),
    ),
    Decision("dot-stuffing", undoubled_dot, texts=("a single leading dot",), goes_on=True),
    Decision(
        "long-lines",
        lambda vector, step: len(step.sent) > 4096 and step.real.codes == [500],
        goes_on=True,
        texts=("no limit on text line",),
    ),
    Decision(
        "header-kept",
        fields_kept,
        texts=("a line inside the header that is not a field", "a field with a space before"),
        goes_on=True,
    ),
    Decision(
        "body-seen-whole", body_seen_whole, texts=("reading the stored text inside", "body_length is 0"), goes_on=True
    ),
    Decision("auth-fail-result", failed_auth_is_told, texts=("after a failed AUTH",), goes_on=True),
    Decision("forged-results", forged_results, goes_on=True),
    Decision("received-lines", received_folded, goes_on=True),
    Decision("level-names", log=level_by_name),
    Decision("log-prefix", log=full_prefix),
    Decision("max-per-ip", connection_limit, goes_on=True),
    Decision(
        "auth-cancel",
        cancelled,
        texts=("the cancel response *", "a bare * is base64-decoded"),
    ),
    Decision("auth-base64", bad_base64),
    Decision("auth-no-password", no_password, goes_on=True),
    Decision("auth-user-names", user_names, texts=("a line feed inside the user name",)),
    Decision("auth-initial-response", early_response),
    Decision("auth-in-transaction", auth_in_transaction, texts=("RFC 4954: AUTH not permitted",)),
    Decision("auth-gone", gone_in_auth),
    Decision("auth-parse", no_mechanism_parse, goes_on=True),
    Decision("tls-before-auth", auth_behind_tls),
    Decision("tls-hooks", tls_without_hooks, goes_on=True),
    Decision(
        "bogus-bounces",
        bogus_bounce,
        texts=("the number of recipients is never seen as other than one", "the legacy action argument has no effect"),
        goes_on=True,
    ),
    Decision("map-lines", map_line, texts=("a map line without a text is ignored",), goes_on=True),
    Decision("flat-file-users", users_are_no_patterns, texts=("the user name is used as a pattern",)),
    Decision("not-implemented", known_command, goes_on=True),
    Decision("parameters", parameter_not_offered),
    Decision("content-log", content_is_logged, goes_on=True),
    Decision("early-talk", early_talk, texts=("text sent together with DATA",)),
    Decision("results-in-notes", results_kept, texts=("hook results are meant to be kept",), goes_on=True),
)


TESTED_ELSEWHERE = {
    "auth-failures": "tests/protocol/test_auth.py::test_too_many_failures_end_the_session",
    "header-size": "tests/protocol/test_server.py::test_a_header_without_room_gives_no_content",
    "line-ends-kept": "tests/session/test_message.py::test_content_out_is_content_in",
    "queue-trouble": "tests/plugins/test_queue_qmail_queue.py::test_all_other_statuses_refuse_for_now",
    "results-of-a-message": "tests/session/test_authentication_results.py::test_the_results_of_one_message_are_not_the_next_ones",
    "dns-lists": "tests/plugins/test_dnsbl.py::test_what_is_no_entry_does_not_count_and_is_logged",
    "rblsmtpd": "tests/plugins/test_dnsbl.py::test_the_variable_of_tcpserver_refuses_or_spares",
    "dnsbl-special": "tests/plugins/test_dnsbl.py::test_a_listed_client_may_complain_to_postmaster_but_to_nobody_else",
    "whitelist-at-connect": "tests/plugins/test_dns_whitelist_soft.py::test_a_listed_client_is_spared_by_later_plugins",
    "fcrdns-reject": "tests/plugins/test_fcrdns.py::test_who_fails_is_refused_if_the_arguments_say_so",
    "helo-dns-errors": "tests/plugins/test_helo.py::test_nobody_is_refused_while_the_dns_is_down",
    "helo-literals": "tests/plugins/test_helo.py::test_policy_rfc_wants_a_name_with_an_address_and_an_address_with_a_name",
    "fromhost-doubt": "tests/plugins/test_resolvable_fromhost.py::test_while_nobody_can_say_it_is_refused_for_now",
    "fromhost-addresses": "tests/plugins/test_resolvable_fromhost.py::test_bad_senders_are_refused",
    "uribl-names": "tests/plugins/test_uribl.py::test_hosts_are_found_however_they_are_written",
    "forward-answers": "tests/plugins/test_queue_smtp_forward.py::test_a_refusal_is_passed_on_with_its_text",
    "stunnel": "tests/plugins/test_stunnel.py::test_the_client_is_the_one_of_stunnel_s_header",
    "clamd-transfer": "tests/plugins/test_virus_clamdscan.py::test_the_message_may_be_handed_over_in_three_ways",
    "spamd-fields": "tests/plugins/test_spamassassin.py::test_what_the_message_says_of_itself_is_never_shown_to_spamd_nor_taken_for_its_answer",
    "milter-failure": "tests/plugins/test_milter.py::test_a_filter_that_is_down_or_late_lets_mail_pass_or_defers_it",
    "adaptive-verdict": "tests/plugins/test_logging_adaptive.py::test_a_refused_recipient_does_not_hide_that_the_message_was_accepted",
    "spf-null-sender": "tests/plugins/test_sender_permitted_from.py::test_an_empty_sender_is_judged_by_the_name_of_the_client",
    "spf-explanation": "tests/plugins/test_sender_permitted_from.py::test_the_explanation_of_the_domain_is_neither_looked_up_nor_told",
    "spf-field": "tests/plugins/test_sender_permitted_from.py::test_the_result_stands_in_the_header",
    "dkim-reject": "tests/plugins/test_dkim.py::test_reject_refuses_where_no_signature_is_good",
    "dkim-length": "tests/plugins/test_dkim.py::test_what_is_signed_in_part_only_is_a_pass_for_the_whole_alone",
    "dkim-field": "tests/plugins/test_dkim.py::test_each_signature_has_its_result_and_is_noted_for_others",
    "dkim-parent": "tests/plugins/test_dkim.py::test_the_nearest_directory_counts",
    "dmarc-author": "tests/plugins/test_dmarc.py::test_there_has_to_be_one_domain",
    "dmarc-reports": "tests/plugins/test_dmarc.py::test_bad_arguments_are_seen_at_load",
}
"""Rows that no recorded fact is about, and the test of each."""


def explanation(vector, step):
    """The decision that explains a step that differs, or None."""
    return next((decision for decision in DECISIONS if decision.explains(vector, step)), None)


def logging_explanation(vector, recorded, real):
    """The decision that explains a log that differs, or None."""
    return next((decision for decision in DECISIONS if decision.log(vector, recorded, real)), None)


def fact_explanation(vector, recorded, real):
    """The decision that explains a fact that differs, or None."""
    return next((decision for decision in DECISIONS if decision.fact(vector, recorded, real)), None)


def row_of(text):
    """The row that answers a recorded divergence, or None."""
    return next((decision.row for decision in DECISIONS if text.startswith(decision.texts or ("\0",))), None)
