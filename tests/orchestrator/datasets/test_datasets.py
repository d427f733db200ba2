"""Public data sets, from a server on this machine: cut off, resumed, refused, unpacked, laid out as the tasks read."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import re
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from orchestrator import web
from orchestrator.datasets import catalogue, fetch, layout
from orchestrator.datasets.catalogue import DataSet, Source
from orchestrator.datasets.get import RECORD, get
from orchestrator.datasets.unpack import unpack
from orchestrator.errors import DataProblem, EnvironmentProblem, UserError
from tasks.dogs.folders import find_photos
from tasks.multilabel.digits import check_folder


class Watcher:
    def __init__(self):
        self.lines, self.seen = [], []

    def say(self, line):
        self.lines.append(line)

    def moved(self, name, done, of):
        self.seen.append(done)


class Server(http.server.ThreadingHTTPServer):
    """``files`` by path. It ends a body early ``cuts`` times; ``ranges`` is whether it can begin in the middle."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cuts, self.cut_at, self.ranges, self.status = 0, 0, True, 200
        self.gate = threading.Event()
        self.gate.set()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        server.gate.wait(30)
        body = server.files.get(self.path[1:])
        if body is None or server.status != 200:
            return self.send_error(404 if body is None else server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(body) > 0:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        part = body[start:]
        if server.cuts:
            server.cuts -= 1
            part = part[: server.cut_at]
        with contextlib.suppress(OSError):
            self.wfile.write(part)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(fetch, "_CHUNK", 1000)
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()


CONTENT = np.random.default_rng(0).bytes(100_000)


def source_of(server, name="x.gz", content=CONTENT, urls=None) -> Source:
    server.files.setdefault(name, content)
    return Source(name, urls or (server.url(name),), hashlib.sha256(content).hexdigest(), len(content))


def data_of(*sources, laid_out="as_they_are") -> DataSet:
    return DataSet("some", "about", "licence", "page", sources, 10_000_000, laid_out, "use")


def fetched(source, folder) -> bytes:
    return fetch.fetch(source, folder, lambda done: None).read_bytes()


# ------------------------------------------------------------------------------------------------------------ fetching


def test_a_file_comes_and_leaves_nothing_else(server, tmp_path):
    moved: list[int] = []
    path = fetch.fetch(source_of(server), tmp_path, moved.append)
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]
    assert moved == sorted(moved)
    assert moved[-1] == len(CONTENT)
    assert fetch.fetch(source_of(server), tmp_path, moved.append) == path
    assert len(server.asked) == 1  # what is here is not asked for


def test_a_connection_that_is_cut_goes_on_where_it_was(server, tmp_path):
    server.cuts, server.cut_at = 3, 30_000
    assert fetched(source_of(server), tmp_path) == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_a_process_that_died_goes_on_where_it_was(server, tmp_path):
    (tmp_path / "x.gz.part").write_bytes(CONTENT[:70_000])
    assert fetched(source_of(server), tmp_path) == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=70000-"]


def test_one_that_died_at_the_very_end_has_all_of_it(server, tmp_path):
    (tmp_path / "x.gz.part").write_bytes(CONTENT)
    assert fetched(source_of(server), tmp_path) == CONTENT


def test_what_was_begun_of_another_file_is_begun_anew(server, tmp_path):
    (tmp_path / "x.gz.part").write_bytes(CONTENT * 2)
    assert fetched(source_of(server), tmp_path) == CONTENT


def test_a_server_that_cannot_begin_in_the_middle_begins_at_the_start(server, tmp_path):
    server.ranges = False
    server.cuts, server.cut_at = 1, 50_000
    assert fetched(source_of(server), tmp_path) == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=50000-"]


def test_a_connection_that_gives_nothing_is_given_up(server, tmp_path):
    server.cuts, server.cut_at = 99, 0
    with pytest.raises(fetch.NotFetched, match="the connection broke at 0 of 100000 bytes"):
        fetched(source_of(server), tmp_path)
    assert len(server.asked) == 4


