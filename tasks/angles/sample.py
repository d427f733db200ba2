"""Draws of the angle between two random directions in R^n: of its exact law in O(1), or of the vectors themselves.

Source: Su Jianlin, kexue.fm/archives/7076. Idea: two coordinates of a point on the sphere have a radius with
1 − R² = U^{2/(n−2)} and a uniform phase, so cos θ = R·cos φ is exact for every n at the price of one logarithm and one
sine: the polar method of Box and Muller, as Bailey (Math. Comp. 62, 1994) carried it over to Student's law, to which
√(n−1)·cot θ belongs. The direct sampler draws both vectors, and checks that this is so.

Both give δ = θ − π/2 in float32, which keeps all its digits where the angles are: close to π/2.

>>> [round(math.pi / 2 + float(deviation), 4) for deviation in Exact(n=100, seed=1, shard=0).take(3)]
[1.4358, 1.5478, 1.53]

Sample i of a shard depends on (sampler, n, seed, shard, i) only: the stream is Philox, counter-based and keyed by
these, and its layout in chunks of `CHUNK` samples is fixed, however many chunks are worked on at once. Processors whose
vector instructions round a sine otherwise may differ in a last bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK = 1024
"""Samples whose words lie together in the stream."""
ROWS = 64
"""Rows of a chunk that are worked on at once: 64 × 1024 float32 are 256 kB, a few of which a core's cache can hold."""
_TURN = np.float32(2 * math.pi * 2.0**-32)
_HALF_TURN = np.float32(math.pi * 2.0**-32)
_UNIT = np.float32(2.0**-32)


def stream(purpose: int, n: int, seed: int, shard: int) -> np.random.Philox:
    """The random bits of one shard, for one purpose: 2¹²⁸ blocks that no other arguments share."""
    key = np.array([seed & (2**64 - 1), n], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, shard, purpose], np.uint64))


class Words:
    """Uniform numbers of one stream, a row of `CHUNK` radii and one of `CHUNK` phases at a time."""

    def __init__(self, bits: np.random.Philox) -> None:
        self._bits = bits

    def fill(self, unit: Floats, phase: Floats, turn: np.float32) -> None:
        """``unit`` (rows, CHUNK) becomes uniform on (0, 1], ``phase`` on ±``turn``·2³¹, both from 32 bits each."""
        rows = len(unit)
        words = self._bits.random_raw(rows * CHUNK).view(np.uint32).reshape(rows, 2, CHUNK)
        # odd numbers only: the middles of 2³¹ cells, so that the logarithm of 0 is never asked for
        np.bitwise_or(words[:, 0], 1, out=words[:, 0])
        np.copyto(unit, words[:, 0], casting="unsafe")
        np.multiply(unit, _UNIT, out=unit)
        np.copyto(phase, words[:, 1].view(np.int32), casting="unsafe")
        np.multiply(phase, turn, out=phase)


