"""Studies are read with care: each mistake is named with its file, line and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import DataProblem, StudyError, UserError
from orchestrator.history.record import Record, TrialRecord
from orchestrator.studies import registry, yamlfile
from orchestrator.studies.study import Budget, Failures, Finalists, Scheduler, SchedulerKind, Study
from orchestrator.studies.studyfile import build, change_study, load_study
from tasks.api import Choice, IntRange, LogUniform, Placement, Resources


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
        ("task: ring\nsearch: {trials: 1}\nresources: {processes: 1.5}\n", 3, "processes must be a whole number", None),
        ("task: ring\nsearch: {trials: 1}\nresources: {placement: pak}\n", 3, "there is no placement 'pak'", "pack"),
        ("task: toy\nsearch: {trials: 1}\nresources: {processes: 2}\n", 3, "runs in one process", "distributed=True"),
        ("task: toy\nsearch: {trials: 1}\npriority: 101\n", 3, "less than or equal to 100", None),
        ("task: toy\ntask: toy\n", 2, "given twice, first on line 1", None),
        ("task: toy\nsearch: {trials: [1\n", 3, "not valid YAML", None),
        ("task: toy\nname: ../out\nsearch: {trials: 1}\n", 2, "cannot be a study's name", None),
        ("task: toy\ndata: nowhere/at/all\nsearch: {trials: 1}\n", 2, "there is no data at", "data=PATH"),
        ("task: toy\nsearch: {}\n", 2, "how many trials", "add search.trials=16"),
        ("- task\n", None, "a mapping of keys", None),
        (
            "task: toy\nsearch:\n  trials: 2\n  scheduler: halving\n",
            4,
            "no scheduler 'halving'",
            "valid names: asha, hyperband, median, none, pbt",
        ),
        ("task: toy\nsearch:\n  trials: 2\n  scheduler: ahsa\n", 4, "search.scheduler", "did you mean 'asha'?"),
        (
            "task: toy\nsearch:\n  trials: 2\n  scheduler:\n    asha:\n      quantile: 0.2\n",
            6,
            "scheduler 'asha' has no key 'quantile'; its keys: grace, reduction",
            None,
        ),
        (
            "task: toy\nsearch:\n  trials: 2\n  scheduler:\n    kind: median\n    reduction: 2\n",
            6,
            "scheduler 'median' has no key 'reduction'; its keys: grace, min_trials",
            None,
        ),
        (
            "task: toy\nsearch:\n  trials: 2\n  scheduler:\n    kind: none\n    grace: 2\n",
            6,
            "scheduler 'none' has no key 'grace'; it has none",
            None,
        ),
        ("task: toy\nsearch:\n  trials: 2\n  scheduler: {grace: 2, reduction: 3}\n", 4, "no kind is named", "asha"),
        ("task: toy\nsearch:\n  trials: 2\n  scheduler: hyperband\n", 4, "hyperband needs max_steps", None),
        (
            "task: toy\nsearch:\n  trials: 2\n  scheduler:\n    hyperband:\n      max_steps: 0\n",
            6,
            "greater than or equal to 1, got 0",
            None,
        ),
        (
            "task: toy\nsearch:\n  trials: 2\n  scheduler:\n    pbt:\n      quantile: 0.6\n",
            6,
            "less than or equal to 0.5, got 0.6",
            None,
        ),
        ("task: toy\nsearch:\n  scheduler: pbt\n  trials: 1\n", 4, "population of 2 or more trials, got 1", None),
        ("task: toy\nsearch:\n  scheduler: pbt\n  trials: 2\n  space: {}\n", 3, "there are none", "add search.space"),
        (
            "task: toy\nsearch: {algorithm: grid, scheduler: pbt, space: {mood: {choice: [well]}}}\n",
            2,
            "population of 2 or more trials, got 1",
            None,
        ),
        (
            "task: toy\nsearch: {trials: 2, scheduler: pbt}\nfinalists: {top: 1}\n",
            3,
            "finalists",
            "leave finalists out",
        ),
        ("task: toy\nsearch: {trials: 2}\nfinalists:\n  seeds: 1\n", 4, "finalists.seeds", None),
        ("task: toy\nsearch: {trials: 2}\nfinalists:\n  best: 1\n", 4, "unknown key 'best'", "seeds, top"),
        ("task: toy\nsearch: {trials: 2}\nfinalists: 3\n", 3, "expected keys and values, got 3", None),
        ("task: toy\nsearch: {trials: 2}\nbudget:\n  hours: 0\n", 4, "budget.hours", None),
        ("task: toy\nsearch: {trials: 2}\nbudget:\n  gpu_hour: 1\n", 4, "unknown key", "did you mean 'gpu_hours'?"),
        ("task: toy\nsearch: {trials: 2}\nfailures:\n  retries: -1\n", 4, "failures.retries", None),
        ("task: toy\nsearch: {trials: 2}\nfailures:\n  stall_minutes: 0\n", 4, "failures.stall_minutes", None),
        ("task: toy\nsearch: {trials: 2}\ntracking:\n  url: x\n", 4, "unknown key 'url'", "did you mean 'uri'?"),
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
    study = load_study(name, check_data=False)
    assert study.name == name
    assert study.question.endswith("?")
    told = "give data=FOLDER"
    try:
        assert load_study(name) == study
    except DataProblem as lacking:  # what has no built-in data says what to give
        told = str(lacking)
    assert "give data=FOLDER" in told


def test_space_values_refuse_to_be_built_wrong():
    for wrong in (lambda: Choice(), lambda: LogUniform(0, 1), lambda: IntRange(3, 3), lambda: IntRange(0.5, 2)):
        with pytest.raises(ValueError, match=r"option|above 0|below|whole"):
            wrong()


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (None, {"kind": "none"}),
        ("asha", {"kind": "asha", "grace": 1, "reduction": 3}),
        ({"asha": None}, {"kind": "asha", "grace": 1, "reduction": 3}),
        ({"median": {"grace": 2}}, {"kind": "median", "grace": 2, "min_trials": 3}),
        ({"kind": "hyperband", "max_steps": 27}, {"kind": "hyperband", "reduction": 3, "max_steps": 27}),
        ({"pbt": {"interval": 4}}, {"kind": "pbt", "interval": 4, "quantile": 0.25, "resample": 0.25}),
    ],
)
def test_a_scheduler_is_written_with_the_keys_that_its_kind_uses(written, plain):
    study = build({"task": "toy", "search": {"trials": 4, "scheduler": written}})
    assert study.search.scheduler.to_plain() == plain
    assert build(study.to_plain()) == study


def test_hyperband_without_its_end_is_no_scheduler():
    with pytest.raises(ValueError, match="hyperband needs max_steps"):
        Scheduler(kind=SchedulerKind.HYPERBAND)


def test_failures_budget_and_finalists_survive_being_written_and_read(tmp_path):
    plain = {"task": "toy", "search": {"trials": 3}}
    study = build(plain)
    assert (study.failures, study.budget, study.finalists) == (Failures(retries=1), Budget(), None)
    assert build({**plain, "finalists": {}}).finalists == Finalists(top=3, seeds=5)
    full = build(
        {
            **plain,
            "failures": {"retries": 0, "max_failures": 0, "stall_minutes": 0.5},
            "budget": {"hours": 2, "gpu_hours": 0.5, "trials": 9, "failures": 4},
            "finalists": {"top": 1, "seeds": 2},
        }
    )
    path = tmp_path / "toy.yaml"
    path.write_text(yamlfile.dump(full.to_plain()))
    assert load_study(str(path)) == full
    assert load_study(str(path), ["finalists=null", "budget.hours=null"]).finalists is None


# ----------------------------------------------------------------------------------------- the study of a resumed run


def record_of(started=3, replicates=0, **raw):
    """A study of the toy whose journal holds this many trials."""
    search = {
        "trials": 4,
        "space": {"x": {"uniform": [-1, 1]}, "width": {"int_range": [1, 8]}},
        **raw.pop("search", {}),
    }
    record = Record(study=json.loads(json.dumps(build({"task": "toy", "search": search, **raw}).to_plain())))
    for i in range(started):
        record.trials[f"t{i:04d}"] = TrialRecord(f"t{i:04d}", 0, {}, (), 0.0)
    for i in range(replicates):
        record.trials[f"t0000-s{i}"] = TrialRecord(f"t0000-s{i}", 0, {}, (), 0.0, of="t0000")
    return record


def test_a_resumed_study_is_the_one_in_the_journal():
    record = record_of(finalists={}, search={"scheduler": {"asha": {"grace": 2}}})
    before = json.dumps(record.study)
    assert change_study(record, ()).to_plain() == record.study
    assert change_study(record, ["search.trials=9"]).search.trials == 9
    assert json.dumps(record.study) == before


def test_a_journal_of_the_first_version_resumes():
    record = record_of()
    for key in ("failures", "budget", "finalists"):
        del record.study[key]
    record.study["search"]["scheduler"] = {"kind": "none", "grace": 1, "reduction": 3}
    assert change_study(record, ()) == build(record_of().study)


@pytest.mark.parametrize(
    ("override", "part", "value"),
    [
        ("search.trials=3", lambda s: s.search.trials, 3),
        ("search.concurrent=1", lambda s: s.search.concurrent, 1),
        ("search.concurrent=auto", lambda s: s.search.concurrent, None),
        ("resources.cpus=2", lambda s: s.resources.cpus, 2),
        ("priority=7", lambda s: s.priority, 7),
        ("budget.hours=2.5", lambda s: s.budget.hours, 2.5),
        ("failures={retries: 3}", lambda s: s.failures, Failures(retries=3)),
        ("tracking.uri=http://elsewhere", lambda s: s.tracking.uri, "http://elsewhere"),
        ("question=Why?", lambda s: s.question, "Why?"),
        ("finalists={top: 2}", lambda s: s.finalists, Finalists(top=2)),
        ("finalists.seeds=9", lambda s: s.finalists, Finalists(seeds=9)),
    ],
)
def test_what_leaves_trials_comparable_can_change(override, part, value):
    assert part(change_study(record_of(), [override])) == value


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("task=dogs", "what has run is task 'toy'"),
        ("name=other", "its runs in MLflow are called 'toy'"),
        ("data=/", "was measured on builtin"),
        ("data=/nowhere", "was measured on builtin"),
        ("seed=1", "from seed 0"),
        ("params.steps=7", "ran with 3; with another value"),
        ("params={steps: 7}", "params.steps: what finished ran with 3"),
        ("params.steps=many", "ran with 3; with another value"),
        ("params.x=0.5", "it is searched"),
        ("params.x=0", "it is searched"),  # its default, but to give it would be to fix it
        ("search.metric=seed", "was judged by 'loss'"),
        ("search.goal=max", "was ranked by 'min'; another goal would make it incomparable"),
        ("search.algorithm=tpe", "was chosen by 'random'"),
        ("search.scheduler=asha", "by the rules of 'none'"),
        ("search.scheduler.grace=2", "by the rules of 'none'"),
        ("search.space.x={uniform: [0, 1]}", "chosen from {'uniform': [-1, 1]}"),
        ("search.space.mood={choice: [well]}", "search.space: what finished was chosen from x, width"),
        ("search.space={x: {uniform: [-1, 1]}}", "search.space.width: what finished"),
        ("search.space={width: {int_range: [1, 8]}, x: {uniform: [-1, 1]}}", "chosen from x, width"),  # order
        ("search={trials: 9}", "search.space.x: what finished"),
        ("search.trials=2", "3 trials have started already, more than 2"),
    ],
)
def test_what_would_make_trials_incomparable_is_refused(override, why):
    with pytest.raises(StudyError) as caught:
        change_study(record_of(), [override])
    assert str(caught.value).startswith(f"{override}: ")
    assert why in str(caught.value)
    assert f"start it as a new study: orchestrator run STUDY '{override}'" in caught.value.hint
    assert ("name=NEW" in caught.value.hint) == (not override.startswith("name="))


def test_every_part_of_a_study_either_may_change_or_is_fixed():
    fixed = {key.split(".")[0] for key in build(record_of().study).fixed()}
    free = {"question", "finalists", "priority", "resources", "failures", "budget", "tracking", "notify"}
    assert fixed | free == set(Study.model_fields)
    assert fixed & free == set()


@pytest.mark.parametrize(
    "override",
    ["search.goal=min", "seed=0", "search.space.x={uniform: [-1.0, 1]}", "params.steps=3", "data=builtin", "task=toy"],
)
def test_what_has_this_value_already_is_no_change(override):
    record = record_of()
    assert change_study(record, [override, "search.trials=8"]) == change_study(record, ["search.trials=8"])


def test_a_mistake_in_a_change_is_named_as_in_any_override():
    with pytest.raises(StudyError, match=r"search\.trials=none: .*got 'none'"):
        change_study(record_of(), ["seed=0", "search.trials=none"])
    with pytest.raises(StudyError, match=r"params\.stepz=3: unknown key 'stepz'"):
        change_study(record_of(), ["params.stepz=3"])


@pytest.mark.parametrize("scheduler", [{"hyperband": {"max_steps": 9}}, "pbt"])
def test_the_number_of_trials_stays_where_they_wait_for_each_other(scheduler):
    record = record_of(search={"scheduler": scheduler})
    with pytest.raises(StudyError, match="shares its trials out when it begins"):
        change_study(record, ["search.trials=9"])
    assert change_study(record, ["search.trials=4"]) == change_study(record, ())


def test_finalists_that_have_started_become_no_fewer():
    waiting, begun = record_of(4, finalists={}), record_of(4, replicates=2, finalists={})
    assert change_study(waiting, ["finalists.top=1", "finalists.seeds=2"]).finalists == Finalists(top=1, seeds=2)
    assert change_study(waiting, ["finalists=null"]).finalists is None
    assert change_study(begun, ["finalists={top: 4, seeds: 6}"]).finalists == Finalists(top=4, seeds=6)
    with pytest.raises(StudyError, match="2 runs of finalists have started already, planned with seeds=5, more than 4"):
        change_study(begun, ["finalists.seeds=4"])
    with pytest.raises(StudyError, match="planned with top=3, more than 2"):
        change_study(begun, ["finalists.top=2"])
    with pytest.raises(StudyError, match="2 of their runs have started already"):
        change_study(begun, ["finalists=null"])


def test_a_resume_says_when_the_data_is_gone_or_wrong(tmp_path):
    data = tmp_path / "pets"
    data.mkdir()
    record = record_of(data=str(data))
    assert change_study(record, ()).data == data
    data.rmdir()
    with pytest.raises(StudyError, match="its data is no longer at"):
        change_study(record, ())
    with pytest.raises(StudyError, match="ended before it began"):
        change_study(Record(), ())


def test_the_task_looks_at_the_data_of_a_resumed_study(tmp_path):
    photos = tmp_path / "empty"
    photos.mkdir()
    plain = {**build({"task": "dogs", "search": {"trials": 1}}).to_plain(), "data": str(photos)}
    with pytest.raises(DataProblem):
        change_study(Record(study=plain), ())


def test_a_trial_of_several_processes_comes_back_from_plain_values():
    study = build({"task": "ring", "search": {"trials": 1}, "resources": {"processes": 4, "placement": "pack"}})
    assert study.resources == Resources(cpus=1, gpus=0, processes=4, placement=Placement.PACK)
    assert study.to_plain()["resources"] == {"cpus": 1, "gpus": 0, "processes": 4, "placement": "pack"}
    assert build(study.to_plain()) == study
