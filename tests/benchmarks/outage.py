"""What a slow or a dead tracker costs the trials: nothing, since they never wait for it.

    python tests/benchmarks/outage.py [--quick]

The same study (12 trials, 2 at once, about 20 s) is run alternately with an MLflow server behind a proxy that passes,
that takes 2 s a request, and that never answers; three rounds, or one with ``--quick``. What is compared is the time
from the first trial's start to the last one's end, by the journal; the medians are held against the bars. What the
study waits for its tracker after its trials is no part of that: the proxy passes again once the journal is complete.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
os.environ["ORCHESTRATOR_TASKS"] = str(ROOT / "tests" / "toy_tasks")
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from running import Bench  # noqa: E402
from servers import Proxy, mlflow_server, wait_for  # noqa: E402

from orchestrator.history.events import StudyEnded, TrialEnded, TrialStarted  # noqa: E402
from orchestrator.history.journal import read  # noqa: E402
from orchestrator.history.states import State  # noqa: E402

STUDY = {
    "search": {"algorithm": "random", "trials": 12, "concurrent": 2, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 40, "pace": 0.08},
}
TRACKERS = {"passes": ("pass", 0.0), "takes 2 s": ("slow", 2.0), "never answers": ("hang", 0.0)}
LONGEST_STUDY_SECONDS = 300.0


def measure(root: Path, name: str, server: str, mode: str, seconds: float) -> float:
    """Seconds of the trials' phase of one study."""
    with Proxy(server) as proxy:
        bench = Bench(root, name, **STUDY, tracking={"uri": proxy.uri})
        bench.environment = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
        proxy.behave(mode, seconds)
        process = bench.start()
        over = lambda: process.poll() is not None or is_over(bench)  # noqa: E731
        wait_for(over, "the study", LONGEST_STUDY_SECONDS)
        asked = len(proxy.requests)
        proxy.behave("pass")
        out, err = process.communicate(timeout=LONGEST_STUDY_SECONDS)
    assert process.returncode == 0, out + err
    assert asked, "the tracker was never asked for anything"
    record = bench.record
    assert record.count(State.FINISHED) == STUDY["search"]["trials"]
    events = [event for event, _ in read(bench.folder.journal)]
    began = min(event.at for event in events if isinstance(event, TrialStarted))
    return max(event.at for event in events if isinstance(event, TrialEnded)) - began


def is_over(bench: Bench) -> bool:
    journal = bench.folder.journal
    return journal.exists() and any(isinstance(event, StudyEnded) for event, _ in read(journal))


def main() -> None:
    found: dict[str, list[float]] = {name: [] for name in TRACKERS}
    with tempfile.TemporaryDirectory() as scratch, mlflow_server(Path(scratch) / "server") as server:
        for number in range(1 if "--quick" in sys.argv else 3):
            for name, behaviour in TRACKERS.items():
                root = Path(scratch) / f"{number}-{behaviour[0]}"
                found[name].append(measure(root, f"s{number}-{behaviour[0]}", server.uri, *behaviour))
                print(f"a tracker that {name}: trials took {found[name][-1]:.2f} s", flush=True)
    usual = statistics.median(found.pop("passes"))
    slower = {name: 100 * (statistics.median(seconds) / usual - 1) for name, seconds in found.items()}
    state("outage", [Bar(f"trials slowed by a tracker that {name}", value, "%", 5) for name, value in slower.items()])


if __name__ == "__main__":
    main()
