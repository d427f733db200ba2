"""Between the driver and Ray Tune: what Tune is told of an attempt whose worker was killed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.running.trials import _TuneScheduler


@pytest.mark.parametrize(
    ("goes_on", "worker", "decision"),
    [
        (True, "well", TrialScheduler.CONTINUE),
        (False, "well", TrialScheduler.STOP),
        (False, "killed", TrialScheduler.CONTINUE),  # stopped, it would be given the next attempt, and lose that
    ],
)
def test_a_killed_worker_is_left_to_its_death(goes_on, worker, decision):
    driver = SimpleNamespace(heard=lambda trial, attempt, events: goes_on)
    placing = SimpleNamespace(has_killed=lambda actor: actor == "killed")
    trial = SimpleNamespace(
        config={"spec": SimpleNamespace(id="t0000")}, temporary_state=SimpleNamespace(ray_actor=worker)
    )
    scheduler = _TuneScheduler(driver, placing)
    assert scheduler.on_trial_result(None, trial, {"attempt": 1, "events": []}) == decision
