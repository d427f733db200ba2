"""The same numbers by dictionaries and loops: what the arrays are tested against."""

from __future__ import annotations

import math
from collections import Counter, defaultdict


def stretches(codes):
    """The runs of codes between boundaries."""
    run, found = [], []
    for code in [*codes, 0]:
        if code:
            run.append(int(code))
        elif run:
            found.append(tuple(run))
            run = []
    return found


def ngrams(codes, max_length):
    """Count, places, and neighbours to the left and right of every n-gram; 0 is a boundary."""
    count, left, right = Counter(), defaultdict(Counter), defaultdict(Counter)
    places = Counter()
    for run in stretches(codes):
        for start in range(len(run)):
            for n in range(1, min(max_length, len(run) - start) + 1):
                gram = run[start : start + n]
                count[gram] += 1
                places[n] += 1
                left[gram][run[start - 1] if start else 0] += 1
                right[gram][run[start + n] if start + n < len(run) else 0] += 1
    return count, places, left, right


def entropy(neighbours):
    total = sum(neighbours.values())
    return -sum(n / total * math.log(n / total) for n in neighbours.values())


def pmi(gram, count, places):
    whole = math.log(count[gram] / places[len(gram)])
    return min(
        whole
        - math.log(count[gram[:cut]] / places[cut])
        - math.log(count[gram[cut:]] / places[len(gram) - cut])
        for cut in range(1, len(gram))
    )  # fmt: skip


def cut(run, likelihood, unknown):
    """Log probability of the likeliest cut of a run into words."""
    best = [0.0] + [-math.inf] * len(run)
    for end in range(1, len(run) + 1):
        for start in range(end):
            word = tuple(run[start:end])
            weight = likelihood.get(word, -math.inf)
            if len(word) == 1:
                weight = max(weight, unknown)
            best[end] = max(best[end], best[start] + weight)
    return best[-1]
