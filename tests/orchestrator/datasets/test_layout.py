"""The table of data sets, and each laid out as the tasks read it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fileserver import tar_of
from PIL import Image

from orchestrator.datasets import catalogue, layout
from orchestrator.datasets.catalogue import Source
from tasks.dogs.folders import find_photos
from tasks.multilabel.digits import check_folder


def test_every_entry_of_the_table_is_whole():
    assert set(catalogue.ALL) == {"imagewoof", "stanford-dogs", "oxford-pets", "mnist", "cifar10", "kdd99"}
    for data in catalogue.ALL.values():
        assert callable(getattr(layout, data.layout))
        assert data.unpacked >= 0.9 * data.size
        for source in data.files:
            assert all(url.startswith(("http://", "https://")) for url in source.urls)
    with pytest.raises(ValueError, match="is no SHA-256"):
        Source("x", ("http://x/x",), "c58f30108f718f92721af3b95e74349a", 1)


def jpeg() -> bytes:
    kept = io.BytesIO()
    Image.new("RGB", (8, 8)).save(kept, "JPEG")
    return kept.getvalue()


def laid_out(name, tmp_path):
    target = tmp_path / name
    target.mkdir()
    getattr(layout, catalogue.data_set(name).layout)(tmp_path / "got", target, tmp_path / "scratch", 10_000_000)
    return target


@pytest.fixture
def got(tmp_path):
    (tmp_path / "got").mkdir()
    return tmp_path / "got"


def test_imagewoof_is_read_by_dogs(got, tmp_path):
    names = [
        f"imagewoof2-320/{split}/{synset}/{n}.JPEG"
        for split in ("train", "val")
        for synset in layout._BREEDS
        for n in "12"
    ]
    tar_of(got / "imagewoof2-320.tgz", *((name, jpeg()) for name in names), ("imagewoof2-320/noisy_imagewoof.csv", b""))
    photos = find_photos(laid_out("imagewoof", tmp_path))
    assert (len(photos.paths), photos.trained) == (40, 20)
    assert photos.classes[0] == "n02086240-Shih_Tzu"
    assert photos.keys[0] == "train/n02086240-Shih_Tzu/1.JPEG"


def test_stanford_dogs_is_split_as_its_lists_say(got, tmp_path):
    from scipy.io import savemat

    names = [f"n1-pug/n1_{n}.jpg" for n in range(4)] + [f"n2-Great_Dane/n2_{n}.jpg" for n in range(4)]
    tar_of(got / "images.tar", *((f"Images/{name}", jpeg()) for name in names))
    lists = []
    for split, chosen in (("train", names[1::2]), ("test", names[::2])):
        kept, cells = io.BytesIO(), np.empty((len(chosen), 1), object)
        cells[:, 0] = chosen
        savemat(kept, {"file_list": cells, "labels": np.ones((len(chosen), 1))})
        lists.append((f"{split}_list.mat", kept.getvalue()))
    tar_of(got / "lists.tar", *lists)
    photos = find_photos(laid_out("stanford-dogs", tmp_path))
    assert photos.classes == ("n1-pug", "n2-Great_Dane")
    assert [key for key in photos.keys if key.startswith("train/")] == [f"train/{name}" for name in names[1::2]]
    assert len(photos.keys) == 8


def test_oxford_pets_is_split_as_its_lists_say(got, tmp_path):
    photos = ["Abyssinian_1", "Abyssinian_2", "american_bulldog_1", "american_bulldog_22"]
    archives = {
        "images": [(f"images/{name}.jpg", jpeg()) for name in photos] + [("images/Abyssinian_101.mat", b"")],
        "annotations": [
            ("annotations/trainval.txt", b"Abyssinian_2 1 1 1\namerican_bulldog_1 2 2 1\n"),
            (
                "annotations/test.txt",
                b"#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\namerican_bulldog_22 2 2 1\n",
            ),
        ],
    }
    for name, members in archives.items():
        tar_of(got / "made.tgz", *members)
        (got / "made.tgz").rename(got / f"{name}.tar.gz")
    found = find_photos(laid_out("oxford-pets", tmp_path))
    assert found.classes == ("Abyssinian", "american_bulldog")
    assert found.keys == (
        "train/Abyssinian/Abyssinian_2.jpg", "train/american_bulldog/american_bulldog_1.jpg",
        "val/Abyssinian/Abyssinian_1.jpg", "val/american_bulldog/american_bulldog_22.jpg",
    )  # fmt: skip


def test_cifar10_keeps_every_pixel(got, tmp_path):
    rng = np.random.default_rng(0)
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    batches = {}
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        batches[name] = rng.integers(0, 256, (20, 3073), dtype=np.uint8)
        batches[name][:, 0] = np.arange(20) % 10
    members = [(f"cifar-10-batches-bin/{name}.bin", rows.tobytes()) for name, rows in batches.items()]
    members.append(("cifar-10-batches-bin/batches.meta.txt", ("\n".join(classes) + "\n\n").encode()))
    tar_of(got / "made.tgz", *members)
    (got / "made.tgz").rename(got / "cifar-10-binary.tar.gz")
    folder = laid_out("cifar10", tmp_path)
    photos = find_photos(folder)
    assert (photos.classes, photos.trained, len(photos.paths)) == (tuple(classes), 100, 120)
    record = batches["data_batch_2"][7]  # the 28th to train on, a horse
    read = np.asarray(Image.open(folder / "train" / "horse" / "00027.png"))
    assert read[5, 9].tolist() == [int(record[1 + plane * 1024 + 5 * 32 + 9]) for plane in range(3)]


def test_mnist_is_read_by_multilabel(got, tmp_path):
    for source in catalogue.data_set("mnist").files:
        (got / source.name).write_bytes(b"x")
    assert len(check_folder(laid_out("mnist", tmp_path))) == 4
