"""A journal at a URL: an object store cannot append, so it is there in parts of a fixed size, the last one shorter.

Part ``i`` holds the bytes from ``i * PART_BYTES`` on. Only the last is written again as the journal grows, so a journal
costs in proportion to its length. Only whole lines are published.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from orchestrator.objectstore.storage import Mirror

PART_BYTES = 2_000_000


def publish_journal(mirror: Mirror, journal: Path, end: int, published: int) -> None:
    """Bring the bytes up to ``end`` to the URL, where those up to ``published`` are already."""
    with journal.open("rb") as file:
        for number in range(published // PART_BYTES, -(-end // PART_BYTES)):
            file.seek(number * PART_BYTES)
            content = file.read(min(PART_BYTES, end - number * PART_BYTES))
            mirror.write(_part(journal, number), content)


def obtain_journal(mirror: Mirror, journal: Path) -> int:
    """Bring the journal here, unless what is here begins with it: then this machine wrote it last, and has more.

    Returns how many bytes of it are at the URL. Not while a process here writes it.
    """
    there = mirror.listing(_part(journal, 0).parent)
    versions: list[str] = []
    total = 0
    for number in range(len(there)):
        entry = there.get(_part(journal, number))
        if entry is None:
            break
        versions.append(entry.version)
        total += entry.size
        if entry.size < PART_BYTES:  # what is behind it was there before the journal lost a torn end
            break
    known, here = _known(mirror, journal), journal.stat().st_size if journal.exists() else 0
    same = next((n for n, v in enumerate(versions) if n >= len(known) or known[n] != v), len(versions))
    if same == len(versions) and here >= total:
        return total
    same = min(same, here // PART_BYTES)
    new = b"".join(mirror.read(_part(journal, number)) or b"" for number in range(same, len(versions)))
    if not _begins_with(journal, same * PART_BYTES, new):
        _replace_from(journal, same * PART_BYTES, new)
    _know(mirror, journal, versions)
    return same * PART_BYTES + len(new)


def _part(journal: Path, number: int) -> Path:
    return journal.with_suffix(".parts") / f"{number:06d}"


def _begins_with(journal: Path, offset: int, content: bytes) -> bool:
    try:
        with journal.open("rb") as file:
            file.seek(offset)
            return file.read(len(content)) == content
    except FileNotFoundError:
        return False


def _replace_from(journal: Path, offset: int, content: bytes) -> None:
    """What is here from an offset on gives way: another machine went on with the study."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    aside = journal.with_name(f".{journal.name}-{os.getpid()}")
    with aside.open("wb") as file:
        if offset:
            with journal.open("rb") as before:
                file.write(before.read(offset))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, journal)


def _sidecar(mirror: Mirror, journal: Path) -> Path:
    return mirror.root / ".versions" / mirror.relative(journal)


def _known(mirror: Mirror, journal: Path) -> list[str]:
    try:
        versions: list[str] = json.loads(_sidecar(mirror, journal).read_text(encoding="utf-8"))
        return versions
    except (OSError, ValueError):
        return []


def _know(mirror: Mirror, journal: Path, versions: list[str]) -> None:
    sidecar = _sidecar(mirror, journal)
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    sidecar.write_text(json.dumps(versions), encoding="utf-8")
