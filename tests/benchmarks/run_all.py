"""Runs the benchmarks one after the other and keeps what they say in docs/benchmarks.md.

    python tests/benchmarks/run_all.py [NAME …] [--quick]

Without a name all run; with names only these do, and only their rows are replaced. ``--quick`` is handed on.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
HEAD = f"""# Benchmarks

What `make bench` measures; one run each unless a name says more. All rows: {os.cpu_count()} cores,
{platform.machine()}, Python {platform.python_version()}, no GPU.

| benchmark | what | measured | bar | holds | when |
|---|---|---|---|---|---|
"""


def main() -> None:
    known = [path.stem for path in sorted(HERE.glob("*.py")) if path.stem not in ("bars", "run_all")]
    flags = [word for word in sys.argv[1:] if word.startswith("-")]
    wanted = [word for word in sys.argv[1:] if word not in flags] or known
    if unknown := sorted({*wanted} - {*known}):
        raise SystemExit(f"no benchmark is named {unknown[0]!r}; there are {', '.join(known)}")
    rows, failed = kept(known), False
    for name in wanted:
        done = subprocess.run(
            [sys.executable, HERE / f"{name}.py", *flags], stdout=subprocess.PIPE, text=True, check=False
        )
        sys.stdout.write(done.stdout)
        bars = json.loads(done.stdout.splitlines()[-1])["bars"] if done.returncode == 0 else []
        rows[name] = [row(name, bar) for bar in bars] or [f"| {name} | did not run | | | | {date.today()} |"]
        failed = failed or not all(bar["holds"] for bar in bars) or not bars
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(HEAD + "\n".join(line for each in rows.values() for line in each) + "\n", encoding="utf-8")
    sys.exit(failed)


def kept(known: list[str]) -> dict[str, list[str]]:
    """The rows on the page, by benchmark, in the order of ``known``."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    return {name: [line for line in lines if line.startswith(f"| {name} |")] for name in known}


def row(name: str, bar: Mapping[str, Any]) -> str:
    holds = "yes" if bar["holds"] else "**no**"
    value = f"{bar['value']:g} {bar['unit']}".strip()
    return f"| {name} | {bar['name']} | {value} | {bar['bar']:g} | {holds} | {date.today()} |"


if __name__ == "__main__":
    main()
