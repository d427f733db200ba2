from __future__ import annotations

import io
import json
import tarfile

import pytest

from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.history.environment import PROVENANCE, git_state
from orchestrator.machines import shipping


def archive(**members) -> io.BytesIO:
    """Members by name: bytes are a file's content, a string is where a link points to."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            if isinstance(content, bytes):
                member.size = len(content)
                made.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, content
                made.addfile(member)
    file.seek(0)
    return file


def test_the_project_arrives_as_it_is_here(tmp_path, monkeypatch):
    own = tmp_path / "mine"
    own.mkdir()
    (own / "walk.py").write_text("TASK = 1")
    monkeypatch.setenv("ORCHESTRATOR_TASKS", str(own))
    study = tmp_path / "s.yaml"
    study.write_text("task: toy\n")
    file = io.BytesIO()
    shipping.pack_project(study, file)
    file.seek(0)
    shipping.unpack(file, tmp_path / "there")
    there = tmp_path / "there"
    assert (there / "study" / "s.yaml").read_text() == "task: toy\n"
    assert (there / "own_tasks" / "0" / "walk.py").read_text() == "TASK = 1"
    for path in ("orchestrator/cli.py", "tasks/api.py", "tasks/studies/dogs.yaml"):
        assert (there / path).read_bytes() == (shipping.SOURCE / path).read_bytes()
    assert json.loads((there / PROVENANCE).read_text()) == git_state()
    assert not list(there.rglob("__pycache__"))


@pytest.mark.parametrize(
    "members",
    [
        {"..__outside": b"x"},
        {"a__..__..__outside": b"x"},
        {"link": "/etc", "link__outside": b"x"},
        {"link": "../outside"},
    ],
)
def test_an_archive_cannot_leave_its_folder(tmp_path, members):
    with pytest.raises(EnvironmentProblem, match="did not arrive whole"):
        shipping.unpack(archive(**members), tmp_path / "inner" / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


def test_an_absolute_name_lands_inside(tmp_path):
    shipping.unpack(archive(**{"/outside": b"x"}), tmp_path / "there")
    assert (tmp_path / "there" / "outside").read_bytes() == b"x"


def test_half_an_archive_leaves_nothing(tmp_path):
    whole = archive(a=b"x" * 100_000, b=b"y" * 100_000).getvalue()
    with pytest.raises(EnvironmentProblem, match="did not arrive whole"):
        shipping.unpack(io.BytesIO(whole[: len(whole) // 2]), tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


def test_data_is_named_after_its_content(tmp_path):
    folder = tmp_path / "photos"
    (folder / "beagle").mkdir(parents=True)
    (folder / "beagle" / "1.jpg").write_bytes(b"one")
    name = shipping.data_name(folder)
    assert name.startswith("photos-")
    assert shipping.data_name(folder) == name
    (folder / "beagle" / "1.jpg").write_bytes(b"two")
    changed = shipping.data_name(folder)
    (folder / "beagle" / "1.jpg").rename(folder / "beagle" / "2.jpg")
    assert len({name, changed, shipping.data_name(folder)}) == 3


def test_too_much_data_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "LARGEST_DATA_BYTES", 3)
    (tmp_path / "a").write_bytes(b"four")
    with pytest.raises(UserError, match="too much to ship"):
        shipping.data_name(tmp_path)
