"""The data sets that ``orchestrator data get`` knows: where they are, what they are, and how to tell that it is them.

Checksums are those that TensorFlow Datasets (``url_checksums/*.txt``, ``datasets/*/checksums.tsv``) and scikit-learn
(``datasets/_kddcup99.py``) publish for these URLs. Nothing is used whose checksum is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.errors import UnknownName


@dataclass(frozen=True)
class Source:
    """One file: what it is called, the URLs where it is (the next is asked when one fails), and its SHA-256.

    ``size`` is in bytes, and for the bar and the disk: the checksum decides.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.name}: {self.sha256!r} is no SHA-256")
        if PurePosixPath(self.name).name != self.name or not self.urls or self.size < 1:
            raise ValueError(f"{self.name!r} is no file with URLs and a size")


@dataclass(frozen=True)
class DataSet:
    """``unpacked`` is an upper bound of what it takes on the disk, bytes; ``layout`` names a function of `layout`."""

    name: str
    about: str
    licence: str
    page: str
    files: tuple[Source, ...]
    unpacked: int
    layout: str
    use: str
    """What to type when it is there."""

    @property
    def size(self) -> int:
        """Bytes that are downloaded."""
        return sum(file.size for file in self.files)

    def to_plain(self) -> dict[str, Any]:
        files = [{"name": f.name, "urls": list(f.urls), "sha256": f.sha256, "bytes": f.size} for f in self.files]
        return {
            "data": self.name,
            "about": self.about,
            "bytes": self.size,
            "unpacked_bytes": self.unpacked,
            "licence": self.licence,
            "page": self.page,
            "files": files,
        }


_STANFORD = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
_MNIST = ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/")
_KDD = "http://kdd.ics.uci.edu/databases/kddcup99/"


def _mnist(name: str, sha256: str, size: int) -> Source:
    return Source(name, tuple(base + name for base in _MNIST), sha256, size)


_ALL = (
    DataSet(
        name="imagewoof",
        about="10 dog breeds, 9,025 + 3,929 photos of 320 px",
        licence="ImageNet's: research",
        page="https://github.com/fastai/imagenette",
        files=(
            Source(
                "imagewoof2-320.tgz",
                ("https://s3.amazonaws.com/fast-ai-imageclas/imagewoof2-320.tgz",),
                "4e4905ed7643120daaf9bf3b2ef7f3a7e8396d9bdaf254a38c6f01f618b4973d",
                328_288_506,
            ),
        ),
        unpacked=500_000_000,
        layout="imagewoof",
        use="orchestrator run dogs",
    ),
    DataSet(
        name="stanford-dogs",
        about="120 dog breeds, 12,000 + 8,580 photos",
        licence="ImageNet's: research",
        page="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        files=(
            Source(
                "images.tar",
                (_STANFORD + "images.tar",),
                "a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
                793_579_520,
            ),
            Source(
                "lists.tar",
                (_STANFORD + "lists.tar",),
                "34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
                481_280,
            ),
        ),
        unpacked=1_000_000_000,
        layout="stanford_dogs",
        use="orchestrator run dogs",
    ),
    DataSet(
        name="oxford-pets",
        about="37 breeds of cats and dogs, 3,680 + 3,669 photos",
        licence="CC BY-SA 4.0",
        page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        files=(
            Source(
                "images.tar.gz",
                (_OXFORD + "images.tar.gz",),
                "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                791_918_971,
            ),
            Source(
                "annotations.tar.gz",
                (_OXFORD + "annotations.tar.gz",),
                "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                19_173_078,
            ),
        ),
        unpacked=1_200_000_000,
        layout="oxford_pets",
        use="orchestrator run dogs",
    ),
    DataSet(
        name="mnist",
        about="written digits, 60,000 + 10,000, 28×28 px",
        licence="CC BY-SA 3.0",
        page="http://yann.lecun.com/exdb/mnist/",
        files=(
            _mnist(
                "train-images-idx3-ubyte.gz",
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                9_912_422,
            ),
            _mnist(
                "train-labels-idx1-ubyte.gz",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                28_881,
            ),
            _mnist(
                "t10k-images-idx3-ubyte.gz",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                1_648_877,
            ),
            _mnist(
                "t10k-labels-idx1-ubyte.gz",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                4_542,
            ),
        ),
        unpacked=20_000_000,
        layout="as_they_are",
        use="orchestrator run multilabel-digits",
    ),
    DataSet(
        name="cifar10",
        about="10 classes, 50,000 + 10,000 pictures, 32×32 px",
        licence="none stated",
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        files=(
            Source(
                "cifar-10-binary.tar.gz",
                ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                170_052_171,
            ),
        ),
        unpacked=500_000_000,
        layout="cifar10",
        use="orchestrator run batchnorm-cifar10",
    ),
    DataSet(
        name="kdd99",
        about="network intrusions, 494,021 + 311,029 rows",
        licence="CC BY 4.0",
        page="https://archive.ics.uci.edu/dataset/130/kdd+cup+1999+data",
        files=(
            Source(
                "kddcup.data_10_percent.gz",
                (_KDD + "kddcup.data_10_percent.gz", "https://ndownloader.figshare.com/files/5976042"),
                "8045aca0d84e70e622d1148d7df782496f6333bf6eb979a1b0837c42a9fd9561",
                2_150_000,  # about: its exact size is not published with its checksum
            ),
            Source(
                "corrected.gz",
                (_KDD + "corrected.gz",),
                "abd8165508378859b07e38537271f0ebf8a4d7319f643188cd7361e939a05c43",
                1_409_035,
            ),
        ),
        unpacked=10_000_000,
        layout="as_they_are",
        use="for your own task: context.data is the folder",
    ),
)
ALL: Mapping[str, DataSet] = {known.name: known for known in _ALL}


def data_set(name: str) -> DataSet:
    """The data set of a name. Raises `UnknownName` with the nearest."""
    if name not in ALL:
        raise UnknownName("data set", name, ALL)
    return ALL[name]
