from __future__ import annotations

import pytest
import torch

from orchestrator.history import checkpoint


def test_nested_state_comes_back_as_it_was(tmp_path):
    shared = torch.randn(3, 2)
    state = {
        "model": {"w": shared, "tied": shared, "empty": torch.zeros(0)},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"betas": (0.9, 0.999), "foreach": None}]},
        "history": [{"epoch": 1, "ok": True, "name": "Hündin"}],
        "rng": torch.get_rng_state(),
        "half": torch.randn(2).bfloat16(),
    }
    checkpoint.save(tmp_path, 4, state)
    step, loaded, _ = checkpoint.load_last(tmp_path)
    assert step == 4
    assert loaded["optimizer"]["groups"] == state["optimizer"]["groups"]
    assert loaded["history"] == state["history"]
    assert list(loaded["optimizer"]["state"]) == [0]
    for a, b in ((loaded["model"]["tied"], shared), (loaded["rng"], state["rng"]), (loaded["half"], state["half"])):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_old_ones_go_and_a_damaged_last_one_is_passed_over(tmp_path, capsys):
    for step in range(1, 5):
        checkpoint.save(tmp_path, step, {"step": step})
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["step-000000003.safetensors", "step-000000004.safetensors"]
    files[1].write_bytes(files[1].read_bytes()[:40])
    assert checkpoint.load_last(tmp_path)[:2] == (3, {"step": 3})
    assert "step-000000004.safetensors is damaged" in capsys.readouterr().out


def test_nothing_saved_is_none_and_objects_are_refused(tmp_path):
    assert checkpoint.load_last(tmp_path / "none") is None
    with pytest.raises(TypeError, match=r"state\.a\.0 is a object"):
        checkpoint.save(tmp_path, 1, {"a": [object()]})
    assert checkpoint.load_last(tmp_path) is None
