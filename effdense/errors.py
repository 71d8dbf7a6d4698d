"""Typed errors: each says what was expected, what came, where, and what to do next.

Every class also derives from the closest built-in, so ``except ValueError`` in user code keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EffdenseError(Exception):
    """Base of every error that effdense raises on purpose."""


class ConfigError(EffdenseError, ValueError):
    """A config file, option or argument cannot be used as written."""


class DataError(EffdenseError, ValueError):
    """A dataset, annotation or image is missing, unreadable or inconsistent."""


class WeightsError(EffdenseError, RuntimeError):
    """A weight file cannot be read safely or does not belong to the model."""


class ShapeError(EffdenseError, ValueError):
    """A tensor or array has a shape, dtype or range that the function cannot take."""


class RunError(EffdenseError, RuntimeError):
    """A run cannot go on: a disk is full, a process is gone, a loss is not finite. What was saved stays usable."""


class MissingExtra(EffdenseError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""


def did_you_mean(word: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return ``" Did you mean 'a', 'b'?"`` for the nearest known names, or ``""`` when none is near.

    Args:
        word: the name that was not found.
        known: the names that exist.
        limit: how many suggestions at most.
    """
    near = difflib.get_close_matches(word, sorted(set(known)), n=limit, cutoff=0.6)
    return f" Did you mean {', '.join(repr(name) for name in near)}?" if near else ""
