"""jieba's dictionary: 349,046 Chinese words with how often each was seen in general text.

It says which terms are new, it is what built-in data is made of, and it stands in for a background where there is none.
Only its file is read; jieba itself is not loaded.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tasks.api import InputError
from tasks.terms import alphabet
from tasks.terms.counting import Windows, count_codes

__all__ = ["Background", "as_background", "known", "words"]


@cache
def words() -> dict[str, int]:
    """All words and their frequencies."""
    spec = find_spec("jieba")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("jieba is not installed, and its dictionary is needed (pip install jieba)")
    lines = (Path(spec.submodule_search_locations[0]) / "dict.txt").read_text("utf-8").splitlines()
    parts = (line.split(" ", 2) for line in lines)
    return {word: int(times) for word, times, *_ in parts}


def known(texts: list[str]) -> np.ndarray:
    """Which of the words are in the dictionary: (texts,) bool."""
    found = words()
    return np.array([text in found for text in texts], bool)


Background = tuple[int, bool]
"""One item of the map: longest n-gram, and whether letters and digits are kept."""


def as_background(item: Background) -> Windows:
    """The dictionary as a text of its words, each as often as it was seen."""
    max_length, letters = item
    text = "\n".join(words()) + "\n"
    units = alphabet.units(text)
    line = np.cumsum(units == 10) - (units == 10)
    weight = np.array(list(words().values()), np.int64)[line]
    return count_codes(alphabet.encode(units, letters), max_length, sides=False, weight=weight)
