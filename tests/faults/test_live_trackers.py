"""Whole studies whose tracker dies, dawdles or lies: the study never notices, and in the end all is there once."""

from __future__ import annotations

import random
import re
import time

import invariants
import pytest
from running import Bench, kill, left_behind, outcome, some_events
from servers import Proxy, mlflow_server, postgres, s3, wait_for

from orchestrator.history.states import State

pytestmark = pytest.mark.faults

STUDY = {
    "search": {"algorithm": "random", "trials": 6, "space": {"x": {"uniform": [-1, 1]}}},
    "params": {"steps": 12, "noise": 0.1, "pace": 0.05},
    "failures": {"retries": 50},
}
UNTRACKED = "not everything is tracked: "


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("undisturbed"), "s", **STUDY)
    bench.finish()
    return found(bench.record)


def found(record) -> dict[str, tuple]:
    """The outcome, whatever the pace was."""
    return {
        id: (seed, {name: value for name, value in params.items() if name != "pace"}, *rest)
        for id, (seed, params, *rest) in outcome(record).items()
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def proxy(server):
    with Proxy(server.uri) as proxy:
        yield proxy


def tracked_at(uri: str, root, name: str = "s", **changes) -> Bench:
    """A study that is tracked there; two seconds are all that it gives the tracker for an answer."""
    bench = Bench(root, name, **{**STUDY, **changes}, tracking={"uri": uri})
    bench.environment = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    return bench


def complete(bench: Bench, said: str, uri: str, undisturbed) -> bool:
    """After the run: send what it said was missing, then check everything. Returns whether something was missing."""
    missing = UNTRACKED in said
    if missing:
        assert f"orchestrator track {bench.name}" in said
        bench.finish("track", bench.name)
    check(bench, uri, undisturbed)
    return missing


def check(bench: Bench, uri: str, undisturbed) -> None:
    assert bench.record.state is State.FINISHED
    assert found(bench.record) == undisturbed
    invariants.check(bench.record, bench.folder.journal, uri)
    assert left_behind(bench.runs.root) == []


def said_by(process) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    return out + err


def has_events(bench: Bench, number: int):
    return lambda: bench.events() >= number


# ------------------------------------------------------------------------------------------------------------ deaths


@pytest.mark.parametrize("seed", range(6))
def test_a_server_that_is_killed(seed, undisturbed, tmp_path):
    """SIGKILL at a random moment of a study, back after a random while, or only after its end."""
    rng = random.Random(seed)
    with mlflow_server(tmp_path / "server") as server:
        slowly = {"params": {**STUDY["params"], "pace": 0.4}} if seed % 2 else {}  # the server is back before its end
        bench = tracked_at(server.uri, tmp_path, **slowly)
        process = bench.start()
        assert bench.until(has_events(bench, some_events(rng, 90 if seed % 2 == 0 else 30)), process)
        server.kill()
        bench.until(has_events(bench, bench.events() + rng.randrange(1, 60 if seed % 2 == 0 else 10)), process)
        server.start(wait=False)
        said = said_by(process)
        server.wait()
        missing = complete(bench, said, server.uri, undisturbed)
        print("completed by track" if missing else "complete at the end of the run")


def test_a_driver_that_dies_while_the_tracker_is_away(undisturbed, tmp_path):
    """Killed twice: the tracker goes in the first session and comes back after the third."""
    with mlflow_server(tmp_path / "server") as server:
        bench = tracked_at(server.uri, tmp_path)
        process = bench.start()
        assert bench.until(has_events(bench, 15), process)
        server.kill()
        assert bench.until(has_events(bench, 40), process)
        kill(process)
        process = bench.start()
        assert bench.until(has_events(bench, bench.events() + 25), process)
        kill(process)
        assert UNTRACKED in bench.finish()
        assert "refused or did not answer" in bench.finish("track", "s", expect=3)
        server.start()
        bench.finish("track", "s")
        check(bench, server.uri, undisturbed)


# ----------------------------------------------------------------------------------------------------------- outages


def test_a_slow_tracker(undisturbed, server, proxy, tmp_path):
    """Each answer takes two seconds: the study is as it would be, and everything arrives."""
    bench = tracked_at(proxy.uri, tmp_path)
    bench.environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "30"
    proxy.behave("slow", 2)
    process = bench.start()
    assert bench.until(lambda: bench.events() and bench.record.ended, process)
    proxy.behave("pass")  # lest the test wait for what is left
    complete(bench, said_by(process), server.uri, undisturbed)


def test_answers_that_come_too_late(undisturbed, server, proxy, tmp_path):
    """Done after two and a half seconds, when nobody waits any more: no run is there twice."""
    bench = tracked_at(proxy.uri, tmp_path)
    process = bench.start()
    proxy.behave("slow", 2.5, "runs/create")
    assert bench.until(has_events(bench, 60), process)
    proxy.behave("pass")
    complete(bench, said_by(process), server.uri, undisturbed)


@pytest.mark.parametrize("mode", ["error500", "error500_after", "refuse"])
def test_errors_for_a_while(mode, undisturbed, server, proxy, tmp_path):
    """From early on to the middle; with ``error500_after`` each request is done and said to have failed."""
    bench = tracked_at(proxy.uri, tmp_path)
    process = bench.start()
    assert bench.until(has_events(bench, 10), process)
    proxy.behave(mode)
    sent = len(proxy.requests)
    assert bench.until(has_events(bench, 80), process)
    wait_for(lambda: len(proxy.requests) > sent, "a request meanwhile")  # the journal does not wait for the tracker
    proxy.behave("pass")
    complete(bench, said_by(process), server.uri, undisturbed)


@pytest.mark.parametrize("mode", ["error500_after", "hang"])
def test_errors_to_the_end(mode, undisturbed, server, proxy, tmp_path):
    """The study ends well all the same and says that not everything is tracked; `track` completes it later."""
    bench = tracked_at(proxy.uri, tmp_path)
    proxy.behave(mode)
    began = time.monotonic()
    said = bench.finish()
    print(f"\n{mode}: the run took {time.monotonic() - began:.1f} s")
    assert bench.record.state is State.FINISHED
    assert re.search(f"{UNTRACKED}.*send it later: orchestrator track s", said.replace("\n", " "))
    assert "refused or did not answer" in bench.finish("track", "s", expect=3)
    proxy.behave("pass")
    wait_for(lambda: proxy.is_idle or mode == "hang", "requests on their way")
    bench.finish("track", "s")
    check(bench, server.uri, undisturbed)


# ---------------------------------------------------------------------------------------------------- other places


def test_postgresql_and_s3(undisturbed, tmp_path):
    with s3(), postgres() as backend, mlflow_server(tmp_path / "server", backend, "s3://mlflow/study") as server:
        bench = tracked_at(server.uri, tmp_path)
        bench.environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "30"
        process = bench.start()
        assert bench.until(has_events(bench, 30), process)
        kill(process)
        said = bench.finish()
        assert UNTRACKED not in said
        check(bench, server.uri, undisturbed)


def test_a_database_without_a_server(undisturbed, tmp_path):
    with postgres() as uri:
        bench = tracked_at(uri, tmp_path)
        assert UNTRACKED not in bench.finish()
        check(bench, uri, undisturbed)
