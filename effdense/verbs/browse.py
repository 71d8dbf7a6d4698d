"""``effdense browse``: draw what the model will really see, after every stage."""

from __future__ import annotations

import argparse

from effdense.errors import ConfigError

HELP = "draw what the model will really see, after every stage"


def add(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("source")


def run(arguments: argparse.Namespace) -> int | None:
    """Do it; the exit code."""
    raise ConfigError("not built yet")
