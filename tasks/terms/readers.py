"""A corpus on disk, cut into shards of whole lines.

A corpus is a file or a folder of files: plain text or ``.jsonl``, as it is or packed as ``.gz`` or ``.zst``. A line is
a document. A packed file is one stream that cannot be entered in its middle, so it is unpacked into the cache once, a
block at a time. Where the shards lie changes nothing: a line that is longer than `LONG` ends every `LONG` bytes from
its start, whatever the shards are.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from tasks.api import InputError

__all__ = ["LONG", "Found", "Packed", "Scanned", "Shard", "find_files", "read", "scan"]

LONG = 1 << 20
"""Longest line, bytes: a longer one counts as several."""
_SAMPLE = 1 << 20
_PLAIN, _PACKED = (".txt", ".jsonl"), (".gz", ".zst")


@dataclass(frozen=True)
class Found:
    """A file of the corpus, as it was when it was looked for."""

    path: Path
    size: int
    changed: int


@dataclass(frozen=True)
class Packed:
    """What `scan` needs: the file, where to unpack it to, and how large a shard may be (bytes)."""

    file: Found
    cache: Path
    shard_bytes: int


@dataclass(frozen=True)
class Shard:
    """Whole lines of one file: the bytes from ``start`` to ``end`` of ``path``, which is never packed."""

    path: Path
    start: int
    end: int
    encoding: str
    digest: str
    jsonl: bool


@dataclass(frozen=True)
class Scanned:
    """A file's shards; ``unpacked`` is the file that they lie in."""

    unpacked: Path
    shards: tuple[Shard, ...]


def find_files(path: Path) -> list[Found]:
    """The files of a corpus, in order of their names. Raises `InputError` for what cannot be a corpus."""
    if not path.exists():
        raise InputError(f"{path} does not exist: give a text file, or a folder of them")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in _PLAIN + _PACKED and p.name[0] != ".")
        if not files:
            raise InputError(f"{path} holds no file that ends in .txt, .jsonl, .gz or .zst")
    else:
        files = [path]
    stats = [(file, file.stat()) for file in files]
    return [Found(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]


def scan(item: Packed) -> Scanned:
    """Unpack a file if it is packed, and cut it into shards on line ends.

    Raises `InputError` for binary data and for a packed file that is damaged.
    """
    path = _unpack(item.file, item.cache) if item.file.path.suffix in _PACKED else item.file.path
    encoding = _detect(path, item.file.path)
    jsonl = ".jsonl" in item.file.path.suffixes
    shards = []
    with path.open("rb") as file:
        for start, end in _cuts(path, encoding, item.shard_bytes):
            file.seek(start)
            digest = hashlib.sha256(file.read(end - start)).hexdigest()
            shards.append(Shard(path, start, end, encoding, digest, jsonl))
    return Scanned(path, tuple(shards))


def read(shard: Shard, field: str = "text") -> tuple[str, np.ndarray, int]:
    """A shard's text with a line end behind each line, the offset of each line (bytes), and how many were broken.

    A line that does not decode loses the bytes that do not; one that is no JSON object with that field is left out.
    """
    with shard.path.open("rb") as file:
        file.seek(shard.start)
        data = file.read(shard.end - shard.start)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    offsets = shard.start + np.concatenate([[0], ends + 1])
    if data.endswith(b"\n"):
        offsets = offsets[:-1]
    else:
        data += b"\n"
    try:
        text, broken = data.decode(shard.encoding), 0
    except UnicodeDecodeError:
        lines = data.split(b"\n")[:-1]
        broken = sum(not _decodes(line, shard.encoding) for line in lines)
        text = "\n".join(line.decode(shard.encoding, "replace") for line in lines) + "\n"
    if not shard.jsonl:
        return text, offsets, broken
    found = [_field(line, field) for line in text.split("\n")[:-1]]
    # A blank line is no document, nor is it broken.
    broken = sum(value is None for value in found)
    text = "".join(f"{(value or '').replace(chr(10), ' ')}\n" for value in found)
    return text, offsets, broken


def _unpack(file: Found, cache: Path) -> Path:
    """The unpacked file in the cache; made if it is not there."""
    identity = f"{file.path.resolve()}\0{file.size}\0{file.changed}"
    target = cache / "terms" / "unpacked" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    try:
        with _open(file.path) as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        os.replace(partial, target)
    except InputError:
        raise
    except Exception as error:  # each format has its own kinds
        raise InputError(f"{file.path} cannot be unpacked ({error}): is it whole?") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    try:
        import zstandard
    except ImportError as error:
        raise InputError(f"{path}: reading .zst needs the package zstandard (pip install zstandard)") from error
    return zstandard.open(path, "rb")


def _detect(path: Path, named: Path) -> str:
    """``utf-8`` or ``gb18030``: whichever the file's beginning has fewer wrong places as."""
    with path.open("rb") as file:
        sample = file.read(_SAMPLE)
    if sample.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{named} is UTF-16: convert it (iconv -f UTF-16 -t UTF-8)")
    if b"\0" in sample:
        raise InputError(f"{named} is not text: its first megabyte has zero bytes")
    wrong = {}
    for encoding in ("utf-8", "gb18030"):
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        wrong[encoding] = decoder.decode(sample, final=len(sample) < _SAMPLE).count("\ufffd")
    return min(wrong, key=lambda encoding: wrong[encoding])  # the first of equals: what is valid UTF-8 is hardly else


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _cuts(path: Path, encoding: str, shard_bytes: int) -> Iterator[tuple[int, int]]:
    """Where shards begin and end. A line longer than `LONG` is a cut every `LONG` bytes, at a whole character."""
    with path.open("rb") as file:
        start = end = 0
        while line := file.readline(LONG):
            if start < end and end + len(line) - start > shard_bytes:
                yield start, end
                start = end
            unfinished = len(line) == LONG and not line.endswith(b"\n")
            if unfinished:
                line = line[: _whole(line, encoding)]
                file.seek(end + len(line))
            end += len(line)
            if unfinished:
                yield start, end
                start = end
        if start < end:
            yield start, end


def _whole(piece: bytes, encoding: str) -> int:
    """Length of a piece of a line without the character that its end may have cut."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    decoder.decode(piece)
    return len(piece) - len(decoder.getstate()[0])


def _field(line: str, field: str) -> str | None:
    """The text in a line of JSON: the line itself if that is a string, nothing for a blank line, None if broken."""
    if not line.strip():
        return ""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if isinstance(value, dict):
        value = value.get(field)
    return value if isinstance(value, str) else None