class Sampler(ABC):
    """A shard's stream of δ = θ − π/2. ``chunks``: how many chunks to work on at once; it changes no sample."""

    purpose: int
    """Keeps the streams of different uses apart."""

    def __init__(self, n: int, seed: int, shard: int, chunks: int = 64) -> None:
        self.n, self.chunks = n, chunks
        self._words = Words(stream(self.purpose, n, seed, shard))

    def blocks(self, count: int) -> Iterator[Floats]:
        """``count`` samples in blocks of up to ``chunks``·CHUNK; a block is valid until the next one is asked for."""
        while count > 0:
            chunks = min(self.chunks, -(-count // CHUNK))
            block = self._draw(chunks).reshape(-1)[:count]
            count -= len(block)
            yield block

    def take(self, count: int) -> Floats:
        """``count`` samples in one array."""
        return np.concatenate([np.empty(0, np.float32), *(block.copy() for block in self.blocks(count))])

    @abstractmethod
    def _draw(self, chunks: int) -> Floats:
        """The next chunks, (chunks, CHUNK)."""


class Exact(Sampler):
    """O(1) a sample: sin δ = R·sin φ with 1 − R² = U^{2/(n−2)}; at n = 2 R is 1, and δ the phase itself."""

    purpose = 1

    def __init__(self, n: int, seed: int, shard: int, chunks: int = 64) -> None:
        super().__init__(n, seed, shard, chunks)
        self._radius = np.empty((chunks, CHUNK), np.float32)
        self._phase = np.empty((chunks, CHUNK), np.float32)

    def _draw(self, chunks: int) -> Floats:
        r, x = self._radius[:chunks], self._phase[:chunks]
        self._words.fill(r, x, _HALF_TURN)
        if self.n == 2:
            return x
        np.log(r, out=r)
        np.multiply(r, np.float32(2 / (self.n - 2)), out=r)
        np.expm1(r, out=r)
        np.negative(r, out=r)
        np.sqrt(r, out=r)
        np.sin(x, out=x)
        np.multiply(x, r, out=x)
        return np.arcsin(x, out=x)


class Gaussians:
    """Pairs of independent normal numbers by Box and Muller, a block at a time."""

    def __init__(self, words: Words, rows: int) -> None:
        self._words = words
        self._radius = np.empty((rows, CHUNK), np.float32)
        self._x = np.empty((rows, CHUNK), np.float32)
        self._y = np.empty((rows, CHUNK), np.float32)

    def fill(self, rows: int) -> tuple[Floats, Floats]:
        """Two arrays (rows, CHUNK), valid until the next call."""
        r, x, y = self._radius[:rows], self._x[:rows], self._y[:rows]
        self._words.fill(r, x, _TURN)
        np.log(r, out=r)
        np.multiply(r, np.float32(-2), out=r)
        np.sqrt(r, out=r)
        np.sin(x, out=y)
        np.cos(x, out=x)
        np.multiply(x, r, out=x)
        np.multiply(y, r, out=y)
        return x, y


class Direct(Sampler):
    """The definition: two Gaussian vectors and the angle between them, components passing through the cache."""

    purpose = 2

    def __init__(self, n: int, seed: int, shard: int, chunks: int = 64) -> None:
        groups = -(-n // ROWS)
        self.groups = [n * (i + 1) // groups - n * i // groups for i in range(groups)]  # rows, as even as can be
        super().__init__(n, seed, shard, max(1, chunks // n))
        self.gaussians = Gaussians(self._words, self.chunks * max(self.groups))
        self._sums = np.empty((3, self.chunks, CHUNK), np.float32)

    def _draw(self, chunks: int) -> Floats:
        if self.n == 2:
            return self._in_the_plane(chunks)
        xy, xx, yy = self._sums[:, :chunks]
        self._sums[:] = 0
        for rows in self.groups:
            x, y = (block.reshape(chunks, rows, CHUNK) for block in self.gaussians.fill(chunks * rows))
            for total, left, right in ((xy, x, y), (xx, x, x), (yy, y, y)):
                total += np.einsum("krc,krc->kc", left, right)
        np.multiply(xx, yy, out=xx)
        np.sqrt(xx, out=xx)
        np.divide(xy, xx, out=xy)
        np.clip(xy, -1, 1, out=xy)
        return np.negative(np.arcsin(xy, out=xy), out=xy)

    def _in_the_plane(self, chunks: int) -> Floats:
        """n = 2, where angles near 0 and π are common and an arcsine would blur them: |x × y| tells them apart."""
        x, y = (block.reshape(chunks, 2, CHUNK) for block in self.gaussians.fill(chunks * 2))
        dot = x[:, 0] * y[:, 0] + x[:, 1] * y[:, 1]
        cross = x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]
        return -np.arctan2(dot, np.abs(cross))


SAMPLERS: dict[str, type[Sampler]] = {"exact": Exact, "direct": Direct}
