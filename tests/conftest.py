"""Fixtures for all tests. The toy tasks join the registry before anything imports it."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

os.environ["ORCHESTRATOR_TASKS"] = str(Path(__file__).parent / "toy_tasks")
os.environ.pop("ORCHESTRATOR_DATA", None)
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)

from orchestrator import cli
from orchestrator.history.folder import Runs
from orchestrator.running import launch
from orchestrator.studies.studyfile import build


class QuietDisplay:
    """A display that shows nothing."""

    def start(self, plan, folder, record):
        pass

    def update(self, stopping=False):
        pass

    def stop(self):
        pass

    def warn(self, message, hint):
        pass


def run_toy(runs: Runs, **raw):
    """Run a study of the toy task in this process."""
    return launch.run_study(build({"task": "toy", **raw}), runs, QuietDisplay())


@pytest.fixture(autouse=True)
def same_numbers():
    """Each test draws the same numbers, whichever ran before it."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory) -> Path:
    """A cache that tests share, so that the built-in data is drawn once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def runs(tmp_path) -> Runs:
    return Runs(tmp_path / "runs")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets: ``$ORCHESTRATOR_REAL_DATA``, or ``shared/data`` beside the checkout."""
    given = os.environ.get("ORCHESTRATOR_REAL_DATA")
    path = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set ORCHESTRATOR_REAL_DATA)")
    return path


@pytest.fixture
def command(runs, monkeypatch, capsys):
    """Run the command in this process: ``command("plan", "dogs") → (exit code, stdout, stderr)``."""
    monkeypatch.setenv("ORCHESTRATOR_RUNS", str(runs.root))
    monkeypatch.setattr("orchestrator.terminal.lines.console.width", 200)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["orchestrator", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def hosts_allowed() -> None:
    """Skips, and says why, where this machine cannot make hosts."""
    import hosts

    reason = hosts.skip_reason()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def hosts_lab(hosts_allowed, tmp_path_factory):
    """Three hosts that the tests of a module share."""
    import hosts

    with hosts.Lab(tmp_path_factory.mktemp("lab")) as made:
        yield made
