"""An HTTP server of files that cuts bodies and refuses ranges as told, data sets that lie on it, and archives."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import re
import tarfile
import threading

import numpy as np

from orchestrator.datasets.catalogue import DataSet, Source


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


@contextlib.contextmanager
def serving():
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
