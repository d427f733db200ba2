"""What the pages print works: every command, study, program and link in them. `docrules` says how, where it must.

Executing a page takes seconds to a minute: that is `make test-docs`. Links, the index and both READMEs are fast tests.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import tomllib
from pathlib import Path

import docpages
import docrules
import docshell
import pytest
from docpages import ROOT, Block, is_output
from docworkplace import Workplace, named

from orchestrator.history.folder import Runs
from orchestrator.machines import cluster
from orchestrator.running import trials
from orchestrator.studies import yamlfile
from orchestrator.studies.plan import Node, make_plan
from orchestrator.studies.studyfile import build
from orchestrator.tracker import tracking
from tasks.dogs import drawn
from tasks.terms import builtin

PAGES = docpages.pages()
REPEATS = ROOT / "README.zh-CN.md"  # what it shows is what README.md shows: see below
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?")
_AGAIN = re.compile(r"(?<=[a-z])-\d+\b")  # of a study's name, where another page has run the study before
_OF_ONE_RUN = re.compile(r"\s+(?!→)\S|\(|…|\d|t\d{4}\b|\S+ {2,}.*\d")  # rows of tables, and where lines are left out


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One for all pages: a study that one of them runs can be looked at by all."""
    patch = pytest.MonkeyPatch()
    patch.setattr(cluster, "connect", docshell.one_node)
    patch.setattr(trials, "run_trials", docshell.run_in_threads)
    patch.setattr(tracking.Projection, "log_model", lambda self: None)  # a fifth of the time, and has its own tests
    patch.setattr(drawn, "COUNTS", {"train": 4, "val": 2})  # of each breed of the built-in dogs
    patch.setattr(builtin, "_SENTENCES", 1000)  # of the built-in field
    patch.setattr(builtin, "_BACKGROUND", 2000)
    made = Workplace(tmp_path_factory.mktemp("docs"))
    readme = next(block for block in docpages.blocks(ROOT / "README.md") if block.language == "yaml")
    made.write(readme.text)
    yield made
    made.close()
    patch.undo()


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if page != REPEATS], ids=_name)
def test_all_that_a_page_shows_is_so(page, workplace):
    blocks = docpages.blocks(page)
    shown = {id(block.before): block for block in blocks if is_output(block)}
    wrong = []
    for block in sorted([*blocks, *docpages.spans(page)], key=lambda block: block.line):
        try:
            check(block, shown.get(id(block)), workplace) if block in blocks else workplace.execute(named(block))
        except Exception as error:
            wrong.append(f"{block.where}: {type(error).__name__}: {error}")
    assert not wrong, "\n\n".join(wrong)


def check(block: Block, output: Block | None, workplace: Workplace) -> None:
    if block.language == "sh":
        shown = output.text if output is not None else ""
        if "error: interrupted" in shown:
            said = workplace.interrupted(block)
        else:
            said = workplace.refused(block) if "error: " in shown else workplace.execute(block)
        if output is not None:
            check_output(output, said)
    elif block.language == "python":
        check_python(block, workplace)
    elif block.language == "yaml":
        check_yaml(block, workplace)
    elif block.language == "json":
        json.loads(block.text)
    elif block.language == "toml":
        tomllib.loads(block.text)
    elif block.language == "" and not is_output(block):
        check_tree(block)
    else:
        assert is_output(block), f"{block.where}: nothing here knows how to check a block of '{block.language}'"


def check_output(output: Block, said: str) -> None:
    """Each line that a page shows is one that came, but for numbers; rows of tables are of one run, and pass."""
    came = {_pattern(line) for line in said.splitlines()}
    for line in output.text.splitlines():
        if line.strip() and not _OF_ONE_RUN.match(line):
            assert any(_pattern(line) in other for other in came), f"{output.where}: '{line}' is not in:\n{said}"


def _pattern(line: str) -> str:
    """Its words, without numbers; of what is concluded the beginning."""
    concludes = re.match(r"verdict:|On the same", line)
    return concludes[0] if concludes else " ".join(_NUMBER.sub("#", _AGAIN.sub("", line)).split())


def check_python(block: Block, workplace: Workplace) -> None:
    with contextlib.chdir(workplace.here):
        exec(compile(block.text, block.where, "exec"), {"__name__": "page"})  # noqa: S102 - it is what a reader does


