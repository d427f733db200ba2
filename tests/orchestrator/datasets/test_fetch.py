"""A file over HTTP: cut off, resumed, refused, too large, too slow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fileserver import CONTENT, Watcher, data_of, serving, source_of

from orchestrator import web
from orchestrator.datasets import fetch
from orchestrator.datasets.get import get
from orchestrator.errors import EnvironmentProblem


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_PAUSES_SECONDS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(fetch, "_CHUNK", 1000)
    with serving() as made:
        yield made


def fetched(source, folder) -> bytes:
    return fetch.fetch(source, folder, lambda done: None).read_bytes()


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
