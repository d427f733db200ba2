"""A context whose maps leave their results on disk, as the real one does, computed here or by processes."""

from __future__ import annotations

import resource
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from fakes import FakeContext

from orchestrator.trial import stored
from orchestrator.trial.stored import Place, StoredResults


def compute(function, limit, job):
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    item, path = job
    return stored.write(path, [function(item)], "")


class Stored(FakeContext):
    """``workers``: processes, 0 for none. ``computed`` lists the keys of what was not found in the cache."""

    def __init__(self, folder, workers=0, limit=0, **given):
        super().__init__(folder, **given)
        self.workers, self.limit, self.computed = workers, limit, {}

    def map(self, function, items, *, name=None, keys=None):
        name = name or function.__name__
        assert "/" not in name
        assert name not in self.mapped
        items = list(items)
        assert keys is None or len(set(keys)) == len(items)
        base = self.folder / "maps" / name if keys is None else self.cache / "maps" / name
        paths = [base / (keys[index] if keys else str(index)) for index in range(len(items))]
        base.mkdir(parents=True, exist_ok=True)
        todo = [index for index, path in enumerate(paths) if keys is None or not path.exists()]
        self.computed[name] = [keys[index] if keys else index for index in todo]
        jobs = [(items[index], paths[index]) for index in todo]
        if self.workers:
            with ProcessPoolExecutor(self.workers) as pool:
                list(pool.map(partial(compute, function, self.limit), jobs))
        else:
            for job in jobs:
                compute(function, 0, job)
        self.mapped[name] = len(items)
        return StoredResults(Place(i, i + 1, path, int(path.stat().st_mtime_ns)) for i, path in enumerate(paths))
