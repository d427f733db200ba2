"""Studies on a cluster of three hosts, from ``orchestrator cluster up`` to ``down``, in the order of a bad day."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import hosts
import pytest
from laboratory import RAY, Laboratory, driver, kill

from orchestrator.history.events import ItemsDone, TrialPlaced
from orchestrator.history.journal import read
from orchestrator.history.states import State

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def laboratory(hosts_allowed, tmp_path_factory):
    with hosts.Lab(tmp_path_factory.mktemp("lab"), 3) as lab:
        for host in lab.hosts:  # a new host has no token: the launcher brings it
            (host.home / ".ray" / "auth_token").unlink()
        lab.variables.pop("PYTHONPATH")
        made = Laboratory(lab)
        yield made


def test_up_starts_ray_on_every_host(laboratory):
    said = laboratory.call("cluster", "up", str(laboratory.file), "--wait", "4")
    assert "3 of 3" in said
    status = json.loads(laboratory.call("cluster", "status", str(laboratory.file), "--json"))
    assert [(host["address"], host["role"], host["presence"], host["cpus"]) for host in status["hosts"]] == [
        (host.address, role, "joined", 1)
        for host, role in zip(laboratory.lab.hosts, ["head", "worker", "worker"], strict=True)
    ]
    assert laboratory.lab.token not in said
    token = laboratory.lab.hosts[2].home / ".ray" / "auth_token"
    assert (token.stat().st_mode & 0o777, token.read_text()) == (0o600, laboratory.lab.token)


def test_a_stranger_is_turned_away(laboratory):
    """Without the cluster's token nobody sees its state or leaves a job on it."""
    head, broken = laboratory.lab.head, laboratory.lab.root / "broken"
    submit = ["job", "submit", "--no-wait", "--", "touch", str(broken)]
    for words, environment in (
        (["status"], {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}),
        (submit, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}),
        (submit, {"RAY_AUTH_MODE": "disabled"}),
    ):
        assert head.run("orchestrator/.venv/bin/ray", *words, **environment).returncode != 0
    assert not broken.exists()


def test_a_search_of_dogs_works_on_all_hosts(laboratory):
    said = laboratory.call("run", "dogs-demo", "search.trials=6", "search.algorithm=random", "params.epochs=8")
    assert "verdict:" in said
    record = laboratory.check("dogs-demo")
    assert record.state is State.FINISHED
    assert {trial.node for trial in record.trials.values()} == {"host1", "host2", "host3"}


def test_terms_are_mined_on_all_hosts(laboratory):
    laboratory.call("run", "terms")
    laboratory.check("terms")
    events = [event for event, _ in read(laboratory.folder("terms").journal) if isinstance(event, ItemsDone)]
    assert {event.node for event in events} >= {"host1", "host2", "host3"}


def test_it_goes_on_without_the_laptop_and_obeys_another_shell(laboratory):
    gate = laboratory.lab.root / "gate"  # step 2 waits for it
    file = laboratory.study("left", search={"trials": 4}, params={"wait_for": str(gate)})
    said = laboratory.call("run", file, "--detach")
    assert "submitted as job left-" in said
    laboratory.until(lambda: laboratory.steps("left") >= 3)
    rows = json.loads(laboratory.call("ps", "--json"))
    assert {row["study"]: row["state"] for row in rows}["left"] == "RUNNING"
    assert "the toy says hello" in laboratory.call("logs", "left", "t0000")
    assert "t0000 is stopped at step 1" in laboratory.call("stop", "left", "t0000")
    assert "is stopping" in laboratory.call("stop", "left")
    assert "stopped by order" in laboratory.call("attach", "left", expect=130)
    assert laboratory.check("left").state is State.STOPPED
    gate.touch()
    laboratory.call("resume", "left", "--retry", "t0000")
    assert {trial.state for trial in laboratory.check("left").trials.values()} == {State.FINISHED}


def test_a_dead_driver_is_resumed(laboratory):
    process = laboratory.start("run", laboratory.study("dead"))
    laboratory.until(lambda: laboratory.steps("dead") > 8)
    kill(driver(laboratory.lab.head))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    before = {trial.id: trial.steps for trial in laboratory.record("dead").trials.values()}
    laboratory.call("resume", "dead")
    record = laboratory.check("dead")
    assert {trial.state for trial in record.trials.values()} == {State.FINISHED}
    assert all(record.trials[id].steps >= steps for id, steps in before.items())


