"""What plugin authors inherit: shared arguments, shared decisions, inheritance, parsers, addresses."""

import pytest

from qpsmtpd import DECLINED, DENY, DENY_DISCONNECT, DENYSOFT, DENYSOFT_DISCONNECT, LOGINFO, OK, Mailbox, Plugin
from qpsmtpd.config import ConfigError
from qpsmtpd.loader import add
from qpsmtpd.testing import Kit


class Accepts(Plugin):
    def hook_rcpt(self, transaction, recipient, parameters):
        return OK

    def hook_queue(self, transaction):
        return OK, ", ".join(str(recipient) for recipient in transaction.recipients)


@pytest.fixture
def kit(tmp_path):
    """Make a kit from files of plugins and lines or classes."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "config").mkdir()

    def kit(*plugins, config=None, **files):
        for name, source in files.items():
            (tmp_path / "plugins" / f"{name}.py").write_text(source)
        return Kit(*plugins, directory=tmp_path / "config", config=config)

    return kit


# The arguments that every plugin understands

PICKY = """
from qpsmtpd import LOGNOTICE

def register(self, qp, word="none"):
    self.word = word

def hook_mail(self, transaction, sender, parameters):
    self.log(LOGNOTICE, "looked")
    return self.get_reject("not you", "by " + self.word)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "closed"),
    [
        ("", 550, False),
        ("word", 550, False),
        ("reject 1", 550, False),
        ("reject 0", 250, False),
        ("word reject no", 250, False),
        ("reject naughty", 250, False),
        ("reject_type soft", 450, False),
        ("reject_type temp", 450, False),
        ("reject_type perm", 550, False),
        ("reject_type hard", 550, False),
        ("reject_type disconnect", 550, True),
        ("word reject 1 reject_type temp_disconnect loglevel 0", 421, True),
        ("reject 0 reject_type disconnect", 250, False),
    ],
)
def test_reject_and_reject_type_are_understood_by_every_plugin(kit, arguments, code, closed):
    client = kit(f"picky {arguments}", picky=PICKY).connect()
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<a@b.example>").code == code
    assert client.closed is closed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("reject_type never", "reject_type 'never' is none of perm, hard, soft"),
        ("loglevel 8", "'8' is no log level"),
        ("loglevel +x", "'\\+x' is no log level"),
        ("one two", "its arguments are: \\[word\\]"),
        ("one reject 1 two", "its arguments are: \\[word\\]"),
    ],
)
def test_a_shared_argument_that_makes_no_sense_is_refused(kit, arguments, complaint):
    with pytest.raises(ConfigError, match=f"plugins:1: picky: .*{complaint}"):
        kit(f"picky {arguments}", picky=PICKY)


@pytest.mark.parametrize(
    ("arguments", "expected"), [("", 5), ("loglevel 2", 2), ("loglevel +1", 6), ("loglevel -4", 1), ("loglevel +9", 7), ("loglevel -9", 0), ("loglevel LOGCRIT", 2)]
)  # fmt: skip
def test_loglevel_replaces_or_shifts_the_level_of_a_plugins_messages(kit, arguments, expected):
    seen = []

    class Watch(Plugin):
        def hook_logging(self, transaction, level, hook, plugin, text):
            if text == "looked":
                seen.append(level)

    client = kit(Watch, f"picky {arguments}", picky=PICKY).connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@b.example>")
    assert seen == [expected]


def test_a_plugin_may_use_one_of_the_shared_words_for_itself(kit):
    class Own(Plugin):
        shared_arguments = ("reject", "reject_type")

        def register(self, qp, *args):
            self.args = args

    made = kit()
    add(made.site, Own, "loglevel", "99", "reject", "0")
    assert made.site.plugins[0].args == ("loglevel", "99")


def test_an_unknown_argument_is_told_with_the_nearest_one(kit):
    with pytest.raises(ConfigError, match="unknown argument 'rejct'; did you mean reject"):
        kit("badmailfrom rejct 0")


# Shared decisions


