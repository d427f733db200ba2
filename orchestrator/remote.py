"""What a host of a cluster does when it is asked over SSH.

``python -m orchestrator.remote`` reads one line of JSON, a request, and what belongs to it behind that line.
Nothing that a user wrote is ever part of a shell's words. The driver's job on the head is started by the same command.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.history.folder import Runs, user_cache
from orchestrator.machines import shipping
from orchestrator.machines.requests import Do
from orchestrator.probe import probe


def main() -> None:
    """Obey one request; the exit code is the command's."""
    if words := os.environ.pop(shipping.JOB_WORDS, None):  # a job: see `jobserver.submit`
        return _command(json.loads(words))
    request: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    os.environ.update(request.get("environment", {}))
    try:
        sys.exit(_obey(Do(request["do"]), request))
    except OrchestratorError as error:
        from orchestrator.terminal.lines import complain

        complain(str(error), error.hint)
        sys.exit(error.exit_code)


def _obey(do: Do, request: dict[str, Any]) -> int:
    if do is Do.COMMAND:
        if request["attached"]:
            _end_with_the_asker()
        _command(request["words"])
    elif do is Do.SUBMIT:
        return _submit(request)
    elif do is Do.ATTACH:
        from orchestrator.machines import jobserver

        _end_with_the_asker()
        return jobserver.follow(jobserver.newest(request["study"]))
    elif do is Do.HAS_DATA:
        place = _data(request["name"])
        print(json.dumps({"path": _published(place), "there": place.exists()}))
    elif do is Do.TAKE_DATA:
        place = _data(request["name"])
        place.parent.mkdir(parents=True, exist_ok=True)
        shipping.unpack(io.BufferedReader(_Following(request["bytes"])), place)
    elif do is Do.PROBE:
        print(json.dumps(probe.probe(probe.Question.from_plain(request["question"]))))
    else:
        from orchestrator.machines import rayhost

        print(json.dumps(rayhost.stop() if do is Do.STOP_RAY else rayhost.why_not_joined()))
    return 0


def _command(words: Sequence[str]) -> None:
    from orchestrator import cli

    sys.argv = ["orchestrator", *words]
    cli.main()


def _submit(request: dict[str, Any]) -> int:
    """Unpack the project that follows the request, submit it, and follow the job unless told to leave it."""
    from orchestrator.machines import jobserver

    folder = user_cache() / "shipped" / uuid.uuid4().hex
    shipping.unpack(io.BufferedReader(_Following(request["bytes"])), folder)
    own = sorted((folder / shipping.OWN_TASKS).glob("*"))
    environment = dict(request["environment"])
    if own:  # a job's processes begin in its folder, on every node
        environment["ORCHESTRATOR_TASKS"] = os.pathsep.join(f"{shipping.OWN_TASKS}/{path.name}" for path in own)
    try:
        job = jobserver.submit(folder, request["words"], request["study"], environment)
    finally:
        shutil.rmtree(folder)  # it is in Ray's hands now
    print(f"submitted as job {job}", flush=True)
    if request["detach"]:
        return 0
    _end_with_the_asker()
    return jobserver.follow(job)


def _data(name: str) -> Path:
    """Where shipped data is: beside the studies, so that every host sees it. Raises ValueError for a path."""
    if Path(name).name != name:
        raise ValueError(f"{name!r} is no name of data")
    return Runs.default().shipped / name


def _published(place: Path) -> str:
    """The path that all hosts know sent data by; where runs are at a URL it goes there, and is there completely."""
    mirror = Runs.default().mirror
    if mirror is None:
        return str(place)
    mirror.patient().publish(place)
    return mirror.url_of(place)


class _Following(io.RawIOBase):
    """As many bytes of the standard input as the request says: the input itself stays open behind them."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken = sys.stdin.buffer.read(min(len(buffer), self._left))
        self._left -= len(taken)
        buffer[: len(taken)] = taken
        return len(taken)


def _end_with_the_asker() -> None:
    """End this process when the one who asked has gone: SSH without a terminal does not do that by itself."""

    def wait() -> None:
        while os.read(0, 4096):  # not through sys.stdin: a thread in there would break the interpreter's end
            pass
        os._exit(130)

    threading.Thread(target=wait, name="asker", daemon=True).start()


if __name__ == "__main__":
    main()
