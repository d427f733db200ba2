"""ZLPR beside timm's, and its sparse form beside its dense one, on one core.

    python tests/benchmarks/zlpr.py [--quick]

Time is the processor time of this one thread, which other work on the machine disturbs less than the clock; each figure
is the median, with quartiles, over rounds in which all that are compared run one after the other. What is timed is
forward and backward, from scores to their gradient. Dense targets are bool, the smallest there are, and are made
beforehand. Memory is what the allocator of a process of its own has handed out at most beyond the scores, targets or
indices and the gradient included, by PyTorch's profiler; and, told beside it, by how much the process grew.
"""

from __future__ import annotations

import os

# One core, said before PyTorch asks how many there are.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bars import Bar, state
from timm.loss import ZlprLoss
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.multilabel.zlpr import zlpr_loss, zlpr_loss_sparse

QUICK = "--quick" in sys.argv
ROUNDS = 11 if QUICK else 41
ROWS, LABELS = 4096, 1000
MANY_ROWS, MANY_LABELS, POSITIVES = 256, 100_000, 10

Contestants = dict[str, Callable[[], object]]


def both_ways(loss: Callable[..., Tensor], scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient."""
    leaf = scores.detach().requires_grad_()
    value = loss(leaf, targets)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def medians(contestants: Contestants, rounds: int) -> dict[str, float]:
    """Seconds of processor time, medians; prints them with their quartiles."""
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, run in contestants.items():
            began = time.process_time()
            run()
            if turn > 0:  # the first round warms up
                took[name].append(time.process_time() - began)
    for name, each in took.items():
        low, middle, high = statistics.quantiles(each, n=4)
        print(f"  {name}: {1e3 * middle:.1f} ms ({1e3 * low:.1f} … {1e3 * high:.1f})", flush=True)
    return {name: statistics.median(each) for name, each in took.items()}


def drawn(rows: int, labels: int, positives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, indices of what holds, and the same as bool."""
    rng = torch.Generator().manual_seed(1)
    scores = 3 * torch.randn(rows, labels, generator=rng)
    index = torch.randint(labels, (rows, positives), generator=rng)
    return scores, index, torch.zeros(rows, labels, dtype=torch.bool).scatter_(1, index, True)


def beside_timm() -> list[Bar]:
    """Agreement and time at 4,096 × 1,000."""
    scores, _, holds = drawn(ROWS, LABELS, POSITIVES)
    theirs, ours = (both_ways(loss, scores, holds) for loss in (ZlprLoss(), zlpr_loss))
    off = max(abs(theirs[0] - ours[0]).item() / theirs[0].item(), (theirs[1] - ours[1]).abs().max().item() * ROWS)
    print(f"greatest difference from timm: loss (relative), gradient × rows: {off:.2g}")
    numbers = holds.float()
    soft = 0.9 * numbers + 0.05
    print(f"{ROWS} × {LABELS}, {POSITIVES} positives a row")
    took = medians(
        {
            "timm, bool": lambda: both_ways(ZlprLoss(), scores, holds),
            "ours, bool": lambda: both_ways(zlpr_loss, scores, holds),
            "timm, float": lambda: both_ways(ZlprLoss(), scores, numbers),
            "ours, float": lambda: both_ways(zlpr_loss, scores, numbers),
            "ours, soft": lambda: both_ways(zlpr_loss, scores, soft),
        },
        ROUNDS,
    )
    return [
        Bar("greatest difference from timm: loss (relative), gradient × rows", off, "", 1e-6),
        Bar("speed against timm, bool targets", took["timm, bool"] / took["ours, bool"], "×", 1.5, at_most=False),
        Bar("speed against timm, float targets", took["timm, float"] / took["ours, float"], "×", 1.5, at_most=False),
    ]


def sparse_beside_dense() -> list[Bar]:
    """Time and memory at 10⁵ labels."""
    scores, index, holds = drawn(MANY_ROWS, MANY_LABELS, POSITIVES)
    print(f"{MANY_ROWS} × {MANY_LABELS}, {POSITIVES} positives a row")
    took = medians(
        {
            "dense": lambda: both_ways(zlpr_loss, scores, holds),
            "sparse": lambda: both_ways(zlpr_loss_sparse, scores, index),
        },
        max(5, ROUNDS // 4),
    )
    held = {form: memory_of(form) for form in ("dense", "sparse")}
    for form, (peak, grew) in held.items():
        print(f"  {form}: {peak:.0f} MB beyond the scores, the process grew by {grew:.0f} MB", flush=True)
    return [
        Bar("sparse against dense, 10⁵ labels", took["dense"] / took["sparse"], "×", 3, at_most=False),
        Bar("peak memory of sparse over dense", held["sparse"][0] / held["dense"][0], "×", 0.5),
    ]


def memory_of(form: str) -> tuple[float, float]:
    """Megabytes in a process of its own: handed out at most, and by how much the process grew at most."""
    command = [sys.executable, __file__, "--memory", form]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    peak, grew = json.loads(done.stdout.splitlines()[-1])
    return peak, grew


def measure_memory(form: str) -> None:
    """Print both; the targets or indices count as handed out, and are made before the process's size is taken."""
    scores, index, holds = drawn(MANY_ROWS, MANY_LABELS, POSITIVES)
    loss, targets = (zlpr_loss, holds) if form == "dense" else (zlpr_loss_sparse, index)
    both_ways(loss, scores[:1], targets[:1])
    Path("/proc/self/clear_refs").write_text("5")  # the greatest size so far is forgotten
    before = _size("VmRSS")
    both_ways(loss, scores, targets)
    grew = _size("VmHWM") - before
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        both_ways(loss, scores, targets)
    now = most = targets.numel() * targets.element_size()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    print(json.dumps([most / 1e6, grew / 1e6]))


def _size(of: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most (VmHWM)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(of))
    return 1024 * int(line.split()[1])


def main() -> None:
    torch.set_num_threads(1)
    if "--memory" in sys.argv:
        measure_memory(sys.argv[-1])
        return
    state("zlpr", [*beside_timm(), *sparse_beside_dense()])


if __name__ == "__main__":
    main()