@pytest.mark.parametrize(
    ("mark", "word"),
    [
        ("self.connection.relay_client = True", "relay client"),
        ("self.connection.notes['whitelisthost'] = 1", "whitelisted host"),
        ("transaction.notes['whitelistsender'] = 1", "whitelisted sender"),
        ("self.is_naughty('bad')", "naughty"),
        ("self.connection.notes['rejected'] = 'x'", "already rejected"),
    ],
)
def test_checks_are_skipped_for_those_who_are_immune(kit, mark, word):
    seen = []

    class Asks(Plugin):
        def hook_noop(self, transaction):
            seen.append(self.is_immune())

    made = kit("marks", Asks, marks=f"def hook_noop(self, transaction):\n    {mark}\n")
    made.connect().say("NOOP")
    assert seen == [True]
    assert made.logged(f"Asks: skip, {word}")


def test_nobody_is_immune_without_a_reason(kit):
    class Asks(Plugin):
        def hook_noop(self, transaction):
            return (DENY, "immune") if self.is_immune() else DECLINED

    assert kit(Asks).connect().say("NOOP").code == 250


def test_a_refusal_left_to_naughty_is_told_at_its_hook_with_all_reasons(kit):
    made = kit(
        "picky reject naughty reject_type temp",
        "second:0 reject naughty",
        "naughty",
        picky=PICKY,
        second=PICKY.replace("not you", "really not"),
    )
    client = made.connect()
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<a@b.example>").code == 250
    reply = client.say("RCPT TO:<c@d.example>")
    assert (reply.code, reply.text) == (450, "not you\nreally not")


def test_karma_is_a_sum(kit):
    class Judges(Plugin):
        def hook_noop(self, transaction):
            return DENY, str(self.adjust_karma(-2))

    client = kit(Judges).connect()
    assert [client.say("NOOP").text for _ in range(2)] == ["-2", "-4"]
    assert client.connection.notes["karma"] == -4


def test_reject_types_have_a_word_each():
    plugin = Kit("badmailfrom").site.plugins[0]
    words = ("perm", "hard", "soft", "temp", "disconnect", "temp_disconnect", "TEMP", "what", None)
    codes = (DENY, DENY, DENYSOFT, DENYSOFT, DENY_DISCONNECT, DENYSOFT_DISCONNECT, DENYSOFT, DENY, DENY)
    assert tuple(plugin.get_reject_type(word=word) for word in words) == codes
    assert plugin.get_reject_type(DENYSOFT) is DENYSOFT


@pytest.mark.parametrize(
    ("address", "valid", "local", "six"),
    [
        ("127.0.0.1", True, True, False),
        ("::1", True, True, True),
        ("192.0.2.1", True, False, False),
        ("255.255.255.255", False, False, False),
        ("fe80::1%eth0", True, False, True),
        ("::ffff:127.0.0.1", True, True, False),
        ("host", False, False, False),
    ],
)
def test_plugins_can_judge_addresses(address, valid, local, six):
    assert (Plugin.is_valid_ip(address), Plugin.is_localhost(address), Plugin.is_ipv6(address)) == (valid, local, six)


# Inheritance

MAXRELAY = '''
from qpsmtpd import DENY, DENY_DISCONNECT, Plugin, dsn

class MaxRelay(Plugin):
    """The example of the documentation: too many attempts to relay end the connection."""

    def init(self, qp, most="5"):
        self.most = int(most)
        self.isa_plugin("rcpt_ok")

    def register(self, qp, most="5"):
        super().register(qp)

    def hook_rcpt(self, transaction, recipient, parameters):
        result = super().hook_rcpt(transaction, recipient, parameters)
        if not (isinstance(result, tuple) and result[0] is DENY):
            return result
        notes = self.connection.notes
        notes["relay_attempts"] = notes.get("relay_attempts", 0) + 1
        if notes["relay_attempts"] <= self.most:
            return result
        return dsn.relaying_denied(DENY_DISCONNECT, "Too many relaying attempts")
'''

