"""What a study costs its driver by the number of trials: processor time, memory, journal, tracker.

    python tests/benchmarks/scale.py [--quick]

One study of 1,000 trials (100 with ``--quick``) of 10 reports of 5 metrics, random search, everything on (journal,
embedded tracker, page). Reports are 0.1 s apart: a worker gathers for 0.05 s, so that nearly every report is a message
of its own. It runs on this machine alone and then, but not with ``--quick``, on three hosts made of network namespaces
(needs root), where the driver is a job on the head. What is measured is the driver's process alone, from outside, by
/proc: all its threads, the tracker's and Ray's too.

- CPU: from the first trial's start to the process's end (the tracker's rest and the page too), over the messages that
  held reports. They are counted in the driver; on the hosts, where nothing is put into it, reports stand for them.
- Memory is private memory (RssAnon): libraries' code is shared. The bar is on what the trials add; Ray, MLflow and the
  rest, loaded before the first trial, are more than 200 MB by themselves, and stated beside it.
- Linear: CPU a trial in the second half over that in the first (its first tenth left out), and how far memory is from
  a line, as a share of all it holds: collections of garbage move it by several MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
os.environ["ORCHESTRATOR_TASKS"] = str(ROOT / "tests" / "toy_tasks")
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults"), str(ROOT / "tests" / "cluster")]

import hosts  # noqa: E402
from laboratory import Laboratory, driver  # noqa: E402
from running import Bench, megabytes  # noqa: E402

from orchestrator.history.events import Reported, TrialEnded, TrialStarted  # noqa: E402
from orchestrator.history.folder import Runs, StudyFolder  # noqa: E402
from orchestrator.history.journal import read  # noqa: E402
from orchestrator.history.states import State  # noqa: E402

MARKS = 20  # how many points a study is measured at
LOOK_SECONDS = 0.2
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Point:
    """A driver after so many trials: CPU in seconds, private memory, its peak and the journal in units of 10⁶ bytes."""

    trials: int
    reports: int
    cpu: float
    anonymous: float
    resident: float
    journal: float


@dataclass(frozen=True)
class Run:
    """A study from its first trial's start to its driver's end."""

    points: list[Point]
    seconds: float
    tracker: float  # 10⁶ bytes of its database
    messages: int  # that held reports
    tracker_cpu: float | None = None  # seconds of the tracker's thread, where that is known

    @property
    def first(self) -> Point:
        return self.points[0]

    @property
    def last(self) -> Point:
        """At the last trial's end."""
        return self.points[-2]

    @property
    def end(self) -> Point:
        """The last that was seen of it."""
        return self.points[-1]

    @property
    def cpu(self) -> float:
        return self.end.cpu - self.first.cpu

    def cpu_between(self, share: float, other: float) -> float:
        """CPU seconds a trial between two shares of the trials."""
        low, high = (
            min(self.points[:-1], key=lambda p: abs(p.trials - at * self.last.trials)) for at in (share, other)
        )
        return (high.cpu - low.cpu) / (high.trials - low.trials)

    def _nearest(self, trials: float) -> Point:
        return min(self.points[:-1], key=lambda point: abs(point.trials - trials))

    def line(self, of: Callable[[Point], float]) -> tuple[float, float]:
        """The slope of a line through what the points say (a trial), and the largest distance from it.

        The first fifth of the trials is left out, and the last one: libraries are being loaded, the tracker's then and
        the page's now.
        """
        points = [p for p in self.points[:-1] if self.last.trials / 5 <= p.trials < self.last.trials]
        slope, at_zero = statistics.linear_regression([p.trials for p in points], [of(p) for p in points])
        return slope, max(abs(of(p) - at_zero - slope * p.trials) for p in points)


