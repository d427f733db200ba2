"""Reading: no line is lost by any cut, whatever the encoding, the format and what is broken."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.api import InputError
from tasks.terms import readers
from tasks.terms.counting import Counting, count
from tasks.terms.readers import LONG, Packed, find_files, read, scan

LINES = ["电力系统的稳定性", "", "变压器，断路器", "𠀀𠀁超出基本平面", "short"] * 20


def shards_of(path, cache, shard_bytes=1 << 20):
    return [shard for file in find_files(path) for shard in scan(Packed(file, cache, shard_bytes)).shards]


def text_of(path, cache, shard_bytes=1 << 20):
    parts = [read(shard) for shard in shards_of(path, cache, shard_bytes)]
    return "".join(text for text, _, _ in parts), sum(broken for _, _, broken in parts)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("电力系，a \r", max_size=12), max_size=30), st.integers(1, 200), st.booleans(), st.booleans())
def test_no_cut_loses_a_line(tmp_path_factory, lines, shard_bytes, gb, ended):
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    whole = "\n".join(lines) + ("\n" if ended else "")
    data = whole.encode("gb18030" if gb else "utf-8")
    assume(not gb or not readers._decodes(data, "utf-8"))  # a few characters may be valid as either
    path.write_bytes(data)
    text, broken = text_of(path, path.parent, shard_bytes)
    assert text.rstrip("\n") == whole.rstrip("\n")
    assert text.count("\n") >= whole.count("\n")
    assert broken == 0


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-8-sig"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(LINES).encode(encoding))
    text, broken = text_of(path, tmp_path, 100)
    assert text.lstrip("\ufeff") == "\n".join(LINES) + "\n"
    assert broken == 0


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz"])
def test_formats_hold_the_same(tmp_path, suffix):
    lines = [json.dumps({"text": line}) for line in LINES] if "jsonl" in suffix else LINES
    data = "".join(f"{line}\n" for line in lines).encode()
    if suffix.endswith(".gz"):
        data = gzip.compress(data)
    if suffix.endswith(".zst"):
        data = pytest.importorskip("zstandard").compress(data)
    path = tmp_path / "corpus" / f"a{suffix}"
    path.parent.mkdir()
    path.write_bytes(data)
    for _ in range(2):  # the second time it is unpacked already
        text, broken = text_of(path.parent, tmp_path / "cache", 64)
        assert text == "".join(f"{line}\n" for line in LINES)
        assert broken == 0


def test_a_broken_line_is_counted_and_the_rest_read(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(
        "电压\n".encode() * 5 + "电\xff流".encode("latin-1", "replace") + b"\xff\xfe\n" + "电阻\n".encode()
    )
    text, broken = text_of(path, tmp_path)
    assert text.startswith("电压\n")
    assert text.endswith("电阻\n")
    assert broken == 1


def test_broken_json_is_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "电\\n压"}\n{"text": 3}\nnot json\n"电流"\n\n{"other": "x"}\n', "utf-8")
    text, broken = text_of(path, tmp_path)
    assert text == "电 压\n\n\n电流\n\n\n"
    assert broken == 3


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_line_longer_than_any_shard_is_cut_at_characters(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(readers, "LONG", 1000)
    path = tmp_path / "a.txt"
    line = "a" + "电力系统" * 1000
    path.write_bytes(f"电压\n{line}\n电流".encode(encoding))
    found = {size: text_of(path, tmp_path, size) for size in (10, 1000, 10_000_000)}
    for text, broken in found.values():
        assert text.replace("\n", "") == f"电压{line}电流"
        assert broken == 0
    assert len({text for text, _ in found.values()}) == 1  # the cuts do not depend on the shards


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_the_encoding_shows_in_a_line_that_has_no_end(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(("a" + "电力系统的" * 150_000).encode(encoding) + b"\xff")
    assert {shard.encoding for shard in shards_of(path, tmp_path)} == {encoding}


def test_a_single_line_of_fifty_megabytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(("电力系统" * 64).encode() * (50_000_000 // 768))
    shards = shards_of(path, tmp_path, 4 << 20)
    assert max(shard.end - shard.start for shard in shards) <= LONG
    assert shards[-1].end == path.stat().st_size
    windows = count(Counting(shards[7], 8, False, "text", True))
    assert windows.broken == 0
    assert windows.singles.sum() > 300_000


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"\0\1\2" * 100, "zero bytes"),
        ("a.txt", "电".encode("utf-16"), "UTF-16"),
        ("a.txt.gz", b"no gzip", "is it whole"),
        ("a.txt.zst", b"no zstd", "is it whole"),
        ("a.txt.gz", gzip.compress(b"x" * 10_000, mtime=0)[:40], "is it whole"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        shards_of(tmp_path / name, tmp_path / "cache")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_files(tmp_path / "nothing.txt")
    with pytest.raises(InputError, match="holds no"):
        find_files(tmp_path)


def test_a_document_falls_into_the_same_half_in_any_shard(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{'电压电流' * (i % 7 + 1)}\n" for i in range(200)), "utf-8")
    halves = set()
    for size in (50, 1000, 1 << 20):
        counted = [count(Counting(shard, 4, False, "text", True)) for shard in shards_of(path, tmp_path, size)]
        halves.add(sum(windows.half for windows in counted))
        assert sum(windows.half for windows in counted) in range(800, 2400)
        bits = sum(int((windows.sides >> np.uint32(30)).sum()) for windows in counted)
        halves.add(("windows", bits))
    assert len(halves) == 2
