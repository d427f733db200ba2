"""Archives: what is unpacked, and what is refused."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile

import pytest
from fileserver import CONTENT, tar_of

from orchestrator.datasets.unpack import unpack
from orchestrator.errors import DataProblem


def test_tar_and_zip_and_gz_are_unpacked(tmp_path):
    tar_of(tmp_path / "a.tgz", ("d/one", b"1"), ("two", b"22"))
    unpack(tmp_path / "a.tgz", tmp_path / "a", 3)
    assert (tmp_path / "a" / "d" / "one").read_bytes() == b"1"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as made:
        made.writestr("d/", b"")
        made.writestr("d/one", b"1")
    unpack(tmp_path / "b.zip", tmp_path / "b", 3)
    assert (tmp_path / "b" / "d" / "one").read_bytes() == b"1"
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"123"))
    unpack(tmp_path / "c.gz", tmp_path / "c", 3)
    assert (tmp_path / "c" / "c").read_bytes() == b"123"


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "d/../../out", "a\\..\\out", "d", "d/one/two", ""])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, kind, name):
    archive = tmp_path / "in" / f"a.{kind}"
    archive.parent.mkdir()
    if kind == "tar":
        tar_of(archive, ("d/one", b"1"), (name, b"1"))
    else:
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("d/one", b"1")
            made.writestr(zipfile.ZipInfo(name), b"1")
    with pytest.raises(DataProblem, match="cannot be unpacked"):
        unpack(archive, tmp_path / "in" / "a", 100)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    tar_of(tmp_path / "a.tar", ("d", "/etc"), kind=kind)
    with pytest.raises(DataProblem, match="neither a file nor a folder"):
        unpack(tmp_path / "a.tar", tmp_path / "a", 100)
    assert not (tmp_path / "a").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("d")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, "/etc")
    with pytest.raises(DataProblem, match="neither a file nor a folder"):
        unpack(tmp_path / "a.zip", tmp_path / "a", 100)


def test_what_unpacks_to_too_much_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("big", b"0" * 5_000_000)
    with pytest.raises(DataProblem, match="more than it should"):
        unpack(tmp_path / "a.zip", tmp_path / "a", 4_000_000)
    tar_of(tmp_path / "a.tgz", ("x", b"0" * 3000), ("y", b"0" * 3000))
    with pytest.raises(DataProblem, match="more than it should"):
        unpack(tmp_path / "a.tgz", tmp_path / "b", 5000)


@pytest.mark.parametrize("name", ["a.tgz", "a.tar", "a.zip", "a.gz", "a.rar"])
def test_what_is_no_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENT[:2000])
    with pytest.raises(DataProblem, match="cannot be unpacked"):
        unpack(tmp_path / name, tmp_path / "a", 10_000)
    tar_of(tmp_path / "b.tgz", ("x", CONTENT))
    (tmp_path / "b.tgz").write_bytes((tmp_path / "b.tgz").read_bytes()[:50_000])
    with pytest.raises(DataProblem, match="cannot be unpacked"):
        unpack(tmp_path / "b.tgz", tmp_path / "a", 10**6)