class Watch:
    """Looks at a driver, from outside, as its journal grows."""

    def __init__(self, journal: Path, trials: int) -> None:
        self._journal, self._step = journal, max(1, trials // MARKS)
        self._offset = self._reports = self._over = 0
        self._began = False
        self._last: Point | None = None
        self.points: list[Point] = []

    def look(self, pid: int) -> None:
        before = self._over
        if self._journal.exists():
            for event, end in read(self._journal, self._offset):
                self._offset = end
                self._reports += isinstance(event, Reported)
                self._over += isinstance(event, TrialEnded)
                self._began = self._began or isinstance(event, TrialStarted)
        with open(f"/proc/{pid}/stat") as file:
            used = [int(word) for word in file.read().rpartition(")")[2].split()[11:13]]
        sizes = (megabytes(pid, field) for field in ("RssAnon", "VmRSS"))
        size = self._journal.stat().st_size / 1e6 if self._began else 0.0
        point = Point(self._over, self._reports, sum(used) / TICKS, *sizes, size)
        if not point.anonymous:
            return  # it has ended, and is not waited for yet
        self._last = point
        if self._began and (not self.points or before // self._step < self._over // self._step):
            self.points.append(point)

    def close(self) -> list[Point]:
        assert self._last is not None, "the driver was never seen"
        return [*self.points, self._last]


def follow(process: subprocess.Popen[str], watch: Watch, pid_of: Callable[[], int]) -> tuple[list[Point], float]:
    """Watch a driver to its end. Returns the points and the seconds from its first trial on."""
    began = None
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):  # it has not come yet, or has gone
            watch.look(pid_of())
        began = began or (time.monotonic() if watch.points else None)
        time.sleep(LOOK_SECONDS)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert began is not None
    return watch.close(), time.monotonic() - began


def study(trials: int, pace: float) -> dict[str, object]:
    return {
        "task": "five",
        "params": {"pace": pace},
        "search": {"algorithm": "random", "trials": trials, "space": {"x": {"uniform": [0, 1]}}},
    }


def on_one_node(root: Path, trials: int, pace: float) -> Run:
    bench, told = Bench(root, "scale", **study(trials, pace)), root / "told.json"
    with (root / "output.txt").open("w+") as output:  # a pipe that nobody reads would stop it
        process = subprocess.Popen(
            [sys.executable, __file__, "--driver", str(told), "run", str(bench.file)],
            env={**os.environ, "ORCHESTRATOR_RUNS": str(bench.runs.root)}, stdout=output, stderr=output, text=True,
        )  # fmt: skip
        points, seconds = follow(process, Watch(bench.folder.journal, trials), lambda: process.pid)
    said = json.loads(told.read_text())
    check(bench.folder, trials)
    return Run(points, seconds, tracker_size(bench.runs), said["messages"], said["tracker"])


def on_hosts(root: Path, trials: int, pace: float) -> Run:
    with hosts.Lab(root / "lab", 3) as lab:
        laboratory = Laboratory(lab)
        file = laboratory.project / "scale.yaml"
        file.write_text(json.dumps(study(trials, pace)))
        laboratory.call("cluster", "up", str(laboratory.file), "--wait", "4")
        process = laboratory.start("run", str(file), "--detach")
        process.communicate(timeout=300)
        process = laboratory.start("attach", "scale")
        found: list[int] = []

        def pid_of() -> int:
            found[:] = found or driver(lab.head)[:1]
            return found[0]

        folder = laboratory.folder("scale")
        points, seconds = follow(process, Watch(folder.journal, trials), pid_of)
        laboratory.call("cluster", "down", str(laboratory.file))
        check(folder, trials)
        return Run(points, seconds, tracker_size(laboratory.runs), points[-1].reports)


def check(folder: StudyFolder, trials: int) -> None:
    ended = [event for event, _ in read(folder.journal) if isinstance(event, TrialEnded)]
    assert len(ended) == trials
    assert {event.state for event in ended} == {State.FINISHED}


def tracker_size(runs: Runs) -> float:
    return sum(path.stat().st_size for path in runs.tracker.parent.glob(f"{runs.tracker.name}*")) / 1e6


def be_driver(told: str, *words: str) -> None:
    """``orchestrator WORDS`` in this process, and in a file at its end what cannot be seen from outside."""
    from orchestrator import cli
    from orchestrator.running.driver import Driver
    from orchestrator.tracker.follower import Follower

    heard, follow_journal, said = Driver.heard, Follower._follow, {"messages": 0, "tracker": 0.0}

    def counting(self, id, attempt, events):
        said["messages"] += any(isinstance(event, Reported) for event in events)
        return heard(self, id, attempt, events)

    def timed(self):
        follow_journal(self)
        said["tracker"] = time.thread_time()

    Driver.heard, Follower._follow = counting, timed
    sys.argv = ["orchestrator", *words]
    try:
        cli.main()
    finally:
        Path(told).write_text(json.dumps(said))


def show(where: str, run: Run) -> None:
    load = f"load {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"
    print(f"\n{where}: {run.last.trials} trials in {run.seconds:.0f} s; {load}")
    print(f"{'trials':>8} {'CPU s':>8} {'private MB':>11} {'resident MB':>12} {'journal MB':>11}")
    for p in run.points:
        print(f"{p.trials:8} {p.cpu:8.2f} {p.anonymous:11.1f} {p.resident:12.1f} {p.journal:11.3f}")
    trials, reports = run.end.trials, run.end.reports
    memory, _ = run.line(lambda p: p.anonymous)
    print(f"{reports} reports in {run.messages} messages")
    print(f"CPU: {run.first.cpu:.1f} s before the first trial, then {run.cpu:.1f} s:")
    print(f"  {1000 * run.cpu / trials:.1f} ms a trial, {1000 * run.cpu / run.messages:.2f} ms a message with reports")
    if run.tracker_cpu is not None:
        print(f"  of them the tracker's thread {1000 * run.tracker_cpu / trials:.1f} ms a trial")
    print(f"private memory: {run.first.anonymous:.0f} MB at the first trial, {run.last.anonymous:.0f} MB at the last,")
    print(f"  {run.end.anonymous:.0f} MB at the end (the page); {1000 * memory:.1f} kB a trial")
    kilobytes = 1000 * run.end.journal / trials, 1000 * run.tracker / trials
    print(f"disk: journal {kilobytes[0]:.2f} kB a trial, tracker {kilobytes[1]:.1f} kB a trial", flush=True)


def bars_of(where: str, run: Run) -> list[Bar]:
    slope, off = run.line(lambda p: p.anonymous)
    first, second = run.cpu_between(0.1, 0.5), run.cpu_between(0.5, 1.0)
    return [
        Bar(f"{where}: CPU of a message with reports", 1000 * run.cpu / run.messages, "ms", 10),
        Bar(f"{where}: CPU of a trial, second half over first", second / first, "×", 1.2),
        Bar(f"{where}: private memory that 1,000 trials add", 1000 * slope, "MB", 200),
        Bar(f"{where}: its distance from a line, of all it holds", 100 * off / run.last.anonymous, "%", 5),
    ]


def main() -> None:
    if "--driver" in sys.argv:
        return be_driver(*sys.argv[2:])
    quick = "--quick" in sys.argv
    trials, pace = (100, 0.1) if quick else (1000, 0.1)
    with tempfile.TemporaryDirectory() as scratch:
        run = on_one_node(Path(scratch), trials, pace)
        show("one node", run)
        bars = bars_of("one node", run)
        reason = "--quick" if quick else hosts.skip_reason()
        if reason is None:
            run = on_hosts(Path(scratch), trials, pace)
            show("three hosts", run)
            bars += bars_of("three hosts", run)
        else:
            print(f"three hosts: left out ({reason})")
    state("scale", bars)


if __name__ == "__main__":
    main()
