"""The catalogue of smuggling variants: well formed, and none deceives the core."""

import pytest
from tests.protocol.conftest import Driver

from qpsmtpd.protocol import LineEndings
from qpsmtpd.testing.smuggling import CONTROL, EMBEDDED, OUTER, VARIANTS, Letter, Place, smuggle


def play(variant, **settings):
    driver = Driver(**settings)
    for write in smuggle(variant):
        if driver.closed:
            break
        driver.send(write)
    return driver


def senders_of_messages(driver):
    """The sender of each message that was queued."""
    senders, sender = [], None
    for event in driver.events:
        match getattr(event, "name", None):
            case "mail":
                sender = event.sender.address.encode()
            case "queue":
                senders.append(sender)
    return senders


def test_the_control_is_two_messages():
    assert senders_of_messages(play(CONTROL)) == [OUTER.sender, EMBEDDED.sender]


@pytest.mark.parametrize("line_endings", LineEndings)
@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_gives_the_core_two_messages(name, line_endings):
    assert len(senders_of_messages(play(VARIANTS[name], line_endings=line_endings))) <= 1


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.place is not Place.MIX])
def test_no_variant_makes_the_core_hear_the_embedded_sender(name):
    senders = [mail.sender.address.encode() for mail in play(VARIANTS[name]).asked("mail")]
    assert senders in ([], [OUTER.sender])


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.place is Place.COMMAND])
def test_a_command_line_with_a_bare_line_end_is_refused_by_the_core(name):
    assert 500 in [reply.code for reply in play(VARIANTS[name]).replies]


def test_data_behind_a_chunk_is_refused_so_that_what_follows_are_commands():
    assert senders_of_messages(play(VARIANTS["data-after-chunk"])) == [EMBEDDED.sender]


def test_names_are_stable_words_and_octets_are_told_apart():
    assert all(name == variant.name and name.replace("-", "").isalnum() for name, variant in VARIANTS.items())
    assert len({(variant.place, variant.octets) for variant in VARIANTS.values()}) == len(VARIANTS)
    assert CONTROL.name not in VARIANTS


@pytest.mark.parametrize("place", Place)
def test_every_place_has_a_variant_and_a_dialogue_with_both_letters(place):
    variant = next(variant for variant in VARIANTS.values() if variant.place is place)
    outer, embedded = (Letter(b"%s@x" % name, (b"r%s@x" % name,), b"content of " + name) for name in (b"o", b"e"))
    whole = b"".join(smuggle(variant, outer, embedded))
    assert b"o@x" in whole
    assert b"re@x" in whole
    assert variant.octets.partition(b"%d")[2 if b"%d" in variant.octets else 0] in whole


def test_a_deceived_server_sees_the_embedded_message():
    class Deceived(Driver):
        def send(self, *chunks):
            return super().send(*(chunk.replace(b"\n.\r\n", b"\r\n.\r\n").replace(b"\r\r", b"\r") for chunk in chunks))

    driver = Deceived()
    for write in smuggle(VARIANTS["lf-dot-crlf"]):
        driver.send(write)
    assert senders_of_messages(driver) == [OUTER.sender, EMBEDDED.sender]
