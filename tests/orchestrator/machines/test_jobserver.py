"""What a laptop hears of a job on the cluster: the driver's output, and how it ended."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from orchestrator.machines import jobserver


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.FAILED, 137, 3),  # killed
        (JobStatus.FAILED, -9, 3),
        (JobStatus.FAILED, None, 3),  # its node is gone
        (JobStatus.STOPPED, None, 3),
    ],
)
def test_a_driver_that_did_not_end_by_itself_is_no_failed_study(status, code, said, capsys):
    details = SimpleNamespace(status=status, driver_exit_code=code, message="killed")
    assert jobserver._exit_code(details) == said
    assert ("did not end by itself: killed" in capsys.readouterr().err) == (said == 3)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_the_job_server_writes_before_the_command_is_left_out(size, capsys):
    """Its output comes in pieces that end anywhere."""
    text = f"2026 INFO Runtime env is setting up.\n{jobserver._BEGINS} python -m x\ndogs: which?\n3 trials\n"

    async def pieces(job):
        for at in range(0, len(text), size):
            yield text[at : at + size]

    asyncio.run(jobserver._print_all(SimpleNamespace(tail_job_logs=pieces), "job"))
    assert capsys.readouterr().out == "dogs: which?\n3 trials\n"
