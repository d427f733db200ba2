"""Studies are read with care: each mistake is named with its file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import registry, yamlfile
from orchestrator.errors import StudyError, UserError
from orchestrator.study import build, load_study
from tasks.api import Choice, IntRange, LogUniform


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


GOOD = """\
task: toy
params: {steps: 2}
search:
  trials: 4
  space:
    x: {uniform: [-1, 1]}
    width: {int_range: [1, 64], log: true, when: {mood: well}}
"""


@pytest.mark.parametrize(
    ("text", "line", "says", "hint"),
    [
        ("task: toy\nserach: {}\n", 2, "unknown key 'serach'", "did you mean 'search'?"),
        ("task: tyo\nsearch: {trials: 1}\n", 1, "there is no task 'tyo'", "did you mean 'toy'?"),
        ("task: toy\nsearch:\n  trials: 0\n", 3, "search.trials", None),
        ("task: toy\nsearch:\n  trials: many\n", 3, "search.trials", None),
        ("task: toy\nsearch:\n  trials: 2\n  trails: 3\n", 4, "unknown key 'trails'", "did you mean 'trials'?"),
        ("task: toy\nparams:\n  stepz: 3\nsearch: {trials: 1}\n", 3, "unknown key 'stepz'", "did you mean 'steps'?"),
        ("task: toy\nparams:\n  steps: two\nsearch: {trials: 1}\n", 3, "params.steps", None),
        (
            "task: toy\nsearch:\n  trials: 2\n  space:\n    x: {uniform: [1, -1]}\n",
            5,
            "not below the upper bound",
            None,
        ),
        ("task: toy\nsearch:\n  trials: 2\n  space:\n    x: {uniform: [-3, 1]}\n", 5, "x=-3 is not valid", None),
        ("task: toy\nsearch:\n  trials: 2\n  space:\n    y: {uniform: [-1, 1]}\n", 5, "no parameter 'y'", None),
        ("task: toy\nsearch:\n  trials: 2\n  space:\n    x: {log_uniform: [-1, 1]}\n", 5, "above 0", None),
        ("task: toy\nsearch:\n  trials: 2\n  space:\n    x: 3\n", 5, "exactly one kind of range", None),
        ("task: toy\nsearch:\n  trials: 2\n  metric: los\n", 4, "does not report 'los'", "did you mean 'loss'?"),
        ("task: toy\nsearch:\n  trials: 2\n  algorithm: annealing\n", 4, "search.algorithm", None),
        ("task: toy\nsearch: {trials: 1}\nresources: {cpus: 0}\n", 3, "cpus must be above 0", None),
        ("task: toy\nsearch: {trials: 1}\nresources: {gpus: 1.5}\n", 3, "gpus above 1 must be whole", None),
        ("task: toy\ntask: toy\n", 2, "given twice, first on line 1", None),
        ("task: toy\nsearch: {trials: [1\n", 3, "not valid YAML", None),
        ("task: toy\nname: ../out\nsearch: {trials: 1}\n", 2, "cannot be a study's name", None),
        ("task: toy\ndata: nowhere/at/all\nsearch: {trials: 1}\n", 2, "there is no data at", "data=PATH"),
        ("task: toy\nsearch: {}\n", 2, "how many trials", "add search.trials=16"),
        ("- task\n", None, "a mapping of keys", None),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, text, line, says, hint):
    with pytest.raises(UserError) as caught:
        load_study(write(tmp_path, text))
    message = str(caught.value)
    assert says in message
    assert f"mine.yaml:{line}" in message if line else "mine.yaml" in message
    if hint:
        assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_overrides_reach_every_depth_and_are_named_in_errors(tmp_path):
    path = write(tmp_path, GOOD)
    study = load_study(path, ["search.trials=9", "search.space.x={uniform: [0, 1]}", "seed=5"])
    assert (study.search.trials, study.search.space["x"].low, study.seed) == (9, 0, 5)
    with pytest.raises(StudyError, match=r"search\.trials=none.*|got 'none'"):
        load_study(path, ["search.trials=none"])
    with pytest.raises(StudyError, match="written key=value"):
        load_study(path, ["search.trials"])


def test_a_parameter_given_a_value_is_searched_no_longer(tmp_path):
    study = load_study(write(tmp_path, GOOD), ["params.x=0.25"])
    assert "x" not in study.search.space
    assert study.params_of({}).x == 0.25


def test_a_fixed_parameter_leaves_the_tasks_own_space_too(tmp_path):
    path = write(tmp_path, "task: toy\nsearch: {trials: 2}\n")
    assert set(load_study(path).search.space) == {"x", "mood"}
    assert set(load_study(path, ["params.x=0.25"]).search.space) == {"mood"}
    both = write(tmp_path, "task: toy\nparams: {x: 0}\nsearch: {trials: 2, space: {x: {uniform: [0, 1]}}}\n")
    assert set(load_study(both).search.space) == {"x"}  # the file asks for it in so many words


def test_conditions_on_fixed_parameters_are_settled_when_the_study_is_read(tmp_path):
    path = write(tmp_path, GOOD)
    assert load_study(path).search.space["width"] == IntRange(1, 64, log=True)
    assert "width" not in load_study(path, ["params.mood=nan"]).search.space
    chosen = load_study(path, ["search.space.width={choice: [1, 2], when: {mood: well}}"]).search.space["width"]
    assert chosen == Choice(1, 2)
    assert "hidden" not in load_study("dogs", ["params.head=linear"]).search.space
    assert load_study("dogs", ["params.head=glu"]).search.space["hidden"].when is None


def test_a_condition_on_what_is_searched_below_or_unknown_is_refused(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(StudyError, match="'width' depends on 'mood', which stands below it"):
        load_study(path, ["search.space.mood={choice: [well, nan]}"])
    with pytest.raises(StudyError, match="'x' depends on 'mod', which is no parameter"):
        load_study(path, ["search.space.x={uniform: [0, 1], when: {mod: well}}"])


def test_a_study_survives_being_written_and_read(tmp_path):
    raw = {
        "task": "toy",
        "search": {
            "trials": 3,
            "scheduler": {"asha": {"grace": 2}},
            "space": {
                "mood": {"choice": ["well", "nan"]},
                "x": {"uniform": [0.1, 1], "points": 3},
                "width": {"int_range": [1, 8], "log": True, "when": {"mood": "well"}},
            },
        },
    }
    study = build(raw)
    path = tmp_path / "again.yaml"
    path.write_text(yamlfile.dump(study.to_plain()))
    assert load_study(str(path)) == study
    assert study.search.space["width"] == IntRange(1, 8, log=True, when={"mood": "well"})


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    path = tmp_path / "n.yaml"
    path.write_text("a: 1e-3\nb: [1E4, -2.5e+1]\nc: e3\n")
    assert yamlfile.load(path)[0] == {"a": 1e-3, "b": [1e4, -25.0], "c": "e3"}


def test_data_is_found_by_name_under_orchestrator_data(tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path))
    assert build({"task": "toy", "data": "pets", "search": {"trials": 1}}).data == tmp_path / "pets"


@pytest.mark.parametrize("name", registry.study_names())
def test_every_shipped_study_is_valid(name):
    study = load_study(name)
    assert study.name == name
    assert study.question.endswith("?")


def test_space_values_refuse_to_be_built_wrong():
    for wrong in (lambda: Choice(), lambda: LogUniform(0, 1), lambda: IntRange(3, 3), lambda: IntRange(0.5, 2)):
        with pytest.raises(ValueError, match=r"option|above 0|below|whole"):
            wrong()
