"""Addresses with and without brackets."""

import pytest


@pytest.mark.parametrize(
    ("path", "code"),
    [("a@b.example", b"250"), ("<a@b.example>", b"250"), ("user=x@b.example", b"250"), ("a b@c.example", b"250"),
     ("a", b"501"), ("<a@b.example", b"501"), ("", b"501")],
)  # fmt: skip
def test_brackets_are_added_where_they_are_missing(kit, path, code):
    client = kit("dont_require_anglebrackets").connect()
    client.send(b"EHLO c.example\r\n")
    assert client.send(f"MAIL FROM:{path}\r\n".encode()).startswith(code)
    client.send(b"RSET\r\nMAIL FROM:<s@c.example>\r\n")
    assert client.send(f"RCPT TO:{path}\r\n".encode()).startswith(code)


def test_without_the_plugin_they_are_required(kit):
    client = kit().connect()
    client.send(b"EHLO c.example\r\n")
    assert client.send(b"MAIL FROM:a@b.example\r\n").startswith(b"501")
