"""``effdense check``: look for what is wrong with a data set before it costs training time."""

from __future__ import annotations

import argparse

from effdense.errors import ConfigError

HELP = "look for what is wrong with a data set before it costs training time"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("source")


def run(arguments: argparse.Namespace) -> int | None:
    """Do it; the exit code."""
    raise ConfigError("not built yet")
