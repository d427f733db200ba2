"""Fine-tuning throughput: beside the model alone, fed from memory, and beside timm's own training script.

    python tests/benchmarks/dogs.py [--quick] [--timm-script PATH]

Images a second of whole epochs of training, ours and theirs in turn, each in a process of its own with all cores; the
first epoch (decoding, warming up) is left out. Photos: some breeds of $ORCHESTRATOR_REAL_DATA or shared/data beside the
checkout, 224 px JPEGs. All train the whole network in float32, channels last, with flips, crops or zoom, and colour.

timm's script is ``train.py`` of its repository at the installed version's tag, fetched from GitHub unless it is given.
It is no part of the installed package; where it cannot be had, its bars are left out, and that is said.
``--quick`` measures each once instead of three times, on fewer steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from bars import Bar, state

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ORCHESTRATOR_REAL_DATA", ROOT.parent / "shared" / "data")) / "dogs"
SCRIPT = "https://raw.githubusercontent.com/huggingface/pytorch-image-models/v{}/train.py"
CORES = len(os.sched_getaffinity(0))
# (backbone, px, photos a step): where loading is what costs, and where the model is.
SMALL, LARGE = ("test_efficientnet", 64, 32), ("tf_efficientnet_lite0", 224, 16)

OURS = """
import json, sys
from pathlib import Path
root, data, cache, backbone, px, batch, epochs, source = sys.argv[1:]
sys.path[:0] = [root, root + "/tests"]
import torch
from fakes import FakeContext
from tasks.dogs import DogParams
from tasks.dogs.folders import find_photos
from tasks.dogs.learners import Batch, Pool, make_learner
from tasks.dogs.ranks import Ranks
from tasks.dogs.trainer import Trainer

params = DogParams(regime="finetune", backbone=backbone, weights="none", resolution=int(px), batch_size=int(batch),
                   epochs=int(epochs), frozen_epochs=0, unfrozen_stages=100)
context = FakeContext(Path(cache), data=Path(data), cache=Path(cache))
photos = find_photos(context.data)
learner = make_learner(params, context, photos)
rows = learner.rows.train
pool = Pool(rows, learner.rows.labels[rows], len(rows))
if source == "memory":
    x = torch.randn(params.batch_size, 3, params.resolution, params.resolution)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(len(photos.classes), (params.batch_size,))
    sizes = [len(part) for part in rows.split(params.batch_size)]
    learner.batches = lambda pool, epoch: (Batch(x[:n], y[:n], rows[:n], n) for n in sizes)
trainer = Trainer(params, learner, context, Ranks(context), len(photos.classes), pool.count)
speeds = []
for epoch in range(1, params.epochs + 1):
    trainer.train_epoch(epoch, pool)
    speeds.append(trainer.speed)
print(json.dumps(max(speeds[1:])))
"""
_UPDATE = re.compile(r"Train: (\d+) \[.*?Time: [\d.]+s,\s*[\d.]+/s\s+\([\d.]+s,\s*([\d.]+)/s\)")  # epoch, mean


def ours(data: Path, cache: Path, what: tuple[str, int, int], epochs: int, source: str) -> float:
    """Images a second of our training loop, from ``photos`` or from ``memory``."""
    words = [str(ROOT), str(data), str(cache), *map(str, what), str(epochs), source]
    return float(json.loads(output([sys.executable, "-c", OURS, *words]).splitlines()[-1]))


def theirs(script: Path, data: Path, scratch: Path, what: tuple[str, int, int], epochs: int) -> float:
    """Images a second of timm's script: the mean that it prints at the end of its best epoch but the first."""
    backbone, px, batch = what
    command = [
        sys.executable, str(script), "--data-dir", str(data), "--val-split", "val", "--model", backbone,
        "--num-classes", str(len(list((data / "train").iterdir()))), "--input-size", "3", str(px), str(px),
        "-b", str(batch), "--epochs", str(epochs), "--device", "cpu", "--workers", str(CORES), "--opt", "adamw",
        "--lr", "1e-4", "--warmup-epochs", "0", "--channels-last", "--scale", "0.6", "1.0", "--ratio", "0.9", "1.1",
        "--color-jitter", "0.2", "--train-interpolation", "bilinear", "--smoothing", "0.1", "--log-interval", "1",
        "--output", str(scratch),
    ]  # fmt: skip
    means: dict[int, float] = {}
    for epoch, mean in _UPDATE.findall(output(command)):
        means[int(epoch)] = float(mean)
    return max(mean for epoch, mean in means.items() if epoch)


def output(command: list[str]) -> str:
    """What a process says. Ends the benchmark with it when the process fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[:3]} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def timm_script(given: Path | None, scratch: Path) -> Path | None:
    """timm's train.py, or None, said, when it cannot be had."""
    if given is not None:
        return given
    address = SCRIPT.format(version("timm"))
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310 — a fixed https address
            (scratch / "train.py").write_bytes(answer.read())
    except (urllib.error.URLError, TimeoutError) as error:
        print(f"no timm script ({address}: {error}): its bars are left out; --timm-script PATH gives one", flush=True)
        return None
    return scratch / "train.py"


def subset(target: Path, breeds: int, train: int, val: int) -> Path:
    """Some breeds of the real data, linked."""
    for split, count in (("train", train), ("val", val)):
        for breed in sorted((DATA / split).iterdir())[:breeds]:
            (target / split / breed.name).mkdir(parents=True)
            for path in sorted(breed.iterdir())[:count]:
                (target / split / breed.name / path.name).symlink_to(path.resolve())
    return target


def spread(name: str, values: list[float]) -> float:
    """The best of the rounds; others may use the machine too."""
    print(f"{name}: {', '.join(f'{value:.1f}' for value in values)} images/s", flush=True)
    return max(values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--timm-script", type=Path)
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no real data at {DATA} (set ORCHESTRATOR_REAL_DATA)")
    rounds = 1 if options.quick else 3
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory(prefix="dogs-") as folder:
        scratch = Path(folder)
        script = timm_script(options.timm_script, scratch)
        for what, breeds, least, of_memory in ((SMALL, 30, 2.0, False), (LARGE, 4, 1.0, True)):
            backbone, px, _ = what
            data = subset(scratch / f"photos-{px}", breeds if not options.quick else max(4, breeds // 3), 48, 4)
            found: dict[str, list[float]] = {}
            for _ in range(rounds):
                found.setdefault("photos", []).append(ours(data, scratch / "cache", what, 3, "photos"))
                found.setdefault("memory", []).append(ours(data, scratch / "cache", what, 3, "memory"))
                if script is not None:
                    found.setdefault("timm's script", []).append(theirs(script, data, scratch / "timm", what, 2))
            best = {name: spread(f"{backbone} at {px} px, {name}", values) for name, values in found.items()}
            share = 100 * best["photos"] / best["memory"]
            if of_memory:
                bars.append(Bar(f"training {backbone} at {px} px, of the model fed from memory", share, "%", 95, False))
            else:
                print(f"training {backbone} at {px} px: {share:.1f} % of the model fed from memory", flush=True)
            if script is not None:
                ratio = best["photos"] / best["timm's script"]
                bars.append(Bar(f"{backbone} at {px} px over timm's script", ratio, "×", least, False))
    state("dogs", bars)


if __name__ == "__main__":
    main()
