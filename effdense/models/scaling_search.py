"""Step one of compound scaling: which (alpha, beta, gamma) double the cost of a base network?

EfficientNet (arXiv 1905.11946) section 3.3 fixes phi = 1, grids alpha (depth), beta (width), gamma (resolution), all at
least 1, under alpha * beta^2 * gamma^2 = 2, trains each candidate and keeps the most accurate: 1.2, 1.1, 1.15 for B0,
whose product is 1.92. Here the grid is counted: every candidate is built, rounding included, and its multiply-adds and
parameters are compared with the base. Cost alone does not choose; `tools/scaling_search.py` can add a short training.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

from effdense.errors import ConfigError
from effdense.models.costs import model_cost
from effdense.models.encoders.scaling import ALPHA, BETA, GAMMA, scaled_encoder_config

TARGET = 2.0  # growth of the multiply-adds per unit of phi
PUBLISHED = (ALPHA, BETA, GAMMA)


@dataclass(frozen=True)
class Candidate:
    """One point of the grid, and the network it gives at phi = 1.

    Attributes:
        alpha, beta, gamma: factors on depth, width, resolution.
        product: alpha * beta^2 * gamma^2, what the paper's constraint asks to be near 2.
        name: the encoder it builds.
        macs_ratio, params_ratio: of that encoder to the base, both with their ImageNet head.
        accuracy: of a short training, in [0, 1]; None without one.
    """

    alpha: float
    beta: float
    gamma: float
    product: float
    name: str
    macs_ratio: float
    params_ratio: float
    accuracy: float | None = None

    @property
    def coefficients(self) -> tuple[float, float, float]:
        return self.alpha, self.beta, self.gamma

    @property
    def score(self) -> tuple[float, float, float]:
        """Larger is better: accuracy, then how near the built network is to twice the cost, then fewer parameters."""
        return (self.accuracy or 0.0, -round(abs(math.log2(self.macs_ratio / TARGET)), 3), -self.params_ratio)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def constraint_product(alpha: float, beta: float, gamma: float) -> float:
    """alpha * beta^2 * gamma^2: depth counts once, width and resolution twice (EfficientNet eq. 3).

    >>> round(constraint_product(1.2, 1.1, 1.15), 2)
    1.92
    """
    return alpha * beta**2 * gamma**2


def constraint_grid(step: float = 0.05, tolerance: float = 0.1) -> list[tuple[float, float, float]]:
    """All (alpha, beta, gamma) >= 1 on a grid of `step` with |alpha * beta^2 * gamma^2 - 2| <= tolerance.

    Raises: ConfigError for a step or tolerance outside 0.01..0.5, and where no point of the grid is near enough.
    """
    for name, value in (("step", step), ("tolerance", tolerance)):
        if not 0.01 <= value <= 0.5:
            raise ConfigError(f"{name} must lie in 0.01..0.5, got {value}; the defaults are 0.05 and 0.1.")
    values = [round(1 + index * step, 4) for index in range(int((TARGET + tolerance - 1) / step) + 2)]
    grid = [
        point
        for point in itertools.product(values, values, values)
        # The rounded difference: 2.1 - 2 is not 0.1 in binary.
        if round(abs(constraint_product(*point) - TARGET), 9) <= tolerance
    ]
    if not grid:
        raise ConfigError(f"no point of a grid with step {step} comes within {tolerance} of {TARGET:g}; widen either.")
    return grid


def measure_candidates(points: list[tuple[float, float, float]], base: str = "efficientnet") -> list[Candidate]:
    """Build each point at phi = 1 on the meta device and compare it with the base, best `score` first.

    Args:
        points: (alpha, beta, gamma).
        base: "efficientnet", "efficientnet_lite" or "efficientnetv2".
    """
    unscaled = model_cost(scaled_encoder_config(base, phi=0).name)
    found = []
    for alpha, beta, gamma in points:
        name = scaled_encoder_config(base, phi=1, alpha=alpha, beta=beta, gamma=gamma).name
        cost = model_cost(name)
        found.append(
            Candidate(
                alpha,
                beta,
                gamma,
                round(constraint_product(alpha, beta, gamma), 4),
                name,
                round(cost.total_macs / unscaled.total_macs, 4),
                round(cost.total_params / unscaled.total_params, 4),
            )
        )
    return sorted(found, key=lambda candidate: candidate.score, reverse=True)


def neighbours(of: tuple[float, float, float], candidates: list[Candidate], step: float = 0.05) -> list[Candidate]:
    """Candidates at most one step away from a point in each coefficient, the point itself left out."""
    return [
        candidate
        for candidate in candidates
        if candidate.coefficients != of
        and all(abs(a - b) <= step * 1.001 for a, b in zip(candidate.coefficients, of, strict=True))
    ]
