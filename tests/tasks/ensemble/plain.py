"""Greedy selection as one would write it first: everything in float64, every candidate summed anew at every pick."""

from __future__ import annotations

import numpy as np


def plain_greedy(p, labels, allowed, metric, ranking, size, start):
    """Picks from probabilities (members, photos, classes): the list of ``size`` members."""
    p = p.astype(np.float64)
    rows = np.arange(len(labels))
    picks = [int(m) for m in ranking if allowed[m]][: min(start, size)]
    while len(picks) < size:
        best, best_score = None, None
        for m in np.flatnonzero(allowed):
            mean = p[[*picks, m]].mean(axis=0)
            own = mean[rows, labels]
            hits = int(((mean >= own[:, None]).sum(axis=1) == 1).sum())
            loss = np.log(own).mean()
            score = (hits, loss) if metric == "accuracy" else (loss,)
            if best is None or score > best_score:
                best, best_score = int(m), score
        picks.append(best)
    return picks
