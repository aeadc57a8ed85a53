"""What becomes of a message with `queue/discard`."""


def test_a_message_is_accepted_and_nothing_is_kept(stage):
    client = stage.load("queue/discard").connect()
    client.send(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<b@d.example>\r\nDATA\r\n")
    assert client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n") == b"250 2.0.0 Queued! (discarded)\r\n"
    assert stage.logged("(queue) queue::discard: pass, discarded 20 octets\n")
