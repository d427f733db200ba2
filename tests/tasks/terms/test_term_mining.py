"""The whole of it on small corpora: known answers, bad input, what is counted again, workers and memory."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeContext
from stores import Stored

from tasks.api import InputError, Row, Support
from tasks.terms import STEPS, TASK, builtin, check, conclude, dictionary
from tasks.terms.mine import _buckets
from tasks.terms.readers import LONG

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(session_cache):
    return builtin.ensure(session_cache)


@pytest.fixture(scope="module")
def mined(session_cache, tmp_path_factory):
    """The defaults on the built-in field: context and metrics."""
    context = FakeContext(tmp_path_factory.mktemp("mined"), cache=session_cache)
    return context, dict(TASK.run(TASK.params(), context))


def run(folder, cache, data, context=None, **params):
    context = context or FakeContext(folder, data=data, cache=cache)
    return context, dict(TASK.run(TASK.params(**params), context))


def digest(context):
    return hashlib.sha256(context.artifact("terms.tsv").read_bytes()).hexdigest()


# -------------------------------------------------------------------------------------------------------- known answer


def test_planted_terms_are_found(mined):
    context, metrics = mined
    assert metrics["judged"] == 100
    assert metrics["precision"] >= 0.9
    assert metrics["precision"] > metrics["baseline"]
    assert metrics["recall/at_1000"] == 1
    assert metrics["confirmed"] > 0.5  # half of the planted words end in a part of a word
    steps = [step for step, _ in context.reports]
    assert steps == [k for k in STEPS if k < metrics["terms"]] + [metrics["terms"]]
    at_100 = dict(context.reports)[100]
    assert at_100["curve/precision"] == metrics["precision/at_100"]
    assert conclude([Row("t", {}, metrics)]).support is Support.SUPPORTED


def test_the_table_and_the_figures(mined):
    context, metrics = mined
    header, *lines = context.artifact("terms.tsv").read_text("utf-8").splitlines()
    assert header.split("\t")[:4] == ["rank", "term", "score", "frequency"]
    assert len(lines) == metrics["terms"]
    rows = [line.split("\t") for line in lines]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    scores = [float(row[2]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows[:50]:
        assert row[9] == ("known" if row[1] in dictionary.words() else "new")
        assert set(row[10].split()) <= {other[1] for other in rows} - {row[1]}
    for name in ("scores.png", "map.png"):
        assert context.artifact(name).read_bytes()[:4] == b"\x89PNG"


def test_jieba_loads_the_dictionary_and_cuts_by_it(mined, made):
    jieba = pytest.importorskip("jieba")
    context, _ = mined
    jieba.setLogLevel(60)
    new = [t for t in made.gold.read_text("utf-8").split() if t not in dictionary.words()]
    tokenizer = jieba.Tokenizer()
    tokenizer.tmp_dir = str(context.folder)
    tokenizer.load_userdict(str(context.artifact("userdict.txt")))
    assert sum(term in tokenizer.lcut(f"这是{term}的", HMM=False) for term in new) >= 0.9 * len(new)


def test_frequencies_are_those_of_the_text(mined, made):
    context, _ = mined
    corpus, background = made.corpus.read_text("utf-8"), made.background.read_text("utf-8")
    for line in context.artifact("terms.tsv").read_text("utf-8").splitlines()[1:60]:
        _, term, _, frequency, as_word, *_, there, _, _ = line.split("\t")
        assert int(frequency) >= corpus.count(term) >= int(as_word)
        assert int(there) >= background.count(term)


# ---------------------------------------------------------------------------------------------------- same, and shared


def test_no_number_of_workers_shards_or_buckets_changes_the_result(tmp_path, made, session_cache):
    text = made.corpus.read_text("utf-8").splitlines(keepends=True)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for part in range(4):
        (folder / f"{part}.txt").write_text("".join(text[part::4]), "utf-8")
    given = {"background": str(made.background), "gold": str(made.gold)}
    results = []
    for workers, buckets in ((0, 1), (2, 5), (0, 13)):
        context = Stored(tmp_path / f"{buckets}", workers, data=folder, cache=tmp_path / f"cache-{buckets}")
        _, metrics = run(None, None, None, context, buckets=buckets, **given)
        results.append((metrics, digest(context)))
    assert results[0] == results[1] == results[2]


def test_a_file_more_counts_only_that_file(tmp_path, made):
    text = made.corpus.read_text("utf-8").splitlines(keepends=True)
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "b.txt").write_text("".join(text[:2000]), "utf-8")
    given = {"background": str(made.background), "gold": str(made.gold), "buckets": 3}

    def counted(number, **more):
        context = Stored(tmp_path / str(number), data=folder, cache=tmp_path / "cache")
        run(None, None, None, context, **given, **more)
        return {name: len(context.computed[name]) for name in ("corpus-count", "background-count", "merge")}

    assert counted(1) == {"corpus-count": 1, "background-count": 1, "merge": 3}
    assert counted(2) == {"corpus-count": 0, "background-count": 0, "merge": 0}
    assert counted(3, min_pmi=1.0, ranking="contrast") == {"corpus-count": 0, "background-count": 0, "merge": 0}
    (folder / "a.txt").write_text("".join(text[2000:]), "utf-8")
    assert counted(4) == {"corpus-count": 1, "background-count": 0, "merge": 3}
    (folder / "c.txt").write_text("".join(text[:2000]), "utf-8")  # what is counted already, under another name
    assert counted(5)["corpus-count"] == 0


def test_less_memory_means_more_buckets(made, session_cache, tmp_path):
    context = FakeContext(tmp_path, cache=session_cache)
    run(None, None, None, context, memory_mb=8)
    assert context.mapped["merge"] == 1
    by_memory = [_buckets(10**9, max_length, memory) for max_length in (8, 12) for memory in (8, 256, 1 << 20)]
    assert by_memory == sorted(by_memory[:3], reverse=True) + sorted(by_memory[3:], reverse=True)
    assert by_memory[0] < by_memory[3]
    assert by_memory[2] == 64


def test_the_same_text_twice_counts_twice(tmp_path, made):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_bytes(made.corpus.read_bytes())
    given = {"background": str(made.background)}
    _, once = run(tmp_path / "1", tmp_path / "cache", made.corpus, **given)
    _, twice = run(tmp_path / "2", tmp_path / "cache", folder, **given)
    assert twice["corpus/characters"] == 2 * once["corpus/characters"]


MEMORY = """
import resource, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import numpy as np, stores
from tasks.terms import TASK
from tasks.terms.corpus import Corpus, read_corpus
from tasks.terms import mine, discover
def data(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
root, buckets = Path(sys.argv[3]), int(sys.argv[4])
params = TASK.params(buckets=buckets, min_pmi=-100, min_entropy=0, min_count=2, shard_mb=1)
context = stores.Stored(root / str(buckets), data=root / "a.txt", cache=root / "cache")
corpus = read_corpus(params, context, context.data, "corpus", True)  # 1 MiB at once, whatever the size
nothing = Corpus((), (), corpus.handle, corpus.totals)
limit = data() + int(sys.argv[5])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    trees = mine.grow_trees(params, context, corpus, nothing)
except MemoryError:
    print("out of memory")
    raise SystemExit
print(sum(len(level.key) for handle in trees for level in handle.load()))
"""


def test_more_buckets_keep_to_a_tenth_of_the_n_gram_table(tmp_path):
    rng = np.random.default_rng(0)
    codes = (0x4E00 + rng.zipf(1.2, 4_000_000) % 3000).astype(np.uint16)
    codes[::20] = ord("\n")
    (tmp_path / "a.txt").write_text(codes.tobytes().decode("utf-16-le"), "utf-8")
    # Nearly every position begins a new n-gram of each length from 4 on: a table of codes and counts, 16 bytes a row.
    table = 5 * 0.8 * len(codes) * 16
    results = []
    for buckets in (1, 64):
        command = [sys.executable, "-c", MEMORY, str(ROOT), str(Path(__file__).parent), str(tmp_path), str(buckets)]
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([*command, str(int(table / 10))], capture_output=True, text=True, env=paths, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(done.stdout.strip())
    assert results[0] == "out of memory"
    assert int(results[1]) > 100_000


# ----------------------------------------------------------------------------------------------------------- bad input


def write(folder, name, text):
    path = folder / name
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no Chinese"),
        ("\n\n\n", "holds no Chinese"),
        ("no Chinese here\n" * 100, "holds no Chinese.*params.letters=true"),
        ("电压电流电阻电容\n", "no string passes as a word: lower params.min_count"),
    ],
)
def test_a_corpus_without_words_says_what_to_do(tmp_path, made, text, message):
    data = write(tmp_path, "a.txt", text)
    with pytest.raises(InputError, match=message):
        run(tmp_path, tmp_path, data, background=str(made.background))


def test_a_single_line_of_several_megabytes(tmp_path, made):
    sentences = made.corpus.read_text("utf-8").split("\n")
    data = write(tmp_path, "a.txt", "".join(sentences * 18))
    assert data.stat().st_size > 3 * LONG
    _, metrics = run(tmp_path, tmp_path, data, background=str(made.background), gold=str(made.gold))
    assert metrics["corpus/lines"] == 4
    assert metrics["precision"] > 0.5


def test_letters_and_digits_on_request(tmp_path):
    rng = np.random.default_rng(0)
    words = ["igbt", "pwm3", "rotor", "stator", "x", "y", "z", "voltage"]
    lines = ["".join(rng.choice(words, 6)) for _ in range(500)]
    data = write(tmp_path, "a.txt", "\n".join(lines))
    _, metrics = run(tmp_path, tmp_path, data, letters=True, min_entropy=0.5)
    terms = context_terms(tmp_path)
    assert metrics["corpus/characters"] > 10_000
    assert {"rotor", "pwm3", "voltage", "stator"} <= set(terms[:5])


def context_terms(folder):
    lines = (folder / "artifacts" / "terms.tsv").read_text("utf-8").splitlines()[1:]
    return [line.split("\t")[1] for line in lines]


def test_an_empty_background_is_named(tmp_path, made):
    empty = write(tmp_path, "b.txt", "")
    with pytest.raises(InputError, match=r"params.background=.*b.txt"):
        run(tmp_path, tmp_path, made.corpus, background=str(empty))


def test_a_corpus_that_equals_its_background_has_no_terms_of_its_own(tmp_path, made):
    _, metrics = run(tmp_path, tmp_path, made.corpus, background=str(made.corpus))
    assert metrics["confirmed"] == 0
    assert conclude([Row("t", {}, metrics)]).support is Support.UNDECIDED


def test_without_a_background_the_dictionary_stands_in(tmp_path, made):
    _, metrics = run(tmp_path, tmp_path, made.corpus, gold=str(made.gold))
    assert metrics["background/characters"] > 50_000_000
    assert metrics["precision"] > 0.5


def test_broken_lines_are_reported(tmp_path, made):
    data = tmp_path / "a.txt"
    data.write_bytes(made.corpus.read_bytes() + b"\xff\xfe broken\n")
    _, metrics = run(tmp_path, tmp_path, data, background=str(made.background))
    assert metrics["corpus/broken_lines"] == 1
    assert metrics["corpus/lines"] == 4001


@pytest.mark.parametrize("option", ["gold", "non_terms"])
def test_lists_are_looked_at_before_anything_starts(tmp_path, made, option):
    with pytest.raises(InputError, match=f"params.{option}=.*no such file"):
        check(TASK.params(**{option: str(tmp_path / "missing")}), made.corpus)
    blank = write(tmp_path, "blank.txt", "\n \n")
    with pytest.raises(InputError, match=f"params.{option}=.*has no term"):
        check(TASK.params(**{option: str(blank)}), None)


def test_missing_files_and_idle_weights_are_found_before_anything_starts(tmp_path, made):
    with pytest.raises(InputError, match="does not exist"):
        check(TASK.params(), tmp_path / "missing.txt")
    with pytest.raises(InputError, match="does not exist"):
        check(TASK.params(background=str(tmp_path / "missing.txt")), made.corpus)
    with pytest.raises(InputError, match="all 0"):
        check(TASK.params(weight_contrast=0, weight_composition=0, weight_form=0), None)
    check(TASK.params(background=str(made.background), gold=str(made.gold)), made.corpus)


def test_a_gold_list_of_which_nothing_occurs(tmp_path, made):
    gold = write(tmp_path, "gold.txt", "绝无此词\n\nＡ\n")
    _, metrics = run(tmp_path, tmp_path, made.corpus, background=str(made.background), gold=str(gold))
    assert metrics["precision"] == 0
    assert metrics["gold/findable"] == 0
    assert all(math.isfinite(value) for value in metrics.values())


def test_verdicts():
    row = {"judged": 100.0, "confirmed": 0.5, "confirmed_low": 0.4, "confirmed_high": 0.6}
    assert conclude([Row("t", {}, row)]).support is Support.UNDECIDED
    ours = {**row, "precision": 0.4, "precision_low": 0.3, "precision_high": 0.5, "baseline": 0.7}
    assert conclude([Row("t", {}, ours)]).support is Support.NOT_SUPPORTED
    assert conclude([Row("t", {}, {**ours, "baseline": 0.38})]).support is Support.UNDECIDED
    assert "optimistic" in conclude([Row("t", {}, ours)] * 2).sentence