def check_yaml(block: Block, workplace: Workplace) -> None:
    """A whole study can be planned; keys alone are those of a study, of whichever task."""
    path = workplace.here / "page.yaml"
    path.write_text(block.text)
    raw, _ = yamlfile.load(path)
    if "task" in raw:
        workplace.write(block.text)
    base = {"task": "dogs", "search": {"trials": 1, "space": {}}}
    with contextlib.chdir(workplace.here):
        make_plan(build({**base, **raw}), [Node("here", 64, 8)])


def check_tree(block: Block) -> None:
    """A map of files: each name is there, in a folder that its own line or an outer one opened."""
    outer = ROOT
    for line in block.text.splitlines():
        names = re.findall(r"[a-z][\w.-]*(?:\.py|\.md|\.yaml|/)", line)
        if not line.startswith(" ") and names and names[0].endswith("/"):
            outer = ROOT / names[0]
        folders = [ROOT, outer, *(outer / name for name in names if name.endswith("/"))]
        for name in names:
            assert any((folder / name).exists() for folder in folders), f"{block.where}: there is no {name}"


# ------------------------------------------------------------------------------------------------- the pages themselves


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for target in docpages.links(page):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target} leads nowhere"
        if anchor:
            assert anchor in docpages.anchors(file), f"{page.name}: {target}: no such heading"


def test_the_two_readmes_have_the_same_commands():
    one, other = ROOT / "README.md", REPEATS
    for a, b in zip(docpages.blocks(one), docpages.blocks(other), strict=True):
        assert a.language == b.language
        if a.language:
            assert docpages.commands_only(a.text) == docpages.commands_only(b.text)
    assert [span.text for span in docpages.spans(one)] == [span.text for span in docpages.spans(other)]


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in docpages.links(index)}
    for page in (ROOT / "docs").rglob("*.md"):
        assert page in linked or page == index, f"docs/README.md does not lead to {page.relative_to(ROOT)}"


def test_pictures_are_small():
    for path in (ROOT / "docs").rglob("*.png"):
        assert path.stat().st_size < 300_000, path.name


@pytest.mark.parametrize(
    "test", sorted({*docrules.ELSEWHERE.values(), *docrules.ON_A_CLUSTER.values()}, key=str), ids=lambda t: t.mentions
)
def test_what_runs_elsewhere_is_run_there(test):
    file, _, name = test.name.partition("::")
    source = ROOT / file
    functions = {node.name for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)}
    assert name in functions
    assert test.mentions in docshell.flat(source)


# ----------------------------------------------------------------------------------------- this test finds mistakes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("orchestrator plan dogs --no-such-flag\n", "no such option"),
        ("orchestrator run dogs data=FOLDER search.trails=8\n", "unknown key 'trails'"),
        ("orchestrator run dgos\n", "there is no study 'dgos'"),
        ("orchestrator run dogs --cluster cluster.yaml --detatch\n", "no such option"),
        ("orchestrator cluster up --wiat 3\n", "no such option"),
        ("orchestrator data get imagewof\n", "there is no data set 'imagewof'"),
        ("orchestrator show a-study-that-nobody-ran\n", "there is no study"),
        ("a-program-without-a-rule --now\n", "command not found"),
        ("kubectl frobnicate\n", "no rule of tests/docs/docrules.py"),
        ("make no-such-target\n", "no-such-target"),
        ("python tests/benchmarks/scale.py --quik\n", "knows nothing"),
    ],
)
def test_a_wrong_command_is_found(text, says, workplace):
    with pytest.raises(AssertionError) as found:
        workplace.execute(Block(ROOT / "README.md", 1, "sh", text))
    assert says in str(found.value).lower() or says in str(found.value)


def test_another_output_is_found():
    output = Block(ROOT / "README.md", 1, "", "error: there is no study 'dogs' in runs\n  → there are none yet\n")
    check_output(output, "error: there is no study 'dogs' in runs\n  → there are none yet\n")
    for other in ("error: there is no task 'dogs' in runs\n  → there are none yet\n", "it works\n"):
        with pytest.raises(AssertionError):
            check_output(output, other)


@pytest.mark.parametrize("line", ["dogs: Which head?\n", "report: runs/dogs/report.html\n", "next: show dogs\n"])
def test_which_page_ran_a_study_first_does_not_matter(line):
    output = Block(ROOT / "README.md", 1, "", line)
    check_output(output, line.replace("dogs", "dogs-3"))
    with pytest.raises(AssertionError):
        check_output(output, line.replace("dogs", "cats"))


def test_the_runs_of_a_reader_are_their_own(workplace):
    assert Runs(workplace.here / "runs").root.is_relative_to(workplace.here)
