"""The option that most commands share: which configuration they are about."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from qpsmtpd.config import Config

__all__ = ["SOLO", "add_config", "config_of", "configured"]

SOLO: Mapping[str, tuple[str, ...]] = {
    "plugins": ("relay", "rcpt_ok", "queue/maildir ./mail"),
    "relayclients": ("127.0.0.1", "::1"),
    "loglevel": ("LOGINFO",),
}
"""The settings where there is no configuration: mail from this machine, to anyone, into ./mail."""


def configured() -> argparse.ArgumentParser:
    """A parser for the option that names the configuration, to be a parent of others; see `config_of`."""
    parser = argparse.ArgumentParser(add_help=False)
    add_config(parser)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the configuration."""
    parser.add_argument(
        "--config",
        metavar="DIR",
        type=Path,
        help="the config directory (default: $QPSMTPD_CONFIG, else ./config; without one, mail from this machine is kept in ./mail)",
    )


def config_of(options: argparse.Namespace) -> Config:
    """The configuration that a command line is about."""
    directory: Path | None = options.config
    if directory is None and (named := os.environ.get("QPSMTPD_CONFIG")):
        directory = Path(named)
    if directory is None and Path("config").is_dir():
        directory = Path("config")
    return Config(directory, SOLO if directory is None else None)
