"""The commands about clusters, and ``--cluster``, which has a command run on a cluster's head instead of here."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.commands.explain import Grouped
from orchestrator.errors import EnvironmentProblem, UserError
from orchestrator.studies import registry
from orchestrator.studies.studyfile import load_study
from orchestrator.terminal.lines import say
from orchestrator.terminal.tables import print_hosts

if TYPE_CHECKING:
    from orchestrator.machines.clusterfile import ClusterFile
    from orchestrator.machines.headnode import HeadNode

app = typer.Typer(cls=Grouped, rich_markup_mode=None, help="Bring a cluster up, look at it, take it down.")

_OPTIONS = ("--cluster", "--detach", "--ship-data")
ClusterPath = Annotated[Path, typer.Argument(metavar="FILE", help="The cluster's file.")]
ClusterOption = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE", envvar="ORCHESTRATOR_CLUSTER", help="Do it on this cluster."),
]
Detach = Annotated[bool, typer.Option("--detach", help="With --cluster: leave it there and return at once.")]
ShipData = Annotated[bool, typer.Option("--ship-data", help="With --cluster: take the data folder along.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
DEFAULT = Path("cluster.yaml")


def elsewhere(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--cluster FILE``: the same words then are a command on that cluster's head."""

    @functools.wraps(command)
    def here_or_there(*args: Any, cluster: Path | None = None, **named: Any) -> None:
        if cluster is None:
            return command(*args, **named)
        _end(head_of(cluster).command(_words()))

    return _with_options(here_or_there, command, cluster=ClusterOption)


def submitted(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that drives a study ``--cluster FILE [--detach] [--ship-data]``: a job on that cluster then."""

    @functools.wraps(command)
    def here_or_there(
        study: str, overrides: list[str] | None = None, *, cluster: Path | None = None, **named: Any
    ) -> None:
        detach, ship = named.pop("detach"), named.pop("ship_data")
        if cluster is None:
            if detach or ship:
                raise UserError("--detach and --ship-data go with --cluster FILE")
            return command(study, overrides, **named)
        submit = _submit_new if command.__name__ == "run" else _submit_again
        status = submit(cluster, study, overrides or [], detach, ship)
        say(f"from here, add --cluster {cluster} to these commands")
        _end(status)

    return _with_options(here_or_there, command, cluster=ClusterOption, detach=Detach, ship_data=ShipData)


@app.command()
def up(
    file: ClusterPath = DEFAULT,
    wait: Annotated[float, typer.Option(help="Minutes to wait for workers: the first set-up installs 5 GB.")] = 20.0,
) -> None:
    """Set the hosts of a cluster up and start Ray on them."""
    from orchestrator.machines import launcher

    states = launcher.up(_load(file), 60 * wait, say)
    print_hosts([state.to_plain() for state in states])
    absent = [state.address for state in states if state.presence is not launcher.Presence.JOINED]
    if absent:
        raise EnvironmentProblem(
            f"{', '.join(absent)} did not join within {wait:g} min", f"see why: orchestrator doctor --cluster {file}"
        )
    say(f"run on it: orchestrator run STUDY --cluster {file}")


@app.command()
def down(file: ClusterPath = DEFAULT) -> None:
    """Stop Ray on every host of a cluster.

    Studies stay, and can be resumed when it is up again.
    """
    from orchestrator.machines import launcher

    left = {address: why for address, why in launcher.down(_load(file)).items() if why}
    if left:
        raise EnvironmentProblem(
            "Ray may still run on " + "; ".join(f"{address}: {why}" for address, why in left.items()),
            "stop it there: ray stop --force",
        )
    say(f"no Ray process is left on the hosts of {file}")


@app.command()
def status(file: ClusterPath = DEFAULT, as_json: AsJson = False) -> None:
    """Show the hosts of a cluster and what runs there.

    What each has and uses, and why one is missing.
    """
    from orchestrator.machines import launcher

    cluster = _load(file)
    hosts = [state.to_plain() for state in launcher.status(cluster)]
    studies = [row for row in launcher.head(cluster).ask(["ps", "--json"]) if row["state"] == "RUNNING"]
    if as_json:
        return print(json.dumps({"hosts": hosts, "studies": studies}, indent=2))
    print_hosts(hosts)
    for row in studies:
        say(f"{row['study']} runs: {row['done']} of {row['trials']} trials are over")
    if not studies:
        say("no study runs")


@app.command(hidden=True)
def nodes(as_json: AsJson = False) -> None:
    """The nodes of the Ray cluster at RAY_ADDRESS, dead ones too: what `status` asks the head for."""
    from orchestrator.machines import cluster

    with cluster.connect():
        found = cluster.describe_nodes()
    print(json.dumps(found)) if as_json else say(str(found))


def attach(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The name of a study that was submitted.")],
    cluster: Annotated[Path, typer.Option("--cluster", metavar="FILE", envvar="ORCHESTRATOR_CLUSTER")] = DEFAULT,
) -> None:
    """Follow a study that runs on a cluster to its verdict.

    From its first line on, also when it is over.
    """
    _end(head_of(cluster).attach(study))


def _submit_new(cluster: Path, ref: str, overrides: Sequence[str], detach: bool, ship: bool) -> int:
    """Whatever is wrong with the study is said here, but for its data, which is there."""
    asked = load_study(ref, [*overrides, "data=builtin"], check_data=False)
    file, head, words = registry.study_path(ref), head_of(cluster), list(overrides)
    if ship:
        folder = load_study(ref, overrides).data
        if not isinstance(folder, Path):
            raise UserError("--ship-data: the study reads no folder of this machine", "give data=FOLDER")
        words.append(f"data={head.send_data(folder)}")
    status = head.submit(["run", f"study/{file.name}", *words], asked.name, file, detach)
    if detach:
        say(f"follow it: orchestrator attach {asked.name}; or: orchestrator show {asked.name}")
    return status


def _submit_again(cluster: Path, name: str, overrides: Sequence[str], detach: bool, ship: bool) -> int:
    if ship:
        raise UserError("a study goes on with the data that it began with", "leave --ship-data out")
    return head_of(cluster).submit(_words(), name, None, detach)


def head_of(cluster: Path) -> HeadNode:
    """The head of the cluster that a file describes."""
    from orchestrator.machines import launcher

    return launcher.head(_load(cluster))


def _load(file: Path) -> ClusterFile:
    from orchestrator.machines import clusterfile

    if not file.is_file():
        raise UserError(f"there is no cluster's file at {file}", "copy the cluster.yaml that ships, and fill it in")
    return clusterfile.load(file)


def _words() -> list[str]:
    """What was typed, without what is meant for this machine."""
    words, left = sys.argv[1:], []
    while words:
        word = words.pop(0)
        if word == "--cluster":
            words.pop(0)
        elif word.partition("=")[0] not in _OPTIONS:
            left.append(word)
    return left


def _end(status: int) -> None:
    """The exit code of what ran there is this command's; what went wrong has been said."""
    if status:
        raise typer.Exit(status)


def _with_options(wrapper: Callable[..., None], command: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Let typer see the command's own parameters and these."""
    signature = inspect.signature(command, eval_str=True)
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None if name == "cluster" else False, annotation=option
        )
        for name, option in options.items()
    ]
    parameters = [*signature.parameters.values(), *added]
    vars(wrapper).pop("__wrapped__")  # or typer would look there
    vars(wrapper)["__signature__"] = signature.replace(parameters=parameters)
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper
