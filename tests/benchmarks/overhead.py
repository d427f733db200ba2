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
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
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
    from orchestrator import launch
    from orchestrator.folder import Runs
    from orchestrator.studyfile import build

    class Clock:
        def start(self, *_: object) -> None:
            self.began = time.perf_counter()

        def update(self) -> None:
            pass

        def stop(self) -> None:
            self.trials = time.perf_counter() - self.began

    clock = Clock()
    search = {"algorithm": "tpe", "scheduler": "asha", "trials": TRIALS}
    with mlflow_server(scratch) as uri:
        study = build({"task": "five", "search": search, "tracking": {"uri": uri}})
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

    with mlflow_server(scratch) as uri:
        callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="default")
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


@contextmanager
def mlflow_server(scratch: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{scratch}/mlflow.db", "--default-artifact-root", f"{scratch}/artifacts"]
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # its job runners start for a while
    with open(f"{scratch}/server.log", "w") as log:
        process = subprocess.Popen([*server, *store], stdout=log, stderr=log, env=environment)
    try:
        uri = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)  # noqa: S310 - http, as just made
                break
            except (urllib.error.URLError, TimeoutError):
                assert process.poll() is None, "the MLflow server ended"
                time.sleep(0.1)
        yield uri
    finally:
        process.terminate()
        process.wait()


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
    bars = [
        Bar("vs_bare", statistics.median(trials), "×", 1.15),
        Bar("vs_bare until all is tracked", statistics.median(tracked), "×", 1.15),
    ]
    peer = measure("default")["trials"]
    bars.append(
        Bar(
            "vs_default_with_callback",
            peer / statistics.median(one["tracked"] for one, _ in pairs),
            "×",
            8,
            at_most=False,
        )
    )
    state("overhead", bars)


if __name__ == "__main__":
    main()
