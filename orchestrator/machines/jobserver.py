"""Ray's job server, which runs on a cluster's head: submits the driver of a study as a job, and follows one."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.machines.shipping import JOB_WORDS

_OWN_CODES = (0, 1, 2, 3, 130)  # what a driver that ended by itself ends with
_LOOK_SECONDS = 0.5
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_BEGINS = "Running entrypoint for job "


def submit(folder: Path, words: Sequence[str], study: str, environment: Mapping[str, str]) -> str:
    """Submit ``orchestrator WORDS`` as a job that runs the code in ``folder``; returns the job's id."""
    job = f"{study}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    with _client() as client:
        return client.submit_job(
            submission_id=job,
            entrypoint=f"{shlex.quote(sys.executable)} -m orchestrator.remote",
            runtime_env={
                "working_dir": str(folder),
                "env_vars": {**environment, JOB_WORDS: json.dumps(list(words)), "PYTHONUNBUFFERED": "1"},
            },
            metadata={"study": study},
        )


def newest(study: str) -> str:
    """The id of the last job of a study. Raises `UserError` when there is none."""
    with _client() as client:
        jobs = [job for job in client.list_jobs() if (job.metadata or {}).get("study") == study]
    if not jobs:
        raise UserError(f"no job of '{study}' was submitted to this cluster", "see what ran: orchestrator ps --cluster")
    return max(jobs, key=lambda job: job.start_time or 0).submission_id or ""


def follow(job: str) -> int:
    """Print what a job prints until it ends; returns the exit code of its driver."""
    with _client() as client:
        asyncio.run(_print_all(client, job))
        while not (details := client.get_job_info(job)).status.is_terminal():
            time.sleep(_LOOK_SECONDS)  # its output has ended; its state follows
        return _exit_code(details)


def _exit_code(details: JobDetails) -> int:
    """The driver's own; 3 for one that was killed, of which the job server may know a code too."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.driver_exit_code not in _OWN_CODES:
        print(f"the driver's job did not end by itself: {details.message}", file=sys.stderr)
        return 3
    return details.driver_exit_code


async def _print_all(client: JobSubmissionClient, job: str) -> None:
    """All but what the job server itself writes before the command begins."""
    before: str | None = ""
    async for lines in client.tail_job_logs(job):
        if before is not None:
            before += lines
            _, ended, lines = before.partition(_BEGINS)[2].partition("\n")
            if not ended:
                continue  # the pieces end anywhere, in the middle of that line too
            before = None
        print(lines, end="", flush=True)


@contextmanager
def _client() -> Iterator[JobSubmissionClient]:
    """Raises `EnvironmentProblem` when this machine runs no cluster's head, or the token is not the cluster's."""
    hint = "start it: orchestrator cluster up; see what is wrong: orchestrator doctor --cluster FILE"
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield JobSubmissionClient()
    except (ConnectionError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"the job server of this cluster does not answer as it should: {error}", hint
        ) from error
