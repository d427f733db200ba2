"""Characters as small numbers, the same for every corpus, so that four of them fit into one 64-bit word.

A character that is kept has a code from 1 to 27,620 (15 bits): the Chinese ones of Unicode's basic plane, and the
letters and digits if wanted. All else (punctuation, space, line end, what is rarer) has code 0, a boundary that no
n-gram crosses. Full and half width, upper and lower case are one (Unicode's NFKC, then lower case).

>>> encode("Ａ组电压，abc", letters=False).tolist() == [0, *encode("组电压").tolist(), 0, 0, 0, 0]
True
>>> decode(encode("Ａ组１", letters=True))
'a组1'
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np

__all__ = ["BITS", "MASK", "SIZE", "decode", "encode", "spell", "units"]

BITS = 15
MASK = (1 << BITS) - 1
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_CHINESE = [*range(0x4E00, 0xA000), *range(0x3400, 0x4DC0), 0x3007]
_KEPT = [0, *_CHINESE, *map(ord, _LETTERS)]
SIZE = len(_KEPT)
"""One more than the largest code."""
assert SIZE <= 1 << BITS


@cache
def _table(letters: bool) -> np.ndarray:
    """Code of each UTF-16 unit: (65536,) uint16."""
    code = {unit: number for number, unit in enumerate(_KEPT) if number and (letters or unit > 0x7F)}
    table = np.zeros(1 << 16, np.uint16)
    table[_CHINESE] = np.arange(1, len(_CHINESE) + 1)
    # Signs that stand for a kept character: full-width letters, compatibility ideographs, radicals.
    for unit in [*range(0x80), *range(0x2E80, 0x3000), *range(0xF900, 0xFB00), *range(0xFF00, 0xFFF0)]:
        plain = unicodedata.normalize("NFKC", chr(unit)).lower()
        if len(plain) == 1:
            table[unit] = code.get(ord(plain), 0)
    return table


@cache
def _points(boundary: str) -> np.ndarray:
    """Code point of each code: (SIZE,) uint32."""
    return np.array([ord(boundary), *_KEPT[1:]], "<u4")


def units(text: str) -> np.ndarray:
    """The UTF-16 units of a text: (n,) uint16. A character outside the basic plane is two, neither of them kept."""
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), np.uint16)


def encode(text: str | np.ndarray, letters: bool = False) -> np.ndarray:
    """Codes of a text, or of its `units`: (n,) uint16, 0 where nothing is kept."""
    return _table(letters)[units(text) if isinstance(text, str) else text]


def spell(codes: np.ndarray) -> list[str]:
    """The words in rows of codes, each up to its first boundary: (words, longest) uint16.

    >>> spell(np.array([[1, 2], [1, 0]]))
    ['一丁', '一']
    """
    if not codes.size:
        return [""] * len(codes)
    characters = np.ascontiguousarray(_points("\0")[codes])
    words: list[str] = characters.view(f"U{codes.shape[1]}").ravel().tolist()  # numpy drops the zeros at the end
    return words


def decode(codes: np.ndarray) -> str:
    """The text of codes, a space for each boundary.

    >>> decode(np.array([1, 0, 2]))
    '一 丁'
    """
    return _points(" ")[codes].tobytes().decode("utf-32-le")
