"""What the checks of all targets give."""

from collections.abc import Hashable, Iterable

__all__ = ["Edges", "Wrong"]

Edges = Iterable[Hashable]
"""What a run has shown of the behaviour: an engine keeps inputs that show something new."""


class Wrong(AssertionError):  # noqa: N818 - it is the code under test that errs
    """What was done is not what a witness says should have been done."""
