"""On real photos: the packaged weights know dogs, and the whole search reads what users have."""

from __future__ import annotations

import shutil

import pytest
from fakes import FakeContext

from tasks.dogs import TASK, DogParams

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def few_breeds(real_data, tmp_path_factory):
    """Six of the 120 breeds, 20 training and 10 validation photos each."""
    root = tmp_path_factory.mktemp("few")
    for split, count in (("train", 20), ("val", 10)):
        for breed in sorted((real_data / "dogs" / split).iterdir())[::20]:
            target = root / split / breed.name
            target.mkdir(parents=True)
            for path in sorted(breed.iterdir())[:count]:
                shutil.copy(path, target)
    return root


def test_frozen_features_of_real_dogs_tell_breeds_apart(few_breeds, tmp_path):
    result = TASK.run(DogParams(resolution=224, epochs=10), FakeContext(tmp_path, data=few_breeds))
    assert result["val/photos"] == 60
    assert result["data/unreadable"] == 0
    assert result["val/top1"] > 0.85  # chance is 0.17
