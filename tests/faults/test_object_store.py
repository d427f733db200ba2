"""Studies kept in a real S3: heads that lose their disk, a store that goes away, objects that are damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import invariants
import pytest
from moto.server import ThreadedMotoServer
from running import Bench, kill, outcome
from servers import free_port, s3

from orchestrator.history.folder import Runs
from orchestrator.history.journal import load_record
from orchestrator.history.states import State
from orchestrator.objectstore.storage import Mirror

pytestmark = pytest.mark.faults

STUDY = {
    "search": {"algorithm": "random", "trials": 4, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 8, "saves": True, "noise": 0.1, "pace": 0.05},
    "failures": {"retries": 50},
}


class Cloud(Bench):
    """A bench whose runs are at a URL; `wipe` is what happens to a machine that goes."""

    def __init__(self, root, name, monkeypatch, **raw):
        super().__init__(root, name, **raw)
        self.url = f"s3://bucket/{root.name}"  # all servers of a process have the same objects
        monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(root / "machine"))
        monkeypatch.setenv("ORCHESTRATOR_RUNS", self.url)
        self.mirror = Mirror(self.url)
        self.runs = Runs.default()
        self.folder = self.runs._folder(name)
        self.environment = {"ORCHESTRATOR_RUNS": self.url}

    def wipe(self):
        """All that runs on the machine ends at once, and its disk is gone."""
        while found := self.processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.mirror.root)

    def processes(self):
        mark, found = f"ORCHESTRATOR_RUNS={self.url}\0".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                mine = entry.name == str(os.getpid())
                if entry.name.isdigit() and not mine and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def endpoint():
    with s3("bucket") as endpoint:
        yield endpoint


@contextlib.contextmanager
def serving(port):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield
    finally:
        server.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), "s", **STUDY)
    bench.finish()
    return outcome(bench.record)


def test_another_machine_sees_the_same(endpoint, undisturbed, tmp_path, monkeypatch):
    bench = Cloud(tmp_path, "s", monkeypatch, **STUDY)
    bench.finish()
    said = [bench.finish(*words) for words in (["show", "s", "--json"], ["leaderboard", "s"], ["logs", "s", "t0001"])]
    record = bench.record
    bench.wipe()
    again = [bench.finish(*words) for words in (["show", "s"], ["leaderboard", "s"], ["logs", "s", "t0001"])]
    assert again[1:] == said[1:]
    assert outcome(bench.record) == outcome(record) == undisturbed
    bench.finish("track", "s")
    invariants.check(bench.record, bench.folder.journal, bench.tracker)
    assert bench.folder.report.exists()


def test_the_head_goes_with_its_disk(endpoint, undisturbed, tmp_path, monkeypatch):
    """SIGKILL to all that runs, and nothing that was on the machine is there afterwards."""
    bench, words = Cloud(tmp_path, "s", monkeypatch, **STUDY), ["run", str(tmp_path / "s.yaml")]
    for events in (12, 25):
        process = bench.start(*words)
        if not bench.until(lambda: bench.events() >= events, process):  # noqa: B023 - called at once
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        bench.wipe()
        words = ["resume", "s"]
    bench.finish(*words)
    assert outcome(bench.record) == undisturbed
    invariants.check(bench.record, bench.folder.journal, bench.tracker)


def test_no_store_at_the_start(endpoint, tmp_path, monkeypatch):
    bench = Cloud(tmp_path, "s", monkeypatch, **STUDY)
    bench.environment["AWS_ENDPOINT_URL_S3"] = "http://127.0.0.1:9"
    said = bench.finish("run", str(bench.file), expect=3)
    assert f"{bench.url}/s" in said
    assert "did not answer" in said
    assert "Traceback" not in said
    bench.environment["ORCHESTRATOR_RUNS"] = "s3://other/runs"
    del bench.environment["AWS_ENDPOINT_URL_S3"]
    assert "bucket does not exist" in bench.finish("run", str(bench.file), expect=3)


def test_the_store_goes_away_in_the_middle(endpoint, undisturbed, tmp_path, monkeypatch):
    """Saves wait, then the study stops in order and says why; with the store back a resume finds all."""
    bench = Cloud(tmp_path, "s", monkeypatch, **STUDY)
    port = free_port()
    bench.environment |= {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", "ORCHESTRATOR_STORAGE_SECONDS": "5"}
    with serving(port):
        process = bench.start("run", str(bench.file))
        assert bench.until(lambda: bench.events() >= 12, process)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 3, out + err
    assert "orchestrator resume s" in err
    assert "Traceback" not in err
    assert bench.record.state is State.STOPPED
    with serving(port):
        bench.finish("resume", "s")
    assert outcome(bench.record) == undisturbed
    bench.wipe()
    assert outcome(load_record(bench.runs.study("s").journal)) == undisturbed


def test_damaged_and_missing_objects(endpoint, undisturbed, tmp_path, monkeypatch):
    """Of a damaged checkpoint the one before is taken; without any the trial begins anew."""
    bench = Cloud(tmp_path, "s", monkeypatch, **STUDY)
    process = bench.start("run", str(bench.file))
    assert bench.until(lambda: bench.events() >= 25, process)
    kill(process)
    bench.wipe()
    saved = [path for path in bench.mirror.listing(bench.folder.root / "trials") if path.suffix == ".safetensors"]
    assert saved
    for path in saved[1::2]:
        bench.mirror.write(path, b"damaged")
    bench.mirror.remove(saved[0])
    bench.finish("resume", "s")
    assert outcome(bench.record) == undisturbed
