"""The commands that learn from what has run: two results side by side, a search under another scheduler."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.commands import completion
from orchestrator.commands.cluster import AsJson, elsewhere
from orchestrator.commands.look import RunName
from orchestrator.history.folder import Runs
from orchestrator.terminal.lines import print_json, say
from orchestrator.terminal.tables import print_table

app = typer.Typer(rich_markup_mode=None)

Thing = Annotated[
    str,
    typer.Argument(help="A study that has run, or one of its trials: STUDY/TRIAL.", autocompletion=completion.results),
]
Another = Annotated[
    str,
    typer.Argument(help="Another one, or the other of two trials: STUDY/TRIAL.", autocompletion=completion.results),
]


@app.command()
@elsewhere
def compare(a: Thing, b: Another, as_json: AsJson = False) -> None:
    """Show in what two studies or trials differ.

    Parameters, code, data, environment and results; and whether the results differ beyond chance.
    """
    from orchestrator.analysis import comparison

    runs = Runs.default()
    found = comparison.compare(comparison.find(a, runs), comparison.find(b, runs))
    if as_json:
        return print_json(found)
    same = []
    for section, differences in found["sections"].items():
        same.append(f"{differences['same']} of {section}")
        if differences["different"]:
            rows = [(name, _cell(left), _cell(right)) for name, (left, right) in differences["different"].items()]
            print_table([section, found["a"], found["b"]], rows)
            say("")
    say(f"the same: {', '.join(same)}")
    say(found["chance"]["sentence"])


@app.command()
@elsewhere
def simulate(
    study: RunName,
    scheduler: Annotated[
        str | None, typer.Option(help="As in a study file: asha, '{median: {grace: 3}}'. The study's own unless given.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Only the first so many of its trials.")] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Only what it finds within so many hours.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a study under another scheduler or budget.

    Says, by the study's own journal, what it would have found and cost, and what cannot be known.
    """
    from orchestrator.analysis import simulation
    from orchestrator.history import journal
    from orchestrator.history.record import replay
    from orchestrator.studies.studyfile import imagined

    folder = Runs.default().study(study)
    events = [event for event, _ in journal.read(folder.journal)]
    asked = imagined(replay(events), [f"search.scheduler={scheduler}"] if scheduler is not None else [])
    found = simulation.simulate(events, asked, trials, hours)
    if as_json:
        return print_json(found.to_plain())
    options = ", ".join(f"{name} {value}" for name, value in found.scheduler.items() if name != "kind")
    say(f"{study} under {found.scheduler['kind']}{f' ({options})' if options else ''}, by its journal:")
    names = {"best": f"best {asked.search.metric}", "best_trial": "of trial", "pruned": "stopped early"}
    names |= {"trial_seconds": "seconds of trials", "hours": "hours from start to end"}
    was, would = vars(found.study), vars(found.would)
    rows = [(names.get(name, name), _cell(was[name]), _cell(would[name])) for name in was]
    print_table(["", "as it was", "would have been"], rows)
    if found.regret is not None:
        say(f"regret: {found.regret:.4g}" + (", it finds the same best" if not found.regret else ""))
    say(f"{found.changed} trials end elsewhere than they did")
    for note in found.notes:
        say(f"note: {note}")


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
