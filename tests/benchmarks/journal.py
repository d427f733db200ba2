"""The journal on one core: reports appended a second, events replayed a second, and the resume of a million events.

    python tests/benchmarks/journal.py [--quick]

Each figure is the slowest of three runs (one with ``--quick``). A resume is what happens before the first trial goes
on: the journal is opened and replayed, searcher and scheduler are rebuilt. It is measured in a process of its own, from
its start to the driver being ready, with its peak memory.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
os.environ["ORCHESTRATOR_TASKS"] = str(ROOT / "tests" / "toy_tasks")
sys.path.insert(0, str(ROOT))
TRIALS, STEPS = 1000, 1000

from orchestrator.history.events import Reported, StudyStarted, TrialStarted  # noqa: E402
from orchestrator.history.folder import StudyFolder  # noqa: E402
from orchestrator.history.journal import Journal, load_record  # noqa: E402
from orchestrator.studies.plan import Node, make_plan  # noqa: E402
from orchestrator.studies.studyfile import build  # noqa: E402

RESUME = """
import resource, sys, threading
from pathlib import Path
from orchestrator.running.driver import Driver
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import Journal
from orchestrator.studies.plan import Node, make_plan
from orchestrator.tuning.schedulers import make_scheduler
from orchestrator.tuning.search import make_searcher
from orchestrator.studies.studyfile import change_study
folder = StudyFolder(Path(sys.argv[1]))
with Journal(folder.journal) as journal:
    study = change_study(journal.record, ())
    plan = make_plan(study, [Node("here", 2, 0)])
    scheduler, searcher = make_scheduler(study, len(plan.trials)), make_searcher(plan)
    driver = Driver(plan, journal, folder, folder.root, searcher, scheduler, threading.Event())
    assert driver.next() is not None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def study():
    space = {"x": {"uniform": [-1, 1]}, "width": {"int_range": [1, 64]}}
    search = {"algorithm": "random", "scheduler": {"asha": {"grace": 1}}, "trials": TRIALS, "space": space}
    return build({"task": "toy", "search": search, "params": {"steps": STEPS}})


def write_million(folder: StudyFolder) -> float:
    """A journal of a thousand trials with a thousand reports of two metrics each; returns reports a second."""
    asked = study()
    plan, rng = make_plan(asked, [Node("here", 2, 0)]), random.Random(0)
    with Journal(folder.journal) as journal:
        journal.append(StudyStarted("uid", asked.to_plain(), TRIALS))
        for trial in plan.trials:
            params = asked.params_of(trial.params).model_dump(mode="json")
            journal.append(TrialStarted(trial.id, trial.seed, params, tuple(trial.params)))
        began = time.perf_counter()
        for step in range(1, STEPS + 1):
            for trial in plan.trials:
                journal.append(Reported(trial.id, step, {"loss": rng.random(), "seed": float(trial.seed)}))
        return TRIALS * STEPS / (time.perf_counter() - began)


def main() -> None:
    appended, replayed, seconds, peaks = [], [], [], []
    for _ in range(1 if "--quick" in sys.argv else 3):
        with tempfile.TemporaryDirectory() as scratch:
            folder = StudyFolder(Path(scratch) / "study")
            appended.append(write_million(folder))
            events = TRIALS * (STEPS + 1) + 1
            began = time.perf_counter()
            load_record(folder.journal)
            replayed.append(events / (time.perf_counter() - began))
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", RESUME, str(folder.root)],
                cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            seconds.append(time.perf_counter() - began)
            peaks.append(json.loads(done.stdout) / 1e6)
            print(f"{appended[-1]:.0f} appended/s, {replayed[-1]:.0f} replayed/s, {seconds[-1]:.1f} s to resume")
    bars = [
        Bar("reports appended", min(appended), "1/s", 20_000, at_most=False),
        Bar("events replayed", min(replayed), "1/s", 100_000, at_most=False),
        Bar("resume of 1,001,001 events, whole process", max(seconds), "s", 15),
        Bar("its peak memory", max(peaks), "MB", 500),
    ]
    state("journal", bars)


if __name__ == "__main__":
    main()
