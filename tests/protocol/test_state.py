"""The table of command order is total, and it is what a live server does."""

import pytest
from tests.protocol.conftest import ASKED, EHLO, MAIL, MESSAGE, RCPT, Driver

from qpsmtpd.protocol import OK, ORDER, Command, Extension, Security, State
from qpsmtpd.protocol.state import HOOKS_COME_FIRST

WAY_TO = {
    State.START: (),
    State.IDLE: (EHLO,),
    State.MAIL: (EHLO, MAIL),
    State.RCPT: (EHLO, MAIL, RCPT),
    State.BDAT: (EHLO, MAIL, RCPT, b"BDAT 0\r\n"),
}
ARGUMENT = {
    Command.HELO: b" client.example",
    Command.EHLO: b" client.example",
    Command.MAIL: b" FROM:<a@example.org>",
    Command.RCPT: b" TO:<b@example.org>",
    Command.LHLO: b" client.example",
    Command.AUTH: b" PLAIN AHVzZXIAcGFzcw==",
    Command.XCLIENT: b" PORT=1",
    Command.BDAT: b" 0",
}
EFFECT = {
    Command.HELO: State.IDLE,
    Command.EHLO: State.IDLE,
    Command.MAIL: State.MAIL,
    Command.RCPT: State.RCPT,
    Command.DATA: State.IDLE,
    Command.RSET: State.IDLE,
    Command.LHLO: State.IDLE,
    Command.STARTTLS: State.START,
    Command.XCLIENT: State.START,
    Command.BDAT: State.BDAT,
}
"""Where a command leads that is in order; the others change nothing."""

CELLS = [(command, state) for command in Command for state in State]


def in_state(state, *, lmtp=False):
    driver = Driver(
        asked=ASKED | {"auth"}, answers={"auth": OK}, auth_in_clear=True, extensions=set(Extension), lmtp=lmtp
    )
    driver.handshake = Security("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    for line in WAY_TO[state]:
        driver.send(line.replace(b"EHLO", b"LHLO") if lmtp else line)
    assert driver.server._state is state
    return driver


def test_the_table_has_a_cell_for_every_command_in_every_state():
    assert [(command, state) for command, row in ORDER.items() for state in row] == CELLS


def test_a_command_out_of_order_is_answered_503():
    refusals = [reply for row in ORDER.values() for reply in row.values() if reply is not None]
    assert {(reply.code, reply.enhanced) for reply in refusals} == {(503, "5.5.1")}


@pytest.mark.parametrize(("command", "state"), CELLS)
def test_a_live_server_keeps_to_the_table(command, state):
    driver = in_state(state, lmtp=command is Command.LHLO)
    asked = len(driver.names)
    (reply,) = driver.send(command.value + ARGUMENT.get(command, b"") + b"\r\n")
    if command is Command.DATA and reply.code == 354:
        driver.send(MESSAGE)
    refusal = ORDER[command][state]
    if refusal is None:
        assert reply.code < 400
        effect = EFFECT.get(command, state)
        if command in (Command.RSET, Command.QUIT) and state is not State.START:
            effect = State.IDLE
        if command is Command.RSET and state is State.START:
            effect = State.START
    else:
        assert reply == refusal
        first = {Command.MAIL: ["reset_transaction"], Command.DATA: ["data"]}
        assert driver.names[asked:] == (first[command] if (command, state) in HOOKS_COME_FIRST else [])
        effect = state
    assert driver.server._state is effect


@pytest.mark.parametrize("state", State)
def test_an_unknown_command_changes_nothing(state):
    driver = in_state(state)
    assert driver.code(b"XYZZY\r\n") == 500
    assert driver.server._state is state
