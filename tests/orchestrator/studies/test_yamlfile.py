"""YAML that is no study: named with its line, never run, never too much."""

from __future__ import annotations

import pytest

from orchestrator.errors import StudyError
from orchestrator.studies.studyfile import load_study
from orchestrator.studies.yamlfile import load, parse_value

OUTSIDE = ["../x", "..", "a/../../x", "/etc/x", "."]


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
BAD_YAML = {
    "object": ("task: !!python/object/apply:os.system ['touch hacked']\n", "python/object"),
    "name": ("task: toy\nname: !!python/name:os.system\n", "python/name"),
    "new": ("task: toy\nparams: !!python/object/new:os.system ['touch hacked']\n", "python/object/new"),
    "own": ("task: toy\nparams: !mine {x: 1}\n", "!mine"),
    "key": ("? !!python/object/apply:os.system ['touch hacked']\n: 1\n", "a key is a word"),
    "laughs": (LAUGHS, "more than 100000 values"),
    "itself": ("task: &a [*a]\n", "nested more than 50 deep"),
    "merged": ("task: toy\nparams: &a {<<: *a}\n", "nested more than"),
    "twice": ("task: toy\ntask: dogs\n", "given twice, first on line 1"),
    "twice below": ("task: toy\nsearch:\n  trials: 1\n  trials: 2\n", "given twice, first on line 3"),
    "deep": ("task: " + "[" * 100 + "]" * 100, "nested more than 50 deep"),
    "very deep": ("task: " + "[" * 100_000, "nested more than 50 deep"),
    "deep maps": ("task: " + "{a: " * 5000, "nested more than 50 deep"),
    "date": ("task: toy\nquestion: 2024-01-01\n", "quote it"),
    "no date": ("task: toy\nquestion: 2024-99-99\n", "quote it"),
    "bytes": ("task: toy\nquestion: !!binary aGk=\n", "binary is no plain value"),
    "no number": ("task: toy\nseed: !!int x\n", "not valid YAML"),
    "no bool": ("task: toy\nseed: !!bool x\n", "not valid YAML"),
    "long number": (f"task: toy\nseed: {'9' * 5000}\n", "not valid YAML"),
    "control": ("task: toy\nname: \0\n", "not valid YAML"),
    "two": ("task: toy\n---\ntask: dogs\n", "not valid YAML"),
    "none": ("", "a study is a mapping"),
    "a list": ("[task, toy]", "a study is a mapping"),
    "huge": ("task: toy\nquestion: " + "x" * 2_000_000, "at most 1 MB"),
    "no alias": ("task: *missing\n", "not valid YAML"),
    "no anchor's merge": ("task: toy\n<<: 5\n", "not valid YAML"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_file_is_named_and_nothing_else_happens(command, runs, tmp_path, monkeypatch, case):
    text, says = BAD_YAML[case]
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    code, out, err = command("run", str(file))
    assert code == 2
    assert says in err
    assert str(file) in err
    assert "Traceback" not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml"]


def test_a_file_that_is_no_text_is_named(command, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"task: \xff\xfe\n")
    code, _, err = command("plan", str(tmp_path / "bad.yaml"))
    assert code == 2
    assert "cannot be read" in err


@pytest.mark.parametrize(
    "override",
    [
        "params.x=!!python/object/apply:os.system ['touch hacked']",
        "search.space={a: 1, a: 2}",
        "search=" + LAUGHS.replace("\n", ", ").join("{}"),
        "params=" + "[" * 1000,
        "params=" + "[" * 200 + "]" * 200,
        "params={a: &a [*a]}",
        "question=2024-01-01",
        "seed=!!int x",
        f"seed={'9' * 5000}",
        "search=5",
        "search.space=[1, 2]",
        "search.space.x=5",
        "params.x.y=1",
        "data=" + "x" * 5000,
        "data=~nobody/x",
        "name=",
        "=x",
        "..=x",
        "search.space.x={choice: [1], when: {a: &b [*b]}}",
    ],
)  # fmt: skip
def test_a_bad_override_is_refused(command, runs, tmp_path, monkeypatch, override):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "good.yaml"
    file.write_text("task: toy\nsearch: {trials: 1, space: {x: {uniform: [-1, 1]}}}\n")
    code, out, err = command("run", str(file), override, "params.width=3")
    assert code == 2, err
    assert "Traceback" not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.yaml"]


def test_a_searched_parameter_beside_a_search_that_is_none(tmp_path):
    for bad in ("search: 5", "search: {space: [1]}", "search: {trials: 1, space: 5}"):
        (tmp_path / "s.yaml").write_text(f"task: toy\n{bad}\n")
        with pytest.raises(StudyError):
            load_study(str(tmp_path / "s.yaml"), ["params.x=1"])


def test_aliases_that_save_typing_are_read(tmp_path):
    (tmp_path / "s.yaml").write_text("a: &a {x: 1e-3, y: [1, '2024-01-01']}\nb: {<<: *a, z: *a}\n")
    read, lines = load(tmp_path / "s.yaml")
    plain = {"x": 1e-3, "y": [1, "2024-01-01"]}
    assert read == {"a": plain, "b": {**plain, "z": plain}}
    assert lines[("b", "z")] == 2
    assert parse_value("", "params.x=") is None
