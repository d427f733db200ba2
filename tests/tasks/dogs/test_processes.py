"""A trial of two processes ends as one process would, for the same batches."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from fakes import FakeContext
from torch import multiprocessing

from tasks.dogs import TASK, DogParams, drawn

PARAMS = {
    "backbone": "tf_efficientnet_lite0", "regime": "finetune", "resolution": 32, "crop": 1.0, "probe_epochs": 2,
    "head": "glu", "hidden": 8, "aux_weight": 0.25, "centre_weight": 0.25, "dropout": 0.0, "sampler": "pairs",
    "batch_size": 8, "epochs": 2, "frozen_epochs": 1, "unfrozen_stages": 2, "ema": 0.5, "pseudo_rounds": 1,
    "pseudo_threshold": 0.2, "pseudo_source": "train",
}  # fmt: skip


def one_rank(rank, root, port):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    context = FakeContext(root / f"rank{rank}", data=root / "dogs", cache=root / "cache")
    context.rank, context.processes = rank, 2
    result = TASK.run(DogParams(**PARAMS), context)
    torch.save((result, context.reports, context.saved), root / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """``(what one process did, what rank 0 of two did, what rank 1 did)``, each (result, reports, checkpoints)."""
    root = tmp_path_factory.mktemp("ranks")
    drawn.write(root / "dogs", {"train": 6, "val": 2}, drawn.BREEDS[:6])
    alone = FakeContext(root / "alone", data=root / "dogs", cache=root / "cache")
    result = TASK.run(DogParams(**PARAMS), alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_rank, (root, port), nprocs=2)
    ranks = [torch.load(root / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    return (result, alone.reports, alone.saved), *ranks


def test_two_processes_train_as_one_does(both):
    (_, reports, saved), (_, theirs, their_saved), _ = both
    for (step, metrics), (their_step, their_metrics) in zip(reports, theirs, strict=True):
        assert step == their_step
        for name in ("train/loss", "pseudo/photos"):
            assert metrics[name] == pytest.approx(their_metrics[name], rel=1e-4), name
    # Moments are sums of gradients. (Weights may differ where a gradient is next to nothing: Adam's first steps go by
    # signs, and rounding decides those.)
    ours, others = (one[-1][1]["optimizer"]["state"] for one in (saved, their_saved))
    assert ours.keys() == others.keys()
    for name, moments in ours.items():
        away = (moments["exp_avg"] - others[name]["exp_avg"]).norm() / moments["exp_avg"].norm()
        assert away < 0.01, name


def test_the_first_process_alone_reports_saves_and_returns(both):
    _, (result, reports, saved), (silent, none, nothing) = both
    assert len(reports) == len(saved) == 2
    assert "val/top1" in result
    assert (silent, none, nothing) == ({}, [], [])
