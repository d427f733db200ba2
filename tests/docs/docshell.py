"""A terminal for the pages' commands: bash runs their blocks, and what `orchestrator` stands for there is this process.

On the PATH of that bash are a few tools of every system and, for each program that the pages name, a stub. A stub sends
the words that it got to this process, which does what they say and hands back what there is to print. So loops,
variables and pipes are bash's own, and a command costs no start of Python. Trials run in threads, by the same worker
and driver as under Ray Tune, except where a test has Ray run them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import lab

import tasks
from orchestrator import cli
from orchestrator.studies.plan import Node
from orchestrator.terminal import lines

TOOLS = ("cat", "cp", "ls", "mkdir", "head", "rm")  # of the system, as they are
OTHERS = ("make", "python", "pytest", "docker", "kubectl", "sbatch", "scancel", "tail")
OURS = ("ORCHESTRATOR_", "RAY_ADDRESS", "MLFLOW_TRACKING", "COLUMNS")  # what a block may set for its commands
_STUB = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    asked = {{"words": [os.path.basename(sys.argv[0]), *sys.argv[1:]], "cwd": os.getcwd(), "env": dict(os.environ)}}
    line.sendall(json.dumps(asked).encode() + b"\\n")
    answer = json.load(line.makefile())
print(answer["out"], end="")
sys.exit(answer["code"])
"""


@dataclass(frozen=True)
class Asked:
    """A command as bash hands it over."""

    words: list[str]
    cwd: Path
    env: Mapping[str, str]


class Terminal:
    """``run`` executes a block; ``obey`` is asked to do each of its commands, and returns exit code and output."""

    def __init__(self, root: Path, here: Path, obey: Callable[[Asked], tuple[int, str]]) -> None:
        self._here, self._obey, self._bin = here, obey, here / ".venv" / "bin"
        self._bin.mkdir(parents=True)
        (self._bin / "activate").touch()
        address = str(root / "line")
        self._line = socket.socket(socket.AF_UNIX)
        self._line.bind(address)
        self._line.listen(8)
        for name in ("orchestrator", *OTHERS):
            path = self._bin / name
            path.write_text(_STUB.format(python=sys.executable, address=address))
            path.chmod(0o755)
        for name in TOOLS:
            (self._bin / name).symlink_to(shutil.which(name) or name)

    def close(self) -> None:
        self._line.close()

    def run(self, text: str, env: Mapping[str, str]) -> tuple[int, str]:
        """Execute a block; returns its exit code and all that it printed."""
        with (self._here / ".said").open("w+", encoding="utf-8") as said:
            process = subprocess.Popen(
                [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", text], cwd=self._here, stdout=said,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env={**env, "PATH": str(self._bin)},
            )  # fmt: skip
            while process.poll() is None:
                if select.select([self._line], [], [], 0.02)[0]:
                    self._answer()
            said.seek(0)
            return process.returncode, said.read()

    def _answer(self) -> None:
        line, _ = self._line.accept()
        with line, line.makefile(encoding="utf-8") as question:
            asked = json.loads(question.readline())
            code, out = self._obey(Asked(asked["words"], Path(asked["cwd"]), asked["env"]))
            with contextlib.suppress(BrokenPipeError):  # whoever asked has gone
                line.sendall(json.dumps({"code": code, "out": out}).encode())


# -------------------------------------------------------------------------------------------- orchestrator, in here


def orchestrator(words: list[str]) -> tuple[int, str]:
    """``orchestrator WORDS`` in this process, as `cli.main` does it; returns its exit code and what it printed."""
    said, before = io.StringIO(), sys.argv
    for console in (lines.console, lines.errors):  # trials in threads take sys.stdout for their logs
        console.file, console.width = said, 120
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            sys.argv = ["orchestrator", *words]
            cli.main()
    except SystemExit as ended:
        return int(ended.code or 0), said.getvalue()
    finally:
        sys.argv = before
        for console in (lines.console, lines.errors):
            console.file = None  # type: ignore[assignment]
    raise AssertionError("cli.main returned")


@contextlib.contextmanager
def as_asked(asked: Asked) -> Iterator[None]:
    """The folder, the environment and one's own tasks as the asker has them."""
    variables, folders, given = dict(os.environ), list(tasks.__path__), asked.env.get("ORCHESTRATOR_TASKS", "")
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ.update({name: value for name, value in asked.env.items() if name.startswith(OURS)})
    tasks.__path__.extend(f for f in given.split(os.pathsep) if f and f not in folders)
    importlib.invalidate_caches()
    try:
        with contextlib.chdir(asked.cwd):
            yield
    finally:
        tasks.__path__[:] = folders
        os.environ.clear()
        os.environ.update(variables)


def parsed(words: list[str]) -> str:
    """The command that words lead to, as ``cluster up``; nothing is run. Raises `UsageError` for a wrong option."""
    import typer

    group, context, name = typer.main.get_command(cli.app), None, "orchestrator"
    while True:
        context = group.make_context(name, list(words), parent=context)
        if not hasattr(group, "commands"):
            return " ".join(context.command_path.split()[1:])
        name, group, words = group.resolve_command(context, [*context._protected_args, *context.args])


def run_in_threads(driver, on_change: Callable[[], None]) -> None:
    """In the place of `trials.run_trials`: the attempts in threads of this process."""
    live: dict = {}
    driver.kill = lambda trial: live[trial].stop(5)
    lab.work(driver, live, lambda driver: on_change())


def run_until_ctrl_c(driver, on_change: Callable[[], None]) -> None:
    """The same, and Ctrl-C is pressed when a trial has reported."""

    def changed() -> None:
        on_change()
        if driver.load[0] and not driver.stop.is_set():
            signal.raise_signal(signal.SIGINT)
            on_change()

    run_in_threads(driver, changed)


@contextlib.contextmanager
def one_node() -> Iterator[list[Node]]:
    """In the place of `cluster.connect`."""
    yield [Node("here", 2, 0)]


def flat(path: Path) -> str:
    """A test's source as words, so that ``call("cluster", "up", …)`` reads ``cluster up``."""
    return " ".join("".join(" " if c in "\"'(),[]{}" else c for c in path.read_text(encoding="utf-8")).split())
