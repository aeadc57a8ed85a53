"""The two kinds of fault the protocol knows, kept apart."""

from dataclasses import dataclass

from qpsmtpd.protocol.replies import Reply

__all__ = ["LocalProtocolError", "SyntaxProblem"]


class LocalProtocolError(Exception):
    """The program that drives the protocol misused it. What a peer does wrong never raises."""


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """What is wrong with something a peer sent, as the reply that tells it so."""

    reply: Reply
