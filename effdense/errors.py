"""Typed errors: each says what was expected, what came, where, and what to do next.

Every class also derives from the closest built-in, so ``except ValueError`` in user code keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EffdenseError(Exception):
    """Base of every error that effdense raises on purpose.

    Attributes:
        said_by_another_rank: of several processes that meet the same, one prints it; None where one process runs.
    """

    said_by_another_rank: bool | None = None


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

    Fewest slips of the keyboard first (a letter dropped, doubled, changed, or two swapped; capitals do not count).

    Args:
        word: the name that was not found.
        known: the names that exist.
        limit: how many suggestions at most.
    """
    ranked = []
    for name in set(known):
        alike = difflib.SequenceMatcher(None, word, name).ratio()
        # Short names have few letters in common with their misspellings: lr and lq one of two.
        if alike >= 0.6 or abs(len(word) - len(name)) <= 1:
            slips = _slips(word.casefold(), name.casefold())
            if alike >= 0.6 or slips <= 1:
                ranked.append((slips, -alike, name))
    near = [name for _, _, name in sorted(ranked)[:limit]]
    return f" Did you mean {', '.join(repr(name) for name in near)}?" if near else ""


def _slips(a: str, b: str) -> int:
    """Letters dropped, added or changed, or neighbours swapped, between two words (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, start=1):
        before, last, row = row, before, [i]
        for j, other in enumerate(b, start=1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (one != other))
            if i > 1 and j > 1 and one == b[j - 2] and a[i - 2] == other:
                best = min(best, last[j - 2] + 1)
            row.append(best)
    return row[-1]
