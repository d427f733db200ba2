"""What a trial costs beside its own work, against bare Ray Tune and against Tune with MLflow's callback.

    python tests/benchmarks/overhead.py [--quick]

100 trials × 10 reports × 5 metrics, alternately: ``ours`` with everything on (journal, tracking to a local ``mlflow
server`` over SQLite, tpe, asha), a bare ``tune.Tuner`` with ``reuse_actors=True`` and no logging, and once (it takes
minutes) the default ``tune.Tuner`` with ``MLflowLoggerCallback`` to such a server. Every run is a process of its own;
the clock starts when Ray is up and, for ours, stops when the last trial is over (`vs_bare`) or when everything is in
the tracker as well (`vs_default_with_callback`, and stated beside the other). Bars hold the medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "faults"))

from servers import mlflow_server  # noqa: E402

TRIALS = 100


def measure(what: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--one", what], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{what} ended with {done.returncode}:\n{done.stdout}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    print(what, {name: round(value, 2) for name, value in seconds.items()}, flush=True)
    return seconds


def ours(scratch: str) -> dict[str, float]:
    """``trials``: from the first trial asked for to the last one over; ``tracked``: until MLflow has it all."""
    os.environ["ORCHESTRATOR_TASKS"] = str(ROOT / "tests" / "toy_tasks")
    sys.path.insert(0, str(ROOT))
    from orchestrator.history.folder import Runs
    from orchestrator.running import launch
    from orchestrator.studies.studyfile import build

    class Clock:
        def start(self, *_: object) -> None:
            self.began = time.perf_counter()

        def update(self, stopping: bool = False) -> None:
            pass

        def stop(self) -> None:
            self.trials = time.perf_counter() - self.began

        def warn(self, message: str, hint: str) -> None:
            print(message)

    clock = Clock()
    search = {"algorithm": "tpe", "scheduler": "asha", "trials": TRIALS}
    with mlflow_server(Path(scratch) / "server") as server:
        study = build({"task": "five", "search": search, "tracking": {"uri": server.uri}})
        outcome = launch.run_study(study, Runs(Path(scratch) / "runs"), clock)
        tracked = time.perf_counter() - clock.began
    assert outcome.untracked is None, outcome.untracked
    assert len(outcome.record.trials) == TRIALS
    return {"trials": clock.trials, "tracked": tracked}


def bare(scratch: str) -> dict[str, float]:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    return {"trials": fit(scratch, reuse_actors=True, callbacks=[])}


def default(scratch: str) -> dict[str, float]:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    with mlflow_server(Path(scratch) / "server") as server:
        callback = MLflowLoggerCallback(tracking_uri=server.uri, experiment_name="default")
        return {"trials": fit(scratch, reuse_actors=None, callbacks=[callback])}


def fit(scratch: str, reuse_actors: bool | None, callbacks: list[object]) -> float:
    """The same trials under Tune itself, random search; seconds of ``Tuner.fit``."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    import ray
    from ray import tune

    def report(config: dict[str, float]) -> None:
        for step in range(1, 11):
            tune.report({f"m{i}": config["x"] + i / step for i in range(5)})

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tuner = tune.Tuner(
        report,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=TRIALS, reuse_actors=reuse_actors),
        run_config=tune.RunConfig(storage_path=scratch, name="tune", verbose=0, callbacks=callbacks),
    )
    began = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - began
    assert len(results) == TRIALS
    return seconds


def main() -> None:
    if "--one" in sys.argv:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps({"ours": ours, "bare": bare, "default": default}[sys.argv[2]](scratch)))
        return
    rounds = 1 if "--quick" in sys.argv else 5
    pairs = [(measure("ours"), measure("bare")) for _ in range(rounds)]
    trials = [one["trials"] / peer["trials"] for one, peer in pairs]
    tracked = [one["tracked"] / peer["trials"] for one, peer in pairs]
    print(
        f"ours/bare by round: {[round(r, 2) for r in trials]}; until all is tracked: {[round(r, 2) for r in tracked]}"
    )
    peer = measure("default")["trials"]
    ours_tracked = statistics.median(one["tracked"] for one, _ in pairs)
    bars = [
        Bar("vs_bare", statistics.median(trials), "×", 1.15),
        Bar("vs_default_with_callback", peer / ours_tracked, "×", 8, at_most=False),
    ]
    state("overhead", bars)


if __name__ == "__main__":
    main()
