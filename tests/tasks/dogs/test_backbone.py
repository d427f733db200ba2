from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from tasks.api import InputError
from tasks.dogs.backbone import PACKAGED, load_backbone, load_weights
from tasks.dogs.stages import last_stages

SMALL = "test_efficientnet"  # timm's own tiny model for tests


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_weights_fit_and_are_not_random(name):
    backbone = load_backbone(name, "packaged")
    assert backbone.features == 1280
    assert backbone.mean == (0.5, 0.5, 0.5)
    random = load_backbone(name, "none")
    mine, other = (dict(b.net.named_parameters())["conv_stem.weight"] for b in (backbone, random))
    assert not torch.equal(mine, other)
    # A trained stem sees edges: its filters are far more structured than random ones (whose spectra are flat).
    spread = lambda w: torch.linalg.svdvals(w.detach().flatten(1))  # noqa: E731
    assert spread(mine)[0] / spread(mine)[10] > 2 * spread(other)[0] / spread(other)[10]


def test_loading_leaves_the_generator_alone_and_random_weights_follow_their_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = (load_backbone(SMALL, "none", seed).net.state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv_stem.weight"], other["conv_stem.weight"])


def test_weights_from_files_of_both_kinds(tmp_path):
    net = timm.create_model(SMALL, pretrained=False)
    state = net.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "trainer.pt")
    for name in ("w.safetensors", "w.pt", "trainer.pt"):
        loaded = load_backbone(SMALL, str(tmp_path / name))
        for key, value in loaded.net.state_dict().items():
            assert torch.equal(value, state[key])


def test_files_that_do_not_fit_are_named(tmp_path):
    net = timm.create_model(SMALL, pretrained=False)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt does not hold weights"):
        load_weights(net, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(InputError, match="weights_only=True"):
        load_weights(net, tmp_path / "text.pt")

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="weights_only=True"):
        load_weights(net, tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_had_says_what_to_give(monkeypatch):
    with pytest.raises(InputError, match="near it: tf_efficientnet_lite"):
        load_backbone("tf_efficientnet_lite9", "packaged")
    with pytest.raises(InputError, match="give weights=PATH"):
        load_backbone("resnet18", "packaged")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"timm's hub gave no weights for 'resnet18'.*weights=PATH"):
        load_backbone("resnet18", "pretrained")


def test_normalising_is_what_torchvision_does():
    from torchvision.transforms import v2

    photos = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    backbone = load_backbone("resnet18", "none")
    expected = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(backbone.mean, backbone.std)])
    theirs = expected(torch.from_numpy(photos).permute(0, 3, 1, 2))
    assert torch.allclose(backbone.normalise(torch.from_numpy(photos)), theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_the_last_stages_are_nested_and_end_with_everything(name):
    net = load_backbone(name, "none").net
    sizes = [len(last_stages(net, count)) for count in (1, 2, 3, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
    assert sizes[-1] == len(list(net.parameters()))