CHILD = """
def init(self, qp):
    self.parent = self.isa_plugin("rcpt_ok")

def hook_rcpt(self, transaction, recipient, parameters):
    code, *text = self.parent.hook_rcpt(self, transaction, recipient, parameters), "children say so"
    return (code[0], *text)
"""


def test_the_plugin_of_the_documentation_that_wraps_another_works(kit):
    made = kit("maxrelay 1", maxrelay=MAXRELAY, config={"rcpthosts": ["d.example"]})
    client = made.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@b.example>")
    assert client.say("RCPT TO:<x@d.example>").code == 250
    assert client.say("RCPT TO:<x@e.example>").text == "relaying denied"
    reply = client.say("RCPT TO:<x@e.example>")
    assert (reply.code, reply.enhanced, reply.text) == (550, "5.7.1", "Too many relaying attempts")
    assert client.closed
    assert [entry.name for entry in made.site.chains["rcpt"]] == ["maxrelay"]


def test_a_file_of_functions_calls_what_it_overrides_on_the_class_it_inherits(kit):
    client = kit("child", child=CHILD).connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@b.example>")
    assert client.say("RCPT TO:<x@e.example>").text == "children say so"


def test_inheriting_leaves_other_instances_alone(kit):
    made = kit("child", "rcpt_ok", child=CHILD)
    first, second = made.site.plugins
    assert type(second) in type(first).__mro__
    assert type(first) is not type(second)


def test_inheriting_from_a_plugin_that_does_not_exist_is_refused(kit):
    with pytest.raises(ConfigError, match="plugins:1: child: there is no plugin 'rcpt_okk'; did you mean rcpt_ok"):
        kit("child", child=CHILD.replace("rcpt_ok", "rcpt_okk"))


# Parsers


def test_a_parse_hook_gives_a_parser_which_takes_the_arguments_apart(kit):
    class Arrow(Plugin):
        """Reads `RCPT TO -> user@host`, as no standard allows."""

        def hook_rcpt_parse(self, transaction, argument):
            return (OK, self.parse) if "->" in argument else DECLINED

        def parse(self, command, rest):
            assert command == "rcpt"
            path = rest.partition("->")[2].strip()
            return (OK, f"<{path}>", "X-ARROW=1") if path else (DENY, "where to?")

    made = kit(Arrow, Accepts)
    client = made.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<a@b.example>")
    assert client.say("RCPT TO -> x@d.example").code == 250
    assert made.calls("rcpt")[-1].arguments == (Mailbox("x", "d.example"), {"x-arrow": "1"})
    assert client.say("RCPT TO:<y@d.example>").code == 250
    reply = client.say("RCPT TO ->")
    assert (reply.code, reply.text) == (501, "where to?")


def test_a_parser_that_fails_is_logged_and_the_client_told_451(kit):
    class Fails(Plugin):
        def hook_mail_parse(self, transaction, argument):
            return OK, lambda command, rest: 1 / 0

    made = kit(Fails)
    client = made.connect()
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<a@b.example>").code == 451
    assert made.logged("the parser failed: ZeroDivisionError")


def test_a_parameter_given_by_a_parser_is_checked_like_any_other(kit):
    class Large(Plugin):
        def hook_mail_parse(self, transaction, argument):
            return OK, lambda command, rest: (OK, "<a@b.example>", "SIZE=2000")

    client = kit(Large, config={"databytes": ["1000"]}).connect()
    client.say("EHLO c.example")
    assert client.say("MAIL FROM:<>").code == 552


# Addresses


def test_an_address_has_notes_that_last_as_long_as_its_transaction(kit):
    class Marks(Plugin):
        def hook_mail(self, transaction, sender, parameters):
            sender.notes["seen"] = sender.notes.get("seen", 0) + 1

        def hook_rcpt(self, transaction, recipient, parameters):
            recipient.notes["folder"] = recipient.local_part

        def hook_queue(self, transaction):
            notes = [recipient.notes["folder"] for recipient in transaction.recipients]
            return OK, f"{transaction.sender.notes['seen']} {notes}"

    client = kit(Marks, Accepts).connect()
    for _ in range(2):
        *_, reply = client.deliver(sender="", recipients=("a@d.example", "b@d.example"))
        assert reply.text == "1 ['a', 'b']"