def test_a_wrong_token_and_another_torch_are_found(laboratory):
    """A host with another token is not let in; the status and the doctor name it, and the version that differs."""
    lab, python = laboratory.lab, "orchestrator/.venv/bin/python"
    stranger, older = lab.hosts[1:]
    token = stranger.home / ".ray" / "auth_token"
    assert stranger.run("orchestrator/.venv/bin/ray", "stop", "--force").returncode == 0
    token.write_text("0" * 64)
    with pytest.raises(AssertionError, match=r"(?i)auth"):
        laboratory.join(stranger)
    where = "import importlib.metadata as m; print(next(p.locate() for p in m.files('torch') if p.name == 'METADATA'))"
    metadata = Path(older.run(python, "-c", where).stdout.strip())
    older.overlay_file(metadata, re.sub(r"(?m)^Version: .*$", "Version: 2.0.0", metadata.read_text(), count=1))
    try:
        status = json.loads(laboratory.call("cluster", "status", str(laboratory.file), "--json"))
        absent = {host["address"]: host["reason"] for host in status["hosts"] if host["presence"] != "joined"}
        assert list(absent) == [stranger.address]
        assert absent[stranger.address]
        said = json.loads(laboratory.call("doctor", "--json", expect=3).partition("\nerror:")[0])
        broken = [f for f in said["findings"] if (f["host"], f["level"]) == (stranger.address, "breaks")]
        assert ["token" in finding["what"] for finding in broken] == [True]
        assert broken[0]["fix"]
        warned = [f["what"] for f in said["findings"] if (f["host"], f["level"]) == (older.address, "warns")]
        assert any("torch 2.0.0" in what for what in warned), warned
        assert lab.token not in json.dumps(said)
    finally:
        older.reveal(metadata)
        token.write_text(lab.token)
    laboratory.join(stranger)
    status = json.loads(laboratory.call("cluster", "status", str(laboratory.file), "--json"))
    assert {host["presence"] for host in status["hosts"]} == {"joined"}


def test_data_that_a_host_does_not_see_is_refused_and_can_be_shipped(laboratory):
    shelf, blind = laboratory.lab.root / "shelf", laboratory.lab.hosts[2]
    notes = shelf / "notes"
    notes.mkdir(parents=True)
    (notes / "a.txt").write_text("x")
    blind.hide(shelf)
    file = laboratory.study("blind", data=str(notes), params={"pace": 0.0})
    said = laboratory.call("run", file, expect=3)
    assert f"node {blind.address} does not see data={notes}" in said
    assert not laboratory.folder("blind").journal.exists()
    laboratory.call("run", file, "--ship-data")
    assert {trial.state for trial in laboratory.check("blind").trials.values()} == {State.FINISHED}
    blind.reveal(shelf)


def test_a_cut_cable_that_heals_leaves_no_duplicate(laboratory):
    file = laboratory.study("cut", params={"steps": 30, "pace": 0.5}, failures={"retries": 20})
    host = laboratory.lab.hosts[1]
    process = laboratory.start("run", file)
    laboratory.until(lambda: any(t.node == "host2" and t.saved > 1 for t in laboratory.record("cut").trials.values())
                     if laboratory.steps("cut") else False)  # fmt: skip
    host.cut()
    time.sleep(40)  # what a partition is: time that passes
    host.heal()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    record = laboratory.check("cut")
    assert {trial.state for trial in record.trials.values()} == {State.FINISHED}


def test_a_host_that_joins_late_is_used_and_its_death_survived(laboratory):
    file = laboratory.study("late", search={"trials": 8}, params={"steps": 60, "pace": 0.5}, failures={"retries": 20})
    process = laboratory.start("run", file)
    laboratory.until(lambda: laboratory.steps("late") > 8)
    late = laboratory.lab.add_host()
    laboratory.equip(late)
    laboratory.join(late)

    def works() -> bool:
        return any(trial.node == late.name for trial in laboratory.record("late").trials.values())

    assert laboratory.until(works, patience=60) < 30
    laboratory.until(
        lambda: any(t.node == late.name and t.saved > 2 for t in laboratory.record("late").trials.values())
    )
    late.kill()
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, out + err
    record = laboratory.check("late")
    assert {trial.state for trial in record.trials.values()} == {State.FINISHED}
    placed = [event for event, _ in read(laboratory.folder("late").journal) if isinstance(event, TrialPlaced)]
    there = {event.trial for event in placed if event.node == late.name}
    assert there
    assert all(record.trials[trial].attempt > 1 for trial in there)


def test_a_dead_head_costs_the_cluster_and_no_study(laboratory):
    """The runs folder outlives the head: another host becomes one, and the study goes on."""
    first, second, third = laboratory.lab.hosts[:3]
    process = laboratory.start("run", laboratory.study("headless"))
    laboratory.until(lambda: laboratory.steps("headless") > 8)
    first.kill()
    process.communicate(timeout=120)
    assert process.returncode == 3
    laboratory.fill_in(third, [second])
    laboratory.call("cluster", "up", str(laboratory.file), "--wait", "4")
    laboratory.call("resume", "headless")
    record = laboratory.check("headless")
    assert {trial.state for trial in record.trials.values()} == {State.FINISHED}
    assert any(trial.attempt > 1 for trial in record.trials.values())


def test_down_leaves_no_process_of_ray(laboratory):
    assert "no Ray process is left" in laboratory.call("cluster", "down", str(laboratory.file))
    assert [host.processes(RAY) for host in laboratory.lab.hosts] == [{}] * 4  # of which two are dead
