"""Runs every benchmark, one after the other, and writes docs/benchmarks.md. Arguments are handed on (``--quick``)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    rows, failed = [], False
    for path in sorted(HERE.glob("*.py")):
        if path.name in ("bars.py", "run_all.py"):
            continue
        done = subprocess.run([sys.executable, path, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=False)
        sys.stdout.write(done.stdout)
        if done.returncode != 0:
            failed = True
            rows.append(f"| {path.stem} | did not run | | | |")
            continue
        for bar in json.loads(done.stdout.splitlines()[-1])["bars"]:
            failed = failed or not bar["holds"]
            holds = "yes" if bar["holds"] else "**no**"
            rows.append(f"| {path.stem} | {bar['name']} | {bar['value']:g} {bar['unit']} | {bar['bar']:g} | {holds} |")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(rows), encoding="utf-8")
    sys.exit(failed)


def page(rows: list[str]) -> str:
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    head = f"# Benchmarks\n\n`make bench` on {date.today()}, {machine}; one run each unless a name says more."
    table = ["| benchmark | what | measured | bar | holds |", "|---|---|---|---|---|", *rows]
    return head + "\n\n" + "\n".join(table) + "\n"


if __name__ == "__main__":
    main()
