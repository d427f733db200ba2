"""The commands about public data sets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands import completion
from orchestrator.commands.cluster import AsJson
from orchestrator.commands.explain import Grouped
from orchestrator.datasets import catalogue
from orchestrator.history.folder import data_root, shorter
from orchestrator.terminal.lines import print_json, say
from orchestrator.terminal.live import Downloads
from orchestrator.terminal.tables import print_list

app = typer.Typer(cls=Grouped, rich_markup_mode=None, help="Public data sets: list them, and get one.")

DataName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="One that `orchestrator data list` shows.", autocompletion=completion.data_sets
    ),
]
To = Annotated[
    Path | None,
    typer.Option("--to", metavar="FOLDER", help="It comes to FOLDER/NAME; else $ORCHESTRATOR_DATA, else ./data."),
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the data sets: size, licence, whether they are here."""
    root = data_root()
    if as_json:
        rows = [{**known.to_plain(), "path": _path(known, root)} for known in catalogue.ALL.values()]
        return print_json(rows)
    rows = [
        {
            "data": known.name,
            "what": known.about,
            "MB": f"{known.size / 1e6:.0f}",
            "licence": known.licence,
            "here": "yes" if _path(known, root) else "",
        }
        for known in catalogue.ALL.values()
    ]
    print_list(rows, False)


@app.command()
def get(name: DataName, to: To = None) -> None:
    """Download a data set, laid out as the tasks read it.

    It goes on where an earlier try was cut off, and nothing is used whose checksum is wrong.
    """
    known = catalogue.data_set(name)
    root = (to or data_root()).expanduser().absolute()
    from orchestrator.datasets.get import get as bring

    say(f"{known.name}: {known.about}")
    say(f"licence: {known.licence}; {known.page}")
    with Downloads() as shown:
        folder = bring(known, root, shown)
    say(f"it is in {shorter(folder)}")
    given = known.name if root == data_root() else shorter(folder)
    say(f"next: {known.use}" + (f" data={given}" if known.use.startswith("orchestrator") else ""))


def _path(known: catalogue.DataSet, root: Path) -> str | None:
    path = root / known.name
    return str(path) if os.path.isdir(path) else None
