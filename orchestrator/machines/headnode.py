"""A cluster's head as a laptop uses it: commands run there, and drivers of studies are left there.

The laptop needs SSH and nothing else: Ray's token, its version and the studies' folder are matters of the cluster.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import EnvironmentProblem, Interrupted, UserError
from orchestrator.machines import shipping, ssh
from orchestrator.machines.clusterfile import ClusterFile
from orchestrator.machines.requests import Do

_UNREACHABLE = 255


class HeadNode:
    """The head of a cluster. Everything here raises `EnvironmentProblem` when it cannot be reached."""

    def __init__(self, cluster: ClusterFile, head: ssh.Host) -> None:
        self._cluster, self._head = cluster, head

    def command(self, words: Sequence[str], forward: int | None = None) -> int:
        """Run ``orchestrator WORDS`` there, its output here; returns its exit code. Ends it when this ends.

        ``forward`` is a port of its 127.0.0.1 that is to be the same port here.
        """
        return self._attached({"do": Do.COMMAND, "words": list(words), "attached": True}, forward=forward)

    def ask(self, words: Sequence[str], **environment: str) -> Any:
        """What ``orchestrator WORDS`` prints as JSON there."""
        return self._asked({"do": Do.COMMAND, "words": list(words), "attached": False}, environment)

    def attach(self, study: str) -> int:
        """Show what the newest job of a study prints until it ends; returns the exit code of its driver."""
        return self._following({"do": Do.ATTACH, "study": study}, study, None)

    def submit(self, words: Sequence[str], study: str, file: Path | None, detach: bool) -> int:
        """Leave ``orchestrator WORDS`` there as a job that runs this project as it is here.

        ``file`` is the study's, if it is new there. Returns the driver's exit code or, told to ``detach``, 0 once it is
        submitted.
        """
        with tempfile.TemporaryFile() as archive:
            shipping.pack_project(file, archive)
            request = {"do": Do.SUBMIT, "words": list(words), "study": study, "detach": detach}
            return self._following(request, study, archive)

    def send_data(self, folder: Path) -> str:
        """Bring a folder there, unless the same is there already; returns its path, or its URL, for all hosts."""
        if not folder.is_dir():
            raise UserError(f"--ship-data ships a folder, and {folder} is none", "give data=FOLDER")
        name = shipping.data_name(folder)
        known = self._asked({"do": Do.HAS_DATA, "name": name}, {})
        if not known["there"]:
            with tempfile.TemporaryFile() as archive:
                shipping.pack_data(folder, archive)
                status = self._attached({"do": Do.TAKE_DATA, "name": name}, archive)
            if status:
                raise EnvironmentProblem(f"{folder} did not arrive on {self._head}: see above")
            known = self._asked({"do": Do.HAS_DATA, "name": name}, {})
        return str(known["path"])

    def _following(self, request: Mapping[str, Any], study: str, archive: IO[bytes] | None) -> int:
        again = f"follow it: orchestrator attach {study} --cluster {self._cluster.path}"
        try:
            return self._attached(request, archive)
        except KeyboardInterrupt:
            stop = f"stop it: orchestrator stop {study} --cluster {self._cluster.path}"
            raise Interrupted(f"'{study}' goes on on {self._cluster.name}", f"{again}; {stop}") from None
        except EnvironmentProblem as error:
            raise EnvironmentProblem(
                f"{error}; if it says above that it was submitted, it goes on there", again
            ) from error

    def _attached(
        self, request: Mapping[str, Any], archive: IO[bytes] | None = None, forward: int | None = None
    ) -> int:
        if archive is not None:
            request = {**request, "bytes": archive.tell()}
            archive.seek(0)
        process = ssh.attach(self._head, self._cluster.command, forward)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended early: its exit code says how
                process.stdin.write(self._line(request, {}))
                if archive is not None:
                    shutil.copyfileobj(archive, process.stdin)
                process.stdin.flush()  # and left open: that it closes tells the other side that this process has gone
            status = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if status == _UNREACHABLE:
            raise EnvironmentProblem(f"the connection to {self._head}, the head of {self._cluster.name}, is lost")
        return status

    def _asked(self, request: Mapping[str, Any], environment: Mapping[str, str]) -> Any:
        answer = ssh.ask(self._head, self._cluster.command, self._line(request, environment))
        if answer.unreachable:
            raise EnvironmentProblem(
                f"{self._head}, the head of {self._cluster.name}, cannot be reached: {answer.unreachable}",
                f"see why: orchestrator doctor --cluster {self._cluster.path}",
            )
        if answer.status:
            raise EnvironmentProblem(
                f"{self._head}, the head of {self._cluster.name}, answers: {answer.err.strip() or answer.out.strip()}",
                f"orchestrator cluster up {self._cluster.path}",
            )
        return json.loads(answer.out)

    def _line(self, request: Mapping[str, Any], environment: Mapping[str, str]) -> bytes:
        columns, lines = shutil.get_terminal_size()
        everywhere = {
            "ORCHESTRATOR_RUNS": self._cluster.runs,
            "RAY_AUTH_MODE": "token",
            "COLUMNS": str(columns),
            "LINES": str(lines),
            **self._cluster.environment,
            **environment,
        }
        return json.dumps({**request, "environment": everywhere}).encode() + b"\n"
