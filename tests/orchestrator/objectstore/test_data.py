"""Data at a URL: pinned when a study is made, on each machine once."""

from __future__ import annotations

import threading

import pytest

from orchestrator.errors import DataProblem, StorageProblem, StudyError, UserError
from orchestrator.objectstore import storage
from orchestrator.objectstore.data import DataUrl, localized, pinned
from orchestrator.objectstore.storage import Mirror
from orchestrator.studies.studyfile import build


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / "machine"))
    for name in ("collie/1.txt", "collie/2.txt", "pug/1.txt"):
        path = tmp_path / "store" / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return f"file://{tmp_path}/store/photos"


def test_it_is_here_as_it_is_there(url):
    found = localized(pinned(url))
    assert {path.relative_to(found).as_posix(): path.read_text() for path in found.rglob("*.txt")} == {
        name: name for name in ("collie/1.txt", "collie/2.txt", "pug/1.txt")
    }


def test_one_file_is_a_file(url):
    found = localized(pinned(f"{url}/pug/1.txt"))
    assert found.name == "1.txt"
    assert found.read_text() == "pug/1.txt"


def test_it_is_downloaded_once_for_all(url, monkeypatch):
    copies, copy = [], Mirror.copy
    monkeypatch.setattr(Mirror, "copy", lambda self, *rest: (copies.append(self.url), copy(self, *rest)))
    wanted, found = pinned(url), []
    threads = [threading.Thread(target=lambda: found.append(localized(wanted))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted.folder] * 4
    assert copies == [url]


def test_half_a_copy_is_none(url, monkeypatch):
    """What has arrived is not asked for again."""
    wanted, copy = pinned(url), Mirror.copy

    def broken(self, places, entries):
        copy(self, dict(list(places.items())[:2]), entries)
        raise StorageProblem("the line broke")

    monkeypatch.setattr(Mirror, "copy", broken)
    with pytest.raises(StorageProblem):
        localized(wanted)
    assert not wanted.folder.exists()
    monkeypatch.setattr(Mirror, "copy", copy)
    asked, get_all = [], storage._get_all
    monkeypatch.setattr(storage, "_get_all", lambda files, *rest: (asked.extend(files), get_all(files, *rest)))
    assert len(list(localized(wanted).rglob("*.txt"))) == 3
    assert [file.rpartition("/")[2] for file in asked] == ["1.txt"]


def test_what_changed_is_refused(url, tmp_path):
    wanted = pinned(url)
    assert pinned(str(wanted)) == wanted
    (tmp_path / "store/photos/pug/2.txt").write_text("another")
    for look in (lambda: localized(wanted), lambda: pinned(str(wanted))):
        with pytest.raises(DataProblem, match="has changed since the study began"):
            look()
    assert pinned(url) != wanted


def test_nothing_there(url):
    with pytest.raises(DataProblem, match="there is no data at"):
        pinned(f"{url}/none")


def test_a_study_holds_it(url):
    raw = {"task": "toy", "data": url, "search": {"trials": 1}}
    study = build(raw)
    assert isinstance(study.data, DataUrl)
    assert study.data_name == str(study.data) == study.fixed()["data"]
    assert study.data_name.startswith(f"{url}#")
    assert build(study.to_plain()) == study
    with pytest.raises((UserError, StudyError)):
        build({**raw, "data": "s3://key:secret@bucket/photos"})
