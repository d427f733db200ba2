"""A reader's machine for a while: a folder with their data and studies, and what becomes of each command in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import doclive
import docrules
import docstandins
import pytest
from docpages import ROOT, Block
from docshell import Asked, Terminal, as_asked, orchestrator, parsed, run_until_ctrl_c

from orchestrator.commands import explain
from orchestrator.datasets import catalogue
from orchestrator.errors import OrchestratorError
from orchestrator.history.folder import Runs, StudyFolder
from orchestrator.history.journal import load_record
from orchestrator.history.states import State
from orchestrator.running import trials
from orchestrator.studies import chain, registry, yamlfile
from orchestrator.studies.plan import Node, make_plan
from orchestrator.studies.studyfile import load_study

SHIPPED = {path.stem for path in (ROOT / "tasks").iterdir()}
_TRIAL = re.compile(r"t\d{4}")
_CLUSTER = re.compile(r" --cluster(?:=| )\S+| --detach| --ship-data")
_LARGE = Node("a node of a cluster", 64, 8)
_LOOKS = ("show", "leaderboard", "logs", "report", "track", "compare", "simulate")


class Workplace:
    """``execute`` runs a block of commands. Each search runs once, however often the pages show it."""

    def __init__(self, root: Path) -> None:
        self.here = root / "here"
        self.runs = Runs(self.here / "runs")
        docstandins.make(self.here)
        shutil.copytree(self.here / "photos", self.here / "data" / "imagewoof")
        shutil.copytree(ROOT / "deploy", self.here / "deploy")
        shutil.copy(ROOT / "cluster.yaml", self.here)
        self._terminal = Terminal(root, self.here, self._obey)
        self._root, self._said = root, {}

    def close(self) -> None:
        self._terminal.close()

    def execute(self, block: Block) -> str:
        """Run the commands of a block; returns what they printed. AssertionError names the one that failed."""
        code, said = self._typed(block)
        assert code == 0, f"{block.where}: {self._ran[-1] if self._ran else 'bash'} ended with {code}:\n{said}"
        return said

    def refused(self, block: Block) -> str:
        """As `execute`, for a block whose last command is shown to fail."""
        code, said = self._typed(block)
        assert code in (1, 2, 3, 130), f"{block.where}: this was to be refused:\n{said}"
        return said

    def interrupted(self, block: Block) -> str:
        """As `execute`, for a run in which Ctrl-C is pressed. What is left of it goes: pages begin without it."""
        before, said = set(self.runs.studies()), dict(self._said)
        self._said.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trials, "run_trials", run_until_ctrl_c)
            code, printed = self._typed(block)
        assert code == 130, f"{block.where}: {self._ran[-1]} ended with {code}:\n{printed}"
        self._said = said
        for left in set(self.runs.studies()) - before:
            shutil.rmtree(left.root)
        return printed

    def write(self, study: str) -> None:
        """The reader's ``my-study.yaml``, as a page has it; its runs on earlier pages were another's."""
        file = self.here / "my-study.yaml"
        if not file.exists() or file.read_text() != study:
            file.write_text(study)
            for run in self.runs.root.glob("my-study*"):
                shutil.rmtree(run)

    def _typed(self, block: Block) -> tuple[int, str]:
        self._ran: list[str] = []
        return self._terminal.run(_stood_in(block.text), {**self._environment(), "HOME": str(self._root)})

    def _environment(self) -> dict[str, str]:
        keep = {name: os.environ[name] for name in ("LANG", "OMP_NUM_THREADS") if name in os.environ}
        return keep | {"ORCHESTRATOR_MIRROR": str(self._root / "mirror"), "WEBHOOK": "http://127.0.0.1:9/"}

    # ------------------------------------------------------------------------------------------------ every command

    def _obey(self, asked: Asked) -> tuple[int, str]:
        self._ran.append(" ".join(asked.words))
        try:
            with as_asked(asked):
                return self._orchestrator(asked) if asked.words[0] == "orchestrator" else self._foreign(asked)
        except Exception as error:  # it is the page that is wrong, or a rule that is missing: bash ends with it
            return 70, f"{type(error).__name__}: {error}\n"

    def _foreign(self, asked: Asked) -> tuple[int, str]:
        """Another program than ours: run where it can be, else held against the test or the file that knows it."""
        words, line = asked.words, " ".join(asked.words)
        if words[0] == "make":
            return self._make(words[1:], asked)
        if words[0] == "pytest" or words[:3] == ["python", "-m", "pytest"]:
            return self._pytest([word for word in words if word.endswith(".py")], asked)
        if words[0] == "python":
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            assert all(word in source for word in words[2:]), f"{words[1]} knows nothing of {words[2:]}"
            return 0, ""
        if "--" in words:  # a command for our program in another place
            rest = words[words.index("--") + 1 :]
            parsed(rest[1:] if rest[0] == "orchestrator" else rest)
        if _elsewhere(line):
            return 0, ""
        for begins, (file, mentions) in docrules.FOREIGN.items():
            if line.startswith(begins):
                text = (ROOT / file).read_text(encoding="utf-8")
                assert all(mention in text for mention in mentions), f"{file} has not all of {mentions}"
                return 0, ""
        raise AssertionError(f"'{line}': no rule of tests/docs/docrules.py says how this is executed")

    def _make(self, targets: list[str], asked: Asked) -> tuple[int, str]:
        """What make would type; our own commands among that are obeyed."""
        dry = ["make", "-n", "-o", ".venv/.installed", *targets]
        done = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=False)
        said = done.stderr
        for line in done.stdout.splitlines():
            if line.startswith(".venv/bin/orchestrator"):
                code, out = self._orchestrator(Asked(["orchestrator", *line.split()[1:]], asked.cwd, asked.env))
                said += out
                if code:
                    return code, said
        return done.returncode, said

    def _pytest(self, files: list[str], asked: Asked) -> tuple[int, str]:
        if all((ROOT / file).exists() for file in files):
            return 0, ""  # a test of this project, which runs by itself
        if (said := self._said.get(repr(files))) is not None:
            return 0, said
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
        done = subprocess.run(words, cwd=asked.cwd, env=env, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            self._said[repr(files)] = done.stdout
        return done.returncode, done.stdout + done.stderr

    def _orchestrator(self, asked: Asked) -> tuple[int, str]:
        words, line = asked.words[1:], " ".join(asked.words)
        if "--help" in words:
            return orchestrator(words)
        command = parsed(words) if words[0] != "--install-completion" else ""  # that one acts while it is parsed
        if command == "data get":
            catalogue.data_set(words[2])  # there is one of that name
        if _elsewhere(line):
            return 0, ""
        if "--cluster" in words or "ORCHESTRATOR_CLUSTER" in asked.env:  # then here, to see whether the rest is right
            assert command in (*docrules.ON_A_CLUSTER, *_LOOKS), f"'{line}': no rule says who runs this on a cluster"
            words = _CLUSTER.sub("", f" {' '.join(words)}").split()
        if command in ("run", "demo"):
            return self._run(words[1:] if command == "run" else ["dogs-demo"], asked)
        if command in ("stop", "retry", "resume") or (command == "logs" and {"-f", "--follow"} & set(words)):
            return self._on_a_live_one(command, words, asked)
        if command in _LOOKS:
            words = self._look(words)
        if command == "new":
            self._forget(words[1])
        if command == "plan":
            self._ensure_inputs(load_study(words[1], words[2:], check_data=False))
        code, said = orchestrator(words)
        return (0 if command == "doctor" and code == 3 else code), said  # of the machine that this test runs on

    def _forget(self, task: str) -> None:
        """Another page has shown how to write this task: here nobody has."""
        for path in (f"my_tasks/{task}.py", f"tests/test_{task}.py", f"{task}.yaml"):
            (self.here / path).unlink(missing_ok=True)

    # ----------------------------------------------------------------------------------------------------- searches

    def _run(self, words: list[str], asked: Asked) -> tuple[int, str]:
        """Run a study: as it was typed it must be valid; what then runs is small."""
        ref, typed = words[0], [_folder_of(words[0], word) for word in words[1:]]
        own = {name: value for name, value in asked.env.items() if name.startswith("ORCHESTRATOR_")}
        key = repr((registry.study_path(ref).read_text(), typed, own))
        if key in self._said:
            return 0, self._said[key]
        try:
            self._ensure_inputs(load_study(ref, typed, check_data=False))
            study = load_study(ref, [*typed, *docrules.OFFLINE.get(Path(ref).stem, "").split()])
            make_plan(chain.pinned(study, Runs.default()), [_LARGE])
        except OrchestratorError:
            return orchestrator(["run", ref, *typed])  # which says what is wrong
        code, said = orchestrator(["run", ref, *shrunk(ref, typed)])
        if code == 0:
            self._said[key] = said
        return code, said

    def _ensure_inputs(self, study) -> None:
        for name in study.inputs.studies if study.inputs is not None else ():
            self._ensure(name)

    def _ensure(self, name: str) -> None:
        """A study that a page looks at has run, and `NAME-2` is its second run."""
        if (self.runs.root / name / "journal.jsonl").exists():
            return
        first, _, again = name.rpartition("-2")
        if first and not again and first in registry.study_names():
            self._ensure(first)
        name = first if first and not again else name
        if name not in registry.study_names():
            return  # nobody ran it: the command itself will say so
        self._ensure_inputs(load_study(name, check_data=False))
        with as_asked(Asked([], self.here, self._environment())):
            code, said = orchestrator(["run", name, *shrunk(name, [])])
        assert code == 0, f"{name}, which a page looks at, does not run:\n{said}"

    def _look(self, words: list[str]) -> list[str]:
        """The words, of studies that have run and of trials that they have."""
        found, study = [], ""
        for word in words:
            name, _, trial = word.partition("/")
            if _TRIAL.fullmatch(word) and study:
                word = self._trial(study, word)
            elif len(found) and not word.startswith("-") and not found[-1].startswith("--"):
                self._ensure(name)
                study = name
                word = f"{name}/{self._trial(name, trial)}" if trial else name
            found.append(word)
        return found

    def _trial(self, study: str, trial: str) -> str:
        journal = self.runs.root / study / "journal.jsonl"
        known = list(load_record(journal).trials) if journal.exists() else [trial]
        return known[int(trial[1:]) % len(known)]

    # ------------------------------------------------------------------------- studies that run, or that were killed

    def _on_a_live_one(self, command: str, words: list[str], asked: Asked) -> tuple[int, str]:
        """On a study of the toy task that has the name and is in the condition that the command is for."""
        root, name = self._root / "live", words[1]
        shutil.rmtree(root / name, ignore_errors=True)
        asked = Asked(words, asked.cwd, {**asked.env, "ORCHESTRATOR_RUNS": str(root)})
        condition = doclive.killed if command == "resume" else doclive.running
        with condition(StudyFolder(root / name), endless=command != "logs") as record:
            broken = next(trial.id for trial in record().trials.values() if trial.state is State.FAILED)
            whole = next(trial.id for trial in record().trials.values() if trial.state is not State.FAILED)
            trial = broken if command in ("retry", "resume") else whole
            with as_asked(asked):
                return orchestrator([_TRIAL.sub(trial, word) for word in words])


# ---------------------------------------------------------------------------------------------------------- the words


def shrunk(ref: str, typed: list[str]) -> list[str]:
    """The words of a run with those that make it short: a small space before what was typed, small sizes behind."""
    raw, _ = yamlfile.load(registry.study_path(ref))
    name = raw.get("name", Path(ref).stem)
    ships = raw["task"] in SHIPPED
    added = docrules.SHRINK_STUDY.get(name, docrules.SHRINK.get(raw["task"], None if ships else ""))
    assert added is not None, f"no rule of tests/docs/docrules.py makes a run of the task {raw['task']} short"
    words = [*added.split(), "resources.gpus=0"]
    words += ["finalists.top=1", "finalists.seeds=2"] if raw.get("finalists") else []
    space = [word for word in words if word.startswith("search.space=")]
    return [*space, *typed, *(word for word in words if word not in space)]


def _folder_of(ref: str, word: str) -> str:
    """Some studies read other things than photos."""
    other = docrules.FOLDERS.get(Path(ref).stem)
    return f"data={other}" if other and word in ("data=photos", "data=corpus.txt") else word


def _stood_in(text: str) -> str:
    """What a reader would replace, replaced."""
    for word, other in docrules.STAND_INS.items():
        text = re.sub(rf"(?<![\w/.-]){re.escape(word)}(?![\w/.-])", other, text)
    return text


def named(block: Block) -> Block:
    """A command in prose, with names for its S, TRIAL and the like; a bare command's name is its example."""
    words = [docrules.NAMES.get(word, word) for word in block.text.split()]
    words = explain.EXAMPLES.get(" ".join(words[1:]), " ".join(words)).split()
    return Block(block.page, block.line, block.language, " ".join(words) + "\n")


def _elsewhere(line: str) -> bool:
    return any(line.startswith(begins) for begins in docrules.ELSEWHERE)
