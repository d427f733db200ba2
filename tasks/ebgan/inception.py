"""FID's own Inception network, from torch-fidelity; the one module that imports it.

The network is fixed to its last bit by convention, so it is not ours to write again; its weights (91 MB) are the user's
to fetch, and nothing is downloaded here. Both are needed for CIFAR-10 alone.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.api import InputError

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
_BLOCK = 64


def check_weights(path: str) -> None:
    """Raises `InputError` when the file or the package is not there."""
    if not Path(path).is_file():
        raise InputError(
            f"params.inception={path}: there is no such file; it is {WEIGHTS} of torch-fidelity's releases (or leave "
            f"params.inception empty: no FID then)"
        )
    if importlib.util.find_spec("torch_fidelity") is None:
        raise InputError("params.inception needs the package torch-fidelity: pip install 'orchestrator[fid]'")


def load(path: str, device: str) -> Any:
    """The network with its weights, which turns uint8 pictures into ``(features, class scores)``."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        torch.load(path, map_location="cpu", weights_only=True)  # a pickle of more than tensors goes no further
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
        )
    except (UnpicklingError, RuntimeError, KeyError, OSError, EOFError) as error:
        raise InputError(f"params.inception={path} does not hold the weights {WEIGHTS}: {error}") from error
    return network.to(device).eval()


@torch.no_grad()
def see(network: Any, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (n, 3, side, side) within ±1 → features (n, 2048), class probabilities (n, 1008)."""
    features, probabilities = [], []
    for block in x.split(_BLOCK):
        seen, scores = network(((block.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
        features.append(seen.double().cpu().numpy())
        probabilities.append(scores.double().softmax(1).cpu().numpy())
    return np.concatenate(features), np.concatenate(probabilities)