def test_another_file_at_the_url_is_never_used(server, tmp_path):
    server.files["x.gz"] = CONTENT[::-1]
    with pytest.raises(fetch.NotFetched, match="what it sends has the SHA-256"):
        fetched(source_of(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_half_file_of_an_older_version_does_not_spoil_it_for_ever(server, tmp_path):
    (tmp_path / "x.gz.part").write_bytes(b"old" * 10_000)
    with pytest.raises(fetch.NotFetched):
        fetched(source_of(server), tmp_path)
    assert fetched(source_of(server), tmp_path) == CONTENT


def test_the_next_url_is_asked_when_one_fails(server, tmp_path):
    urls = ("http://127.0.0.1:9/x.gz", server.url("gone"), server.url("wrong"), server.url("x.gz"))
    server.files["wrong"] = CONTENT[::-1]
    assert fetched(source_of(server, urls=urls), tmp_path) == CONTENT


def test_more_than_there_should_be_is_not_kept_on_reading(server, tmp_path):
    server.files["x.gz"] = b"x" * 3_000_000
    with pytest.raises(fetch.NotFetched, match="more than the 100000 bytes"):
        fetched(source_of(server), tmp_path)


def test_only_http_is_asked(tmp_path):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(web.NoAnswer, match="no such URL can be asked"), web.get(f"file://{tmp_path}/secret"):
        pass


def test_a_full_disk_is_said_and_what_came_is_kept(server, tmp_path):
    data = data_of(source_of(server))
    downloads = tmp_path / ".downloads" / "some"
    downloads.mkdir(parents=True)
    (downloads / "x.gz.part").symlink_to("/dev/full")
    with pytest.raises(EnvironmentProblem, match=r"the disk of .* is full") as raised:
        get(data, tmp_path, Watcher())
    assert str(downloads) in raised.value.hint


def test_a_disk_that_is_too_small_is_said_before(server, tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"needs 1000000000\.0 GB") as raised:
        get(replace(data_of(source_of(server)), unpacked=10**18), tmp_path, Watcher())
    assert "--to FOLDER" in raised.value.hint
    assert server.asked == []


# ----------------------------------------------------------------------------------------------------------- the whole


def test_a_data_set_is_there_as_a_whole(server, tmp_path):
    watcher = Watcher()
    data = data_of(source_of(server), source_of(server, "y.gz", b"yes"))
    folder = get(data, tmp_path, watcher)
    assert folder == tmp_path / "some"
    assert {path.name for path in folder.iterdir()} == {"x.gz", "y.gz", RECORD}
    assert json.loads((folder / RECORD).read_text())["files"][1]["sha256"] == data.files[1].sha256
    assert {path.name for path in tmp_path.iterdir()} == {"some", ".downloads"}
    assert [path.name for path in (tmp_path / ".downloads").iterdir()] == ["some.lock"]
    get(data, tmp_path, watcher)
    assert len(server.asked) == 2


def test_what_breaks_in_the_middle_leaves_no_folder(server, tmp_path):
    data = data_of(source_of(server), source_of(server, "y.gz", b"yes", (server.url("gone"),)))
    with pytest.raises(EnvironmentProblem, match=r"y\.gz of some does not come: 127\.0\.0\.1: it answers 404"):
        get(data, tmp_path, Watcher())
    assert not (tmp_path / "some").exists()
    server.files["gone"] = b"yes"
    get(data, tmp_path, Watcher())
    assert [path for path, _ in server.asked] == ["/x.gz", "/gone", "/gone"]  # x.gz was here


def test_without_a_network_it_says_what_to_put_where_and_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSES_SECONDS", (0.0,))
    source = Source("x.gz", ("http://127.0.0.1:9/files/17",), hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    with pytest.raises(EnvironmentProblem, match="Connection refused") as raised:
        get(data_of(source), tmp_path, Watcher())
    place = tmp_path / ".downloads" / "some"
    assert f"put into {place} by hand" in raised.value.hint
    assert "http://127.0.0.1:9/files/17   as x.gz" in raised.value.hint
    (place / "x.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(DataProblem, match="is not the file that is meant") as raised:
        get(data_of(source), tmp_path, Watcher())
    assert raised.value.hint == f"remove it: rm {place / 'x.gz'}"
    (place / "x.gz").write_bytes(CONTENT)
    assert (get(data_of(source), tmp_path, Watcher()) / "x.gz").read_bytes() == CONTENT


def test_what_is_in_the_place_already_is_not_touched(server, tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        get(data_of(source_of(server)), tmp_path, Watcher())
    assert [path.name for path in (tmp_path / "some").iterdir()] == ["mine"]


def test_a_place_that_cannot_be_a_folder_is_said(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentProblem, match=r"exists|directory") as raised:
        get(data_of(source_of(server)), tmp_path / "file", Watcher())
    assert raised.value.hint == "give another folder: --to FOLDER"


def test_two_at_once_bring_it_once(server, tmp_path):
    data, watchers, found = data_of(source_of(server)), [Watcher(), Watcher()], []
    server.gate.clear()
    threads = [
        threading.Thread(target=lambda w=watcher: found.append(get(data, tmp_path, w)), daemon=True)
        for watcher in watchers
    ]
    for thread in threads:
        thread.start()
    while not any(watcher.lines for watcher in watchers):  # one of them waits
        pass
    server.gate.set()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "some"] * 2
    assert len(server.asked) == 1
    assert ["another process is at it: waiting"] in [watcher.lines for watcher in watchers]


# ----------------------------------------------------------------------------------------------------------- unpacking


def tar_of(path, *members: tuple[str, bytes | str], kind=None) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):  # a link to there
                info.type, info.linkname = kind or tarfile.SYMTYPE, content
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))


def test_tar_and_zip_and_gz_are_unpacked(tmp_path):
    tar_of(tmp_path / "a.tgz", ("d/one", b"1"), ("two", b"22"))
    unpack(tmp_path / "a.tgz", tmp_path / "a", 3)
    assert (tmp_path / "a" / "d" / "one").read_bytes() == b"1"
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as made:
        made.writestr("d/", b"")
        made.writestr("d/one", b"1")
    unpack(tmp_path / "b.zip", tmp_path / "b", 3)
    assert (tmp_path / "b" / "d" / "one").read_bytes() == b"1"
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"123"))
    unpack(tmp_path / "c.gz", tmp_path / "c", 3)
    assert (tmp_path / "c" / "c").read_bytes() == b"123"


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "d/../../out", "a\\..\\out", "d", "d/one/two", ""])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, kind, name):
    archive = tmp_path / "in" / f"a.{kind}"
    archive.parent.mkdir()
    if kind == "tar":
        tar_of(archive, ("d/one", b"1"), (name, b"1"))
    else:
        with zipfile.ZipFile(archive, "w") as made:
            made.writestr("d/one", b"1")
            made.writestr(zipfile.ZipInfo(name), b"1")
    with pytest.raises(DataProblem, match="cannot be unpacked"):
        unpack(archive, tmp_path / "in" / "a", 100)
    assert [path.name for path in tmp_path.rglob("*")] == ["in", archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    tar_of(tmp_path / "a.tar", ("d", "/etc"), kind=kind)
    with pytest.raises(DataProblem, match="neither a file nor a folder"):
        unpack(tmp_path / "a.tar", tmp_path / "a", 100)
    assert not (tmp_path / "a").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("d")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr(info, "/etc")
    with pytest.raises(DataProblem, match="neither a file nor a folder"):
        unpack(tmp_path / "a.zip", tmp_path / "a", 100)


def test_what_unpacks_to_too_much_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("big", b"0" * 5_000_000)
    with pytest.raises(DataProblem, match="more than it should"):
        unpack(tmp_path / "a.zip", tmp_path / "a", 4_000_000)
    tar_of(tmp_path / "a.tgz", ("x", b"0" * 3000), ("y", b"0" * 3000))
    with pytest.raises(DataProblem, match="more than it should"):
        unpack(tmp_path / "a.tgz", tmp_path / "b", 5000)


@pytest.mark.parametrize("name", ["a.tgz", "a.tar", "a.zip", "a.gz", "a.rar"])
def test_what_is_no_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(CONTENT[:2000])
    with pytest.raises(DataProblem, match="cannot be unpacked"):
        unpack(tmp_path / name, tmp_path / "a", 10_000)
    tar_of(tmp_path / "b.tgz", ("x", CONTENT))
    (tmp_path / "b.tgz").write_bytes((tmp_path / "b.tgz").read_bytes()[:50_000])
    with pytest.raises(DataProblem, match="cannot be unpacked"):
        unpack(tmp_path / "b.tgz", tmp_path / "a", 10**6)


# ----------------------------------------------------------------------------------------------------------- the table


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


# -------------------------------------------------------------------------------------------------------- the commands


def test_the_commands(command, server, tmp_path, monkeypatch):
    data = replace(data_of(source_of(server)), use="orchestrator run dogs")
    monkeypatch.setattr(catalogue, "ALL", {"some": data})
    monkeypatch.setenv("ORCHESTRATOR_DATA", str(tmp_path / "data"))
    code, out, _ = command("data", "get", "some")
    assert code == 0
    assert "licence: licence; page" in out
    assert out.rstrip().endswith("next: orchestrator run dogs data=some")
    (row,) = json.loads(command("data", "list", "--json")[1])
    assert row["path"] == str(tmp_path / "data" / "some")
    assert row["files"][0]["sha256"] == data.files[0].sha256
    assert "yes" in command("data", "list")[1]
    out = command("data", "get", "some", "--to", str(tmp_path / "there"))[1]
    assert f"data={tmp_path / 'there' / 'some'}" in out
    code, _, err = command("data", "get", "sme")
    assert (code, "did you mean 'some'?" in err) == (2, True)


def test_a_study_whose_data_can_be_got_says_how(command):
    code, _, err = command("plan", "dogs", "data=imagewoof")
    assert code == 2
    assert "orchestrator data get imagewoof" in err


def test_data_is_found_where_get_puts_it(tmp_path, monkeypatch):
    from orchestrator.studies.studyfile import build

    (tmp_path / "data" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert build({"task": "toy", "data": "pets", "search": {"trials": 1}}).data == tmp_path / "data" / "pets"
