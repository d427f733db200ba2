"""Term mining: discovery beside its peers, a large corpus, and how good the terms are.

    python tests/benchmarks/terms.py [--quick]

Discovery: each tool alone, a whole process from its start to its list on the disk, on the same 5 MB of papers (electric
power, then others), each with its defaults, the tools in turn, three rounds (one with ``--quick``); a tool's best time
counts, since others may use the machine too.
A list is judged in its own order, words of one character left out; recall is of the gold terms that occur at least five
times, and is compared at the length of the peer's list. Peers are installed from PyPI into an environment of their own,
once, below the system's folder for temporary files. The law corpus and the quality of terms go through ``orchestrator
run`` with everything on; memory there is what all of its processes, Ray's too, hold privately at the same time.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

from running import Bench  # noqa: E402

DATA = Path(os.environ.get("ORCHESTRATOR_REAL_DATA", ROOT.parent / "shared" / "data")) / "terms"
PEERS = ("nlp-zero==0.1.6", "jionlp==1.5.31", "jiagu==0.2.3", "smoothnlp==0.4.0")
ENVIRONMENT = Path(tempfile.gettempdir()) / "orchestrator-term-peers"
MEGABYTES = 5

# Each gets a text and where to write its words, best first.
PEER = """
import collections, collections.abc, io, logging, sys
from contextlib import redirect_stdout
collections.Iterable = collections.abc.Iterable  # nlp-zero is older than Python 3.10
logging.disable(logging.CRITICAL)
tool, text, target = sys.argv[1:]

class Lines:
    def __iter__(self):
        with open(text, encoding="utf-8") as file:
            yield from map(str.strip, file)

def nlp_zero():
    from nlp_zero import Word_Finder
    finder = Word_Finder(min_proba=1e-8)
    finder.train(Lines())
    finder.find(Lines())
    return sorted(finder.words, key=lambda word: -finder.words[word])

def jionlp():
    from jionlp.algorithm.new_word.new_word_discovery import new_word_discovery
    return list(new_word_discovery(text))

def jiagu():
    import jiagu
    jiagu.findword(text, target)
    with open(target, encoding="utf-8") as file:
        return [line.split("\\t")[0] for line in file]

def smoothnlp():
    from smoothnlp.algorithm.phrase import extract_phrase
    with open(text, encoding="utf-8") as file:
        return extract_phrase(file.read(), top_k=20_000)

with redirect_stdout(io.StringIO()):
    words = globals()[tool.replace("-", "_")]()
with open(target, "w", encoding="utf-8") as file:
    file.write("\\n".join(words))
"""

OURS = """
import sys, time
from pathlib import Path
root, *thresholds, text, target = sys.argv[1:]
sys.path.insert(0, root)
from tasks.terms import TASK, rank
from tasks.terms.corpus import Corpus, read_corpus
from tasks.terms.discover import Wanted
from tasks.terms.mine import discover, grow_trees

class Here:
    def __init__(self, result): self.result = result
    def load(self): return self.result

class Results(list):
    handles = property(lambda self: [Here(result) for result in self])

class Context:
    cache = Path(target).parent
    def map(self, function, items, name=None, keys=None): return Results(map(function, items))

began = time.process_time()
params, context = TASK.params(), Context()
corpus = read_corpus(params, context, Path(text), "corpus", sides=True)
trees = grow_trees(params, context, corpus, Corpus((), (), corpus.handle, corpus.totals))
_, found = discover(context, corpus, trees, Wanted(*map(float, thresholds)))
words = found.take(rank.best(rank.wordhood(found), len(found))).texts()
Path(target).write_text("\\n".join(words), "utf-8")
print(time.process_time() - began)
"""
ANY, DEFAULTS = ("0", "-1e9"), ("1", "2")  # least entropy and PMI: of all that occurs five times, and the task's own


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds of a process, the megabytes it held at most, and what it printed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - began, used.ru_maxrss * 1024 / 1e6, printed


def peers() -> Path:
    """The Python of the peers' environment."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "complete").exists():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PEERS], check=True)
        (ENVIRONMENT / "complete").touch()
    return python


def gold_in(text: str, name: str) -> tuple[set[str], set[str]]:
    """A gold list, and those of its terms that occur at least five times in a text."""
    terms = {line.strip() for line in (DATA / name).read_text("utf-8").splitlines()} - {""}
    return terms, {term for term in terms if text.count(term) >= 5}


