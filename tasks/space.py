"""Search spaces: the ranges of parameters, as values that refuse to be built wrong.

>>> LogUniform(1e-4, 1e-2).at(0.5)
0.001
>>> Choice("linear", "glu").grid()
('linear', 'glu')
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class _Dimension(ABC):
    """One searched parameter. ``when`` makes it conditional: ``{"head": "glu"}`` searches it only for that head."""

    when: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def active(self, chosen: Mapping[str, Any]) -> bool:
        """Whether this dimension is searched, given what earlier dimensions chose."""
        return all(chosen.get(name) == value for name, value in (self.when or {}).items())

    def conditioned(self, when: Mapping[str, Any] | None) -> Self:
        """The same range under another condition."""
        other = copy.copy(self)
        object.__setattr__(other, "when", when)
        return other

    @abstractmethod
    def ends(self) -> tuple[Any, ...]:
        """The values that a bound of the task could reject: both ends, or every option."""

    @abstractmethod
    def grid(self) -> tuple[Any, ...]:
        """The values of a grid search, in order."""

    @abstractmethod
    def at(self, quantile: float) -> Any:
        """The value at a quantile in [0, 1): a uniform quantile gives a value of this distribution."""


@dataclass(frozen=True, init=False)
class Choice(_Dimension):
    """One of the options, each as likely as the others."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any, when: Mapping[str, Any] | None = None) -> None:
        if not options:
            raise ValueError("a choice needs at least one option")
        object.__setattr__(self, "options", tuple(options))
        object.__setattr__(self, "when", when)

    def ends(self) -> tuple[Any, ...]:
        return self.options

    grid = ends

    def at(self, quantile: float) -> Any:
        return self.options[int(quantile * len(self.options))]


@dataclass(frozen=True)
class Uniform(_Dimension):
    """A real number between the bounds, both included; ``points`` many of them on a grid."""

    low: float
    high: float
    points: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"bounds must be finite numbers, got {self.low} and {self.high}")
        if self.low >= self.high:
            raise ValueError(f"the lower bound {self.low} is not below the upper bound {self.high}")
        if self.points is not None and self.points < 2:
            raise ValueError(f"a grid needs at least 2 points, got {self.points}")

    def ends(self) -> tuple[float, float]:
        return (self.low, self.high)

    def grid(self) -> tuple[float, ...]:
        if self.points is None:
            raise ValueError("a continuous range has no grid of its own: add 'points: N', or use choice")
        inner = [self.at(i / (self.points - 1)) for i in range(1, self.points - 1)]
        return (self.low, *inner, self.high)

    def at(self, quantile: float) -> float:
        return min(self.high, self.low + quantile * (self.high - self.low))


@dataclass(frozen=True)
class LogUniform(Uniform):
    """Like `Uniform`, in the logarithm: each factor of ten is as likely as the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise ValueError(f"a logarithmic range must lie above 0, got {self.low}")

    def at(self, quantile: float) -> float:
        value = self.low * math.exp(quantile * math.log(self.high / self.low))
        return min(self.high, max(self.low, value))


@dataclass(frozen=True)
class IntRange(_Dimension):
    """A whole number between the bounds, both included; ``log`` makes each factor as likely as the next."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        if int(self.low) != self.low or int(self.high) != self.high:
            raise ValueError(f"bounds must be whole numbers, got {self.low} and {self.high}")
        if self.low >= self.high:
            raise ValueError(f"the lower bound {self.low} is not below the upper bound {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must lie above 0, got {self.low}")

    def ends(self) -> tuple[int, int]:
        return (self.low, self.high)

    def grid(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))

    def at(self, quantile: float) -> int:
        if self.log:
            value = self.low * math.exp(quantile * math.log((self.high + 1) / self.low))
        else:
            value = self.low + quantile * (self.high + 1 - self.low)
        return min(self.high, int(value))


Dimension = Choice | Uniform | LogUniform | IntRange
Space = Mapping[str, Dimension]
