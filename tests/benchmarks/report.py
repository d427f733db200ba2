"""The page of a study of 1,000 trials of 50 reports: how large it is and how long it takes.

    python tests/benchmarks/report.py [--quick]

The study has six searched parameters, one of them conditional; asynchronous halving judges at the last report, so that
every trial gives all 50; 32 places on 8 nodes. Measured in a process of its own that reads the journal and writes the
page and its PNGs, from its start; the slowest of three (one with ``--quick``).
"""

from __future__ import annotations

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
TRIALS, STEPS, PLACES = 1000, 50, 32

from orchestrator.history.events import (  # noqa: E402
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialPlaced,
    TrialStarted,
)
from orchestrator.history.folder import StudyFolder  # noqa: E402
from orchestrator.history.journal import Journal  # noqa: E402
from orchestrator.history.states import State  # noqa: E402
from orchestrator.studies.plan import sample  # noqa: E402
from orchestrator.studies.studyfile import build  # noqa: E402
from orchestrator.tuning.schedulers import make_scheduler  # noqa: E402

WRITE = """
import sys
from pathlib import Path
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import load_record
from orchestrator.report.page import write_report
folder = StudyFolder(Path(sys.argv[1]))
write_report(load_record(folder.journal), folder)
"""
SPACE = {
    "x": {"uniform": [-1, 1]},
    "noise": {"log_uniform": [1e-4, 1e-1]},
    "width": {"int_range": [1, 64], "log": True},
    "mood": {"choice": ["well", "nan", "wide", "string"]},
    "once": {"choice": [True, False], "when": {"mood": "nan"}},
    "saves": {"choice": [True, False]},
}


def write_study(folder: StudyFolder, trials: int = TRIALS, steps: int = STEPS, scheduler: object = "asha") -> None:
    """A journal as a study of that size leaves it: of each trial what it would have reported, judged as it would be."""
    search = {"trials": trials, "scheduler": scheduler, "space": SPACE}
    study = build({"task": "toy", "name": folder.name, "search": search, "params": {"steps": steps}})
    judge, rng, now = make_scheduler(study, trials), random.Random(0), 1.7e9
    free = [(now + rng.random(), f"node-{place % 8}") for place in range(min(PLACES, trials))]
    with Journal(folder.journal) as journal:
        events: list = [StudyStarted("uid", study.to_plain(), trials, at=now)]
        for index in range(trials):
            at, node = min(free)
            free.remove((at, node))
            id, chosen = f"t{index:04d}", sample(study.search.space, 0, f"t{index:04d}")
            params = study.params_of(chosen).model_dump(mode="json")
            events.append(TrialStarted(id, index, params, tuple(chosen), at=at))
            events.append(TrialPlaced(id, node, 1, "", at=at + 0.2))
            fails, goes_on, loss = rng.random() < 0.02, True, 0.0
            for step in range(1, steps + 1):
                at += rng.uniform(0.8, 1.2)
                loss = (chosen["x"] - 0.5) ** 2 + 2 / (step + 2) + rng.gauss(0, 0.02) + 0.1 * (chosen["mood"] == "nan")
                events.append(Reported(id, step, {"loss": loss, "seed": 0.0}, at=at))
                if not (goes_on := judge.on_report(id, step, loss)) or (fails and step == 5):
                    break
            if fails and goes_on:
                events.append(TrialEnded(id, State.FAILED, "RuntimeError: the toy broke", at=at))
            elif goes_on:
                events.append(TrialEnded(id, State.FINISHED, metrics={"loss": loss}, at=at))
            else:
                last = {"loss": loss}
                events.append(TrialEnded(id, State.PRUNED, f"stopped at step {step}", last, at=at))
            free.append((at, node))
        verdict = {"support": "undecided", "sentence": "A drawn study says nothing."}
        events.append(StudyEnded(State.FINISHED, verdict, at=max(free)[0]))
        journal.append(*events)


def main() -> None:
    sizes, seconds = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = StudyFolder(Path(scratch) / "study")
        write_study(folder, scheduler={"asha": {"grace": STEPS}})
        for _ in range(1 if "--quick" in sys.argv else 3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", WRITE, str(folder.root)], cwd=ROOT, check=True)
            seconds.append(time.perf_counter() - began)
            sizes.append(folder.report.stat().st_size / 1e6)
            print(f"{sizes[-1]:.2f} MB in {seconds[-1]:.1f} s")
    bars = [
        Bar(f"page of {TRIALS:,} trials of {STEPS} reports", max(sizes), "MB", 5),
        Bar("to read the journal and write the page and its PNGs, whole process", max(seconds), "s", 10),
    ]
    state("report", bars)


if __name__ == "__main__":
    main()
