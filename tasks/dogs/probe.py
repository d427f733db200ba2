"""A head that has converged on the frozen backbone, for a fine-tuning to begin from.

Source: Kumar et al., arXiv 2202.10054 (LP-FT). A head that starts from nothing sends its first, wrong gradients through
the backbone and distorts what that has learnt; behind a head that already reads the features well they are small.

The features are those of the frozen regime: computed once, and shared with its trials.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tasks.api import Context
from tasks.dogs.folders import Photos
from tasks.dogs.learners import FrozenLearner
from tasks.dogs.pseudo import PseudoLabels
from tasks.dogs.ranks import Ranks
from tasks.dogs.trainer import Trainer

if TYPE_CHECKING:
    from tasks.dogs.params import DogParams

# A training of a head alone is short and plain, whatever the fine-tuning asks for.
_PLAIN = {
    "regime": "frozen", "batch_size": 128, "accumulate": 1, "sampler": "shuffled", "ema": 0.0, "mixup": 0.0,
    "cutmix": 0.0, "diversity": 0.0, "compile": False,
}  # fmt: skip


def probe(params: DogParams, context: Context, photos: Photos, ranks: Ranks) -> FrozenLearner:
    """What ``probe_epochs`` at ``probe_lr`` make of the photos that a trial begins with, in the frozen regime."""
    own = params.model_copy(update={**_PLAIN, "epochs": params.probe_epochs, "lr": params.probe_lr})
    torch.manual_seed(context.seed)  # the first weights of the same trial in the frozen regime
    learner = FrozenLearner(own, context, photos)
    pool = PseudoLabels(own, learner.rows).pool
    trainer = Trainer(own, learner, context, ranks, len(photos.classes), pool.count)
    for epoch in range(1, own.epochs + 1):
        trainer.train_epoch(epoch, pool)
        print(f"probe: epoch {epoch} of {own.epochs}, loss {trainer.loss:.4f}", flush=True)
    return learner
