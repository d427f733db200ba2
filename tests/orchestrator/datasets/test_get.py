"""A public data set as a whole, from a server on this machine, and the commands about them."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace

import pytest
from fileserver import CONTENT, Watcher, data_of, serving, source_of

from orchestrator.datasets import catalogue, fetch
from orchestrator.datasets.catalogue import Source
from orchestrator.datasets.get import RECORD, get
from orchestrator.errors import DataProblem, EnvironmentProblem, UserError


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(fetch, "_CHUNK", 1000)
    with serving() as made:
        yield made


def test_a_data_set_is_there_as_a_whole(server, tmp_path):
    watcher = Watcher()
    data = data_of(source_of(server), source_of(server, "y.gz", b"yes"))
    folder = get(data, tmp_path, watcher)
    assert folder == tmp_path / "some"
    assert {path.name for path in folder.iterdir()} == {"x.gz", "y.gz", RECORD}
    assert json.loads((folder / RECORD).read_text())["files"][1]["sha256"] == data.files[1].sha256
    assert {path.name for path in tmp_path.iterdir()} == {"some", ".downloads"}
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["some.lock"]
    get(data, tmp_path, watcher)
    assert len(server.asked) == 2


def test_what_breaks_in_the_middle_leaves_no_folder(server, tmp_path):
    data = data_of(source_of(server), source_of(server, "y.gz", b"yes", (server.url("gone"),)))
    with pytest.raises(EnvironmentProblem, match=r"y\.gz of some does not come: 127\.0\.0\.1: it answers 404"):
        get(data, tmp_path, Watcher())
    assert not (tmp_path / "some").exists()
    server.files["gone"] = b"yes"
    get(data, tmp_path, Watcher())
    assert [path for path, _ in server.asked] == ["/x.gz", "/gone", "/gone"]  # x.gz was here


def test_without_a_network_it_says_what_to_put_where_and_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSES_SECONDS", (0.0,))
    source = Source("x.gz", ("http://127.0.0.1:9/files/17",), hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    with pytest.raises(EnvironmentProblem, match="Connection refused") as raised:
        get(data_of(source), tmp_path, Watcher())
    place = tmp_path / ".downloads" / "some"
    assert f"put into {place} by hand" in raised.value.hint
    assert "http://127.0.0.1:9/files/17   as x.gz" in raised.value.hint
    (place / "x.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(DataProblem, match="is not the file that is meant") as raised:
        get(data_of(source), tmp_path, Watcher())
    assert raised.value.hint == f"remove it: rm {place / 'x.gz'}"
    (place / "x.gz").write_bytes(CONTENT)
    assert (get(data_of(source), tmp_path, Watcher()) / "x.gz").read_bytes() == CONTENT


def test_what_is_in_the_place_already_is_not_touched(server, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        get(data_of(source_of(server)), tmp_path, Watcher())
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["mine"]


def test_a_place_that_cannot_be_a_folder_is_said(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match=r"exists|directory") as raised:
        get(data_of(source_of(server)), tmp_path / "file", Watcher())
    assert raised.value.hint == "give another folder: --to FOLDER"


def test_two_at_once_bring_it_once(server, tmp_path):
    data, watchers, found = data_of(source_of(server)), [Watcher(), Watcher()], []
    server.gate.clear()
    threads = [
        threading.Thread(target=lambda w=watcher: found.append(get(data, tmp_path, w)), daemon=True)
        for watcher in watchers
    ]
    for thread in threads:
        thread.start()
    while not any(watcher.lines for watcher in watchers):  # one of them waits
        pass
    server.gate.set()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "some"] * 2
    assert len(server.asked) == 1
    assert ["another process is at it: waiting"] in [watcher.lines for watcher in watchers]


def test_the_commands(command, server, tmp_path, monkeypatch):
    data = replace(data_of(source_of(server)), use="orchestrator run dogs")
    monkeypatch.setattr(catalogue, "ALL", {"some": data})
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    code, out, _ = command("data", "get", "some")
    assert code == 0
    assert "licence: licence; page" in out
    assert out.rstrip().endswith("next: orchestrator run dogs data=some")
    (row,) = json.loads(command("data", "list", "--json")[1])
    assert row["path"] == str(tmp_path / "data" / "some")
    assert row["files"][0]["sha256"] == data.files[0].sha256
    assert "yes" in command("data", "list")[1]
    out = command("data", "get", "some", "--to", str(tmp_path / "there"))[1]
    assert f"data={tmp_path / 'there' / 'some'}" in out
    code, _, err = command("data", "get", "sme")
    assert (code, "did you mean 'some'?" in err) == (2, True)


def test_a_study_whose_data_can_be_got_says_how(command):
    code, _, err = command("plan", "dogs", "data=imagewoof")
    assert code == 2
    assert "orchestrator data get imagewoof" in err


def test_data_is_found_where_get_puts_it(tmp_path, monkeypatch):
    from orchestrator.studies.studyfile import build

    (tmp_path / "data" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert build({"task": "toy", "data": "pets", "search": {"trials": 1}}).data == tmp_path / "data" / "pets"
