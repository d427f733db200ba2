"""How a benchmark states its numbers: one JSON line, last, that a program can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Bar:
    """A measured value and the bar it is held against; ``at_most`` says on which side it must lie."""

    name: str
    value: float
    unit: str
    bar: float
    at_most: bool = True

    @property
    def holds(self) -> bool:
        return self.value <= self.bar if self.at_most else self.value >= self.bar


def state(benchmark: str, bars: list[Bar]) -> None:
    """Print the closing line."""
    rows = [
        {**{k: v for k, v in asdict(bar).items() if k != "at_most"}, "value": round(bar.value, 4), "holds": bar.holds}
        for bar in bars
    ]
    print(json.dumps({"benchmark": benchmark, "bars": rows}, ensure_ascii=False))
