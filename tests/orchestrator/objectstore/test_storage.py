"""Mirrors over ``file://`` and two machines, which differ in where their copies are."""

from __future__ import annotations

import pickle

import pytest

from orchestrator.errors import StorageProblem, UserError
from orchestrator.objectstore import storage
from orchestrator.objectstore.storage import Mirror


@pytest.fixture
def on(monkeypatch, tmp_path):
    """``on("a")``: from here on this is machine a."""

    def move(machine: str) -> None:
        monkeypatch.setenv("ORCHESTRATOR_MIRROR", str(tmp_path / machine))

    move("a")
    return move


@pytest.fixture
def mirror(tmp_path, on):
    return Mirror(f"file://{tmp_path}/store")


def write(mirror, name, text):
    path = mirror.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_one_machine_publishes_another_obtains(mirror, on):
    write(mirror, "s/deep/x.txt", "x")
    write(mirror, "s/y.txt", "y")
    mirror.publish(mirror.root / "s")
    on("b")
    assert not mirror.root.exists()
    mirror.obtain(mirror.root / "s" / "deep")
    assert names(mirror.root / "s") == ["deep/x.txt"]
    mirror.obtain(mirror.root / "s")
    assert (mirror.root / "s" / "y.txt").read_text() == "y"


def test_a_mirror_is_where_it_is_unpickled(mirror, on, tmp_path):
    packed = pickle.dumps(mirror.patient())
    on("b")
    unpacked = pickle.loads(packed)  # noqa: S301 - our own
    assert unpacked.root.is_relative_to(tmp_path / "b")
    assert unpacked == mirror


def test_only_what_changed_travels(mirror, on, monkeypatch):
    x, y = write(mirror, "s/x", "x"), write(mirror, "s/y", "y")
    mirror.publish(mirror.root / "s")
    put = []
    monkeypatch.setattr(Mirror, "_put", lambda self, path: put.append(path))
    mirror.publish(mirror.root / "s")
    assert put == []
    y.write_text("z")
    mirror.publish(mirror.root / "s")
    assert put == [y]
    got = []
    monkeypatch.setattr(Mirror, "_get", lambda self, path, entry: got.append(path))
    mirror.obtain(x)
    assert got == []


def test_a_file_of_the_same_size_is_another_version(mirror, on):
    """A checkpoint that was adopted has the name and the size of the one before."""
    write(mirror, "s/x", "one")
    mirror.publish(mirror.root / "s")
    on("b")
    mirror.obtain(mirror.root / "s")
    write(mirror, "s/x", "two")
    mirror.publish(mirror.root / "s")
    on("a")
    mirror.obtain(mirror.root / "s")
    assert (mirror.root / "s/x").read_text() == "two"


def test_what_is_newer_here_stays_unless_it_changed_there(mirror, on):
    log = write(mirror, "s/log", "1")
    mirror.publish(log)
    log.write_text("1, and what came before the worker died")
    mirror.obtain(log)
    assert log.read_text() == "1, and what came before the worker died"
    on("b")
    there = mirror.root / "s/log"
    mirror.obtain(there)
    there.write_text("2")
    mirror.publish(there)
    on("a")
    mirror.obtain(log)
    assert log.read_text() == "2"


def test_exactly_what_is_there(mirror, on):
    write(mirror, "s/step-1", "1")
    mirror.publish(mirror.root / "s", exact=True)
    write(mirror, "s/step-1", "was not published")
    write(mirror, "s/step-2", "was not published")
    mirror.obtain(mirror.root / "s", exact=True)
    assert names(mirror.root / "s") == ["step-1"]
    assert (mirror.root / "s/step-1").read_text() == "1"
    write(mirror, "s/step-2", "2").with_name("step-1").unlink()
    mirror.publish(mirror.root / "s", exact=True)
    assert list(mirror.listing(mirror.root / "s")) == [mirror.root / "s/step-2"]


def test_nothing_half_written_is_there_or_here(mirror, on, monkeypatch, tmp_path):
    path = write(mirror, "s/x", "x")
    store = storage._store(mirror.url)

    def broken(self, source, target, **options):
        with open(target, "w") as file:
            file.write("half")
        raise OSError("the line broke")

    impatient = Mirror(mirror.url, patience=0)
    monkeypatch.setattr(type(store), "put_file", broken)
    with pytest.raises(StorageProblem, match="the line broke"):
        impatient.publish(path)
    assert names(tmp_path / "store") == []
    monkeypatch.undo()
    on("a")


def test_what_fails_for_a_while_is_tried_again(mirror, monkeypatch):
    path, failures = write(mirror, "x", "x"), [OSError("reset"), TimeoutError("slow")]
    real = storage._store

    def failing(url):
        if failures:
            raise failures.pop()
        return real(url)

    monkeypatch.setattr(storage, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(storage, "_store", failing)
    mirror.publish(path)
    assert mirror.read(path) == b"x"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError("AccessDenied"), "is forbidden: AccessDenied"),
        (ImportError("Install s3fs to access S3"), "Install s3fs"),
    ],
)
def test_what_cannot_mend_itself_is_said_at_once(mirror, monkeypatch, error, says):
    tries = []

    def failing(url):
        tries.append(url)
        raise error

    monkeypatch.setattr(storage, "_store", failing)
    with pytest.raises(StorageProblem, match=says):
        mirror.read(mirror.root / "x")
    assert len(tries) == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(StorageProblem) as raised:
        Mirror("s3://missing-package/x").read(Mirror("s3://missing-package/x").root / "y")
    assert raised.value.hint == "pip install 'orchestrator[s3]'"


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(UserError) as raised:
        Mirror("s3://AKIA:secret@bucket/runs")
    assert "secret" not in f"{raised.value} {raised.value.hint}"
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint


@pytest.mark.parametrize("url", ["s3://", "S3 x://bucket", "://x"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(UserError, match="is no URL"):
        Mirror(url)


def test_urls_have_folders_of_their_own():
    assert storage.slug("s3://a/b") != storage.slug("s3://a-b")
    assert Mirror("s3://a/b/") == Mirror("s3://a/b")


def test_an_object_is_created_once(mirror):
    path = mirror.root / "lease"
    mirror.write(path, b"1", create=True)
    with pytest.raises(FileExistsError):
        mirror.write(path, b"2", create=True)
    assert mirror.read(path) == b"1"
    mirror.remove(path)
    assert mirror.read(path) is None


def test_folders(mirror):
    assert mirror.folders() == []
    for name in ("b/x", "a/y/z", "file"):
        mirror.publish(write(mirror, name, "1"))
    assert mirror.folders() == ["a", "b"]
