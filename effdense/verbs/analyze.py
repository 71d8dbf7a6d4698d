"""``effdense analyze``: write a report of what a detector or segmentor gets wrong."""

from __future__ import annotations

import argparse

from effdense.errors import ConfigError

HELP = "write a report of what a detector or segmentor gets wrong"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("source")


def run(arguments: argparse.Namespace) -> int | None:
    """Do it; the exit code."""
    raise ConfigError("not built yet")
