"""Options of transforms, checked when one is made: a value comes back in its own type, or a ConfigError says whose."""

from __future__ import annotations

from typing import Any, Literal, cast

from effdense.errors import ConfigError, did_you_mean

Interpolation = Literal["auto", "fast", "linear", "area", "cubic"]
INTERPOLATIONS = ("auto", "fast", "linear", "area", "cubic")


def is_number(value: Any) -> bool:
    """Whether it is an int or float; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def checked_number(owner: str, name: str, value: Any, low: float, high: float = float("inf")) -> float:
    """A finite number low..high."""
    if not is_number(value) or not low <= value <= high or value == float("inf"):
        limit = f"{low:g}..{high:g}" if high < float("inf") else f"of at least {low:g}"
        raise ConfigError(f"{owner}.{name} must be a number {limit}, got {value!r}.")
    return float(value)


def checked_share(owner: str, name: str, value: Any) -> float:
    """A number 0..1."""
    return checked_number(owner, name, value, 0, 1)


def checked_count(owner: str, name: str, value: Any, low: int) -> int:
    """A whole number of at least ``low``."""
    if type(value) is not int or value < low:
        raise ConfigError(f"{owner}.{name} must be a whole number of at least {low}, got {value!r}.")
    return value


def checked_switch(owner: str, name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}.{name} must be True or False, got {value!r}.")
    return value


def checked_range(
    owner: str, name: str, value: Any, *, above: float = 0.0, up_to: float = float("inf")
) -> tuple[float, float]:
    """(low, high) with above < low <= high <= up_to."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(map(is_number, pair)) or not above < pair[0] <= pair[1] <= up_to:
        pair = ()
    if not pair or pair[1] == float("inf"):
        limit = "" if up_to == float("inf") else f" <= {up_to:g}"
        raise ConfigError(f"{owner}.{name} must be (low, high) with {above:g} < low <= high{limit}, got {value!r}.")
    return float(pair[0]), float(pair[1])


def checked_fill(owner: str, fill: Any) -> tuple[int, int, int]:
    """RGB of 0..255."""
    values = tuple(fill) if isinstance(fill, (tuple, list)) else ()
    if len(values) != 3 or any(type(v) is not int or not 0 <= v <= 255 for v in values):
        raise ConfigError(f"{owner}.fill must be three whole numbers 0..255 (RGB), got {fill!r}.")
    return cast(tuple[int, int, int], values)


def checked_interpolation(owner: str, name: Any) -> Interpolation:
    """The name of an interpolation."""
    if name not in INTERPOLATIONS:
        near = did_you_mean(str(name), INTERPOLATIONS)
        raise ConfigError(f"{owner}.interpolation must be one of {INTERPOLATIONS}, got {name!r}.{near}")
    return cast(Interpolation, name)