def beside_peers(scratch: Path, rounds: int) -> list[Bar]:
    """Time, memory, precision and recall of discovery on 5 MB, ours and theirs."""
    whole = (DATA / "domain_power.txt").read_bytes() + gzip.decompress(
        (DATA / "background_science.txt.gz").read_bytes()
    )
    text = whole[: MEGABYTES * 1_000_000].decode("utf-8", "ignore")
    (scratch / "text.txt").write_text(text, "utf-8")
    python, tools = str(peers()), [peer.partition("==")[0] for peer in PEERS]
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    for _ in range(rounds):
        for tool in tools:
            for name, command in (
                ("ours", [sys.executable, "-c", OURS, str(ROOT), *ANY]),
                (tool, [python, "-c", PEER, tool]),
            ):
                took, held, _ = timed([*command, str(scratch / "text.txt"), str(scratch / f"{name}.words")])
                seconds.setdefault(name, []).append(took)
                memory[name] = max(memory.get(name, 0), held)
    gold, findable = gold_in(text, "gold_power_wide.txt")
    words = {
        name: [word for word in (scratch / f"{name}.words").read_text("utf-8").split("\n") if len(word) > 1]
        for name in ("ours", *tools)
    }
    precision = {name: sum(word in gold for word in listed[:1000]) / 1000 for name, listed in words.items()}
    recall = {name: len(findable.intersection(listed)) / len(findable) for name, listed in words.items()}
    at_length = {tool: len(findable.intersection(words["ours"][: len(words[tool])])) / len(findable) for tool in tools}
    for name in ("ours", *tools):
        spread = f"{min(seconds[name]):.2f}–{max(seconds[name]):.2f}"
        lead = f", ours as long {at_length[name]:.3f}" if name in at_length else ""
        print(
            f"{name}: {spread} s, {memory[name]:.0f} MB, {len(words[name])} words, P@1000 {precision[name]:.3f}, "
            f"recall {recall[name]:.3f}{lead}",
            flush=True,
        )
    fastest = min(min(seconds[tool]) for tool in tools)
    return [
        Bar("discovery of 5 MB over the fastest peer", min(seconds["ours"]) / fastest, "×", 0.2),
        Bar("its peak memory", memory["ours"], "MB", 400),
        Bar("its P@1000 less the best peer's", precision["ours"] - max(precision[t] for t in tools), "", 0, False),
        Bar("its least lead in recall at equal length", min(at_length[t] - recall[t] for t in tools), "", 0, False),
    ]


def growth(scratch: Path, rounds: int) -> list[Bar]:
    """What a byte of the law corpus costs, as against a byte of its first 5 MB: seconds of one core, with defaults."""
    law = gzip.decompress((DATA / "domain_law.txt.gz").read_bytes())
    parts = {len(part): part for part in (law[: MEGABYTES * 1_000_000], law)}
    best = {}
    for size, part in parts.items():
        (scratch / "law.txt").write_bytes(part)
        command = [sys.executable, "-c", OURS, str(ROOT), *DEFAULTS, str(scratch / "law.txt"), str(scratch / "words")]
        best[size] = min(float(timed(command)[2]) for _ in range(rounds))
        print(f"{size / 1e6:.0f} MB of laws: {best[size]:.2f} s of one core", flush=True)
    (small, large), costs = sorted(best), {size: took / size for size, took in best.items()}
    return [Bar("cost of a byte, 57 MB over 5 MB", costs[large] / costs[small], "×", 1.2)]


def study(root: Path, name: str, data: str, **params: str) -> tuple[dict[str, float], float, float, float]:
    """Of a study of one trial with the defaults: metrics, seconds to the candidates and to the end, megabytes."""
    paths = {key: str(DATA / file) for key, file in params.items()}
    bench = Bench(
        root / name, name, task="terms", data=str(DATA / data), params=paths, search={"trials": 1, "space": {}}
    )
    began = time.time()
    most = bench.watched("RssAnon", together=True)
    (trial,) = bench.record.trials.values()
    discovered = trial.maps["gather"].ended
    assert discovered is not None
    return dict(trial.final), discovered - began, time.time() - began, most


def main() -> None:
    if not DATA.is_dir():
        raise SystemExit(f"no real data at {DATA} (set ORCHESTRATOR_REAL_DATA)")
    rounds = 1 if "--quick" in sys.argv else 3
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bars = beside_peers(scratch, rounds) + growth(scratch, rounds)
        science = "background_science.txt.gz"
        power, _, seconds, megabytes = study(
            scratch, "power", "domain_power.txt",
            background=science, gold="gold_power_wide.txt", non_terms="neg_power.txt",
        )  # fmt: skip
        print(f"power: {seconds:.1f} s, {megabytes:.0f} MB, {json.dumps(power, ensure_ascii=False)}", flush=True)
        law, discovered, seconds, megabytes = study(
            scratch, "law", "domain_law.txt.gz", background=science, gold="gold_law.txt"
        )
        print(
            f"law: {discovered:.1f} s to the candidates, {seconds:.1f} s, {megabytes:.0f} MB, "
            f"{json.dumps(law, ensure_ascii=False)}",
            flush=True,
        )
    state(
        "terms",
        [
            *bars,
            Bar("power: P@500", power["precision/at_500"], "", 0.70, at_most=False),
            Bar("power: P@1000", power["precision/at_1000"], "", 0.62, at_most=False),
            Bar("power: recall at 20,000", power["recall/at_20000"], "", 0.60, at_most=False),
            Bar("power: non-terms in the first 1,000", 100 * power["non_terms/at_1000"], "%", 1),
            Bar("discovery in 57 MB of laws beside 42 MB of background, on two cores", discovered, "s", 60),
            Bar("memory of the whole run, Ray's too", megabytes, "MB", 1500),
        ],
    )


if __name__ == "__main__":
    main()
