"""Settings that all tests share."""

import os

from hypothesis import settings

settings.register_profile("qpsmtpd", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("qpsmtpd")