def test_a_recipient_can_be_replaced_while_it_is_decided_and_later(kit):
    class Rewrites(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            if recipient.local_part == "old":
                transaction.replace_recipient(recipient, Mailbox("new", recipient.domain))

        def hook_data_post(self, transaction):
            transaction.replace_recipient(Mailbox("b", "d.example"), Mailbox("c", "d.example"))

    *_, reply = kit(Rewrites, Accepts).connect().deliver(recipients=("old@d.example", "b@d.example"))
    assert reply.text == "<new@d.example>, <c@d.example>"


def test_a_message_whose_recipients_are_all_removed_is_refused_and_not_queued(kit):
    class Removes(Plugin):
        def hook_data_post(self, transaction):
            for recipient in transaction.recipients:
                transaction.remove_recipient(recipient)

        def hook_queue_pre(self, transaction):
            return DECLINED

    made = kit(Removes, Accepts)
    client = made.connect()
    *_, reply = client.deliver()
    assert (reply.code, reply.enhanced) == (554, "5.5.1")
    assert made.calls("queue") == made.calls("queue_pre") == []
    assert client.deliver(recipients=("x@y.example",))[-1].code == 554


# Settings by plugins


def test_settings_of_an_address_come_from_user_config_then_config_then_files(kit):
    class Users(Plugin):
        def hook_user_config(self, transaction, address, setting):
            return (OK, "own", "values") if (address.local_part, setting) == ("u", "quota") else DECLINED

    class All(Plugin):
        def hook_config(self, transaction, setting):
            assert self.hook_name == "config"
            return (OK, "for all") if setting == "greeting" else None

    class Asks(Plugin):
        def hook_rcpt(self, transaction, recipient, parameters):
            config = self.qp.config
            settings = [config("quota", recipient), config("quota"), config("greeting", recipient), config("other")]
            assert self.hook_name == "rcpt"
            return DENY, repr(settings)

    made = kit(Users, All, Asks, config={"quota": ["10"], "other": []})
    client = made.connect()
    client.say("EHLO c.example")
    client.say("MAIL FROM:<>")
    assert client.say("RCPT TO:<u@d.example>").text == repr([("own", "values"), ("10",), ("for all",), ()])
    assert client.say("RCPT TO:<v@d.example>").text == repr([("10",), ("10",), ("for all",), ()])


def test_a_config_hook_that_fails_or_talks_nonsense_is_logged_and_passed_over(kit):
    class Fails(Plugin):
        def hook_config(self, transaction, setting):
            raise OSError("no database")

    class Nonsense(Plugin):
        def hook_config(self, transaction, setting):
            return 42

    made = kit(Fails, Nonsense, config={"x": ["from the file"]})
    assert made.site.config("x") == ("from the file",)
    assert made.logged("Fails: error, looking up x failed: OSError: no database")
    assert made.logged("Nonsense: error, looking up x failed: TypeError")


def test_the_servers_own_settings_may_come_from_a_plugin(kit):
    class Source(Plugin):
        def hook_config(self, transaction, setting):
            return {"me": (OK, "mx.from.plugin"), "databytes": (OK, "77")}.get(setting)

    made = kit(Source)
    made.clock.advance(2)
    reply = made.connect().say("EHLO c.example")
    assert reply.text.split("\n")[0] == "mx.from.plugin"
    assert "SIZE 77" in reply.text.split("\n")


def test_a_level_below_which_nothing_is_logged_costs_no_message(kit):
    class Quiet(Plugin):
        def hook_noop(self, transaction):
            assert self.qp.verbosity < LOGINFO

    made = kit(Quiet, config={"loglevel": ["LOGWARN"]})
    assert made.connect().say("NOOP").code == 250
    assert not made.logged("error")
