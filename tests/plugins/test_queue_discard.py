"""What becomes of a message with `queue/discard`."""


def test_a_message_is_accepted_and_nothing_is_kept(kit):
    made = kit("queue/discard")
    replies = made.connect().deliver(b"Subject: x\r\n\r\nbody\r\n")
    assert (replies[-1].code, replies[-1].text) == (250, "Queued! (discarded)")
    assert made.logged("(queue) queue::discard: pass, discarded 20 octets\n")
