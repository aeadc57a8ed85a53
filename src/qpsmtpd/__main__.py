"""`python -m qpsmtpd` is the same program as `qpsmtpd`."""

import sys

from qpsmtpd.cli import main

sys.exit(main())
