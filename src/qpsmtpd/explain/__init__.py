"""Why a session went as it did, or how one would go: every hook, every plugin, and what decided.

`hypothetical` plays a client that does not exist, `account` makes a table of what came of a session, `variants`
are the lists of plugins that could be asked instead.
"""

from qpsmtpd.explain.account import Row, Step, outcome, steps
from qpsmtpd.explain.hypothetical import Visit, visit
from qpsmtpd.explain.variants import Variant

__all__ = ["Row", "Step", "Variant", "Visit", "outcome", "steps", "visit"]
