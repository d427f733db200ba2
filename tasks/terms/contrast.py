"""Which words belong to the field? Scores of a word's count in the corpus against its count in a background.

Sources: `post`: Su Jianlin, kexue.fm/archives/6540, mended: there a word that one of the lists lacks gets NaN and
vanishes, here it counts 0. `likelihood`: Dunning, Accurate Methods for the Statistics of Surprise and Coincidence
(1993). `odds`: Monroe, Colaresi and Quinn, Fightin' Words (2008), log-odds with an informative Dirichlet prior.
Idea: `likelihood` and `odds` say how sure it is that a word is more frequent here, which favours frequent words;
`ratio` says how many times more frequent it is, which favours words that are nowhere else; `post` is in between.

All take counts (words,) in the corpus and in the background and the two corpora's sizes in characters; a larger
score is more of the field.

>>> count, background = np.array([30, 30, 0]), np.array([0, 300, 5])
>>> ratio(count, background, 1000, 10_000).round(2).tolist()  # 31 times, as often, a sixth of 1/10
[5.74, 0.03, 0.51]
"""

from __future__ import annotations

import numpy as np

__all__ = ["SCORES", "likelihood", "odds", "post", "ratio", "surprise"]

_PRIOR = 1000.0  # characters: the weight of what is known before, in `odds`


def ratio(count: np.ndarray, background: np.ndarray, size: float, background_size: float) -> np.ndarray:
    """Log of the ratio of frequencies, one added to each count: ``ln ((w + 1) / W) / ((b + 1) / B)``."""
    return np.log((count + 1) / max(size, 1)) - np.log((background + 1) / max(background_size, 1))


def likelihood(count: np.ndarray, background: np.ndarray, size: float, background_size: float) -> np.ndarray:
    """Dunning's G², two cells as in keyness: ``2 (w ln w/E(w) + b ln b/E(b))``; negative for a word that is rarer."""
    both = (count + background) / max(size + background_size, 1)
    here, there = both * size, both * background_size
    score = 2 * (_times_log(count, here) + _times_log(background, there))
    return np.where(count >= here, score, -score)


def odds(count: np.ndarray, background: np.ndarray, size: float, background_size: float) -> np.ndarray:
    """z-score of the log-odds, with a Dirichlet prior proportional to the frequency in both corpora together."""
    prior = _PRIOR * (count + background + 0.5) / max(size + background_size, 1)
    here, there = count + prior, background + prior
    score = np.log(here / (size + _PRIOR - here)) - np.log(there / (background_size + _PRIOR - there))
    return score / np.sqrt(1 / here + 1 / there)


def post(count: np.ndarray, background: np.ndarray, size: float, background_size: float) -> np.ndarray:
    """The post's score: ``(w + αm) / (t + m)``, with o = b·W/B, t = w + o, m its mean and α = Σw/Σt."""
    scaled = background * (size / max(background_size, 1))
    total = count + scaled
    mean = total.mean() if len(total) else 1.0
    alpha = count.sum() / max(total.sum(), 1e-300)
    return (count + mean * alpha) / (total + mean)


def surprise(count: np.ndarray, background: np.ndarray, size: float, background_size: float) -> np.ndarray:
    """Whether a word is more frequent here than there beyond chance: G² above the 99.9 % point of χ² with 1 degree."""
    return likelihood(count, background, size, background_size) > 10.8276


SCORES = {"ratio": ratio, "likelihood": likelihood, "odds": odds, "post": post}


def _times_log(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """``observed · ln(observed / expected)``, 0 where nothing was observed."""
    seen = observed > 0
    return np.where(seen, observed * np.log(np.where(seen, observed, 1) / np.where(seen, expected, 1)), 0.0)
