"""Where every file of a study is: all paths come from here.

With ``ORCHESTRATOR_RUNS`` a URL, they are in the local folder that stands for it (see `storage.Mirror`), and `publish`
and `obtain` bring them there and here; without one, those do nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import FolderBusy, UnknownName
from orchestrator.history import journal
from orchestrator.objectstore import lease, parts
from orchestrator.objectstore.storage import Mirror, is_url

TAKEN = ("cache", "mlartifacts", "mlflow.db", "shipped")  # beside the studies: none can be called like these
_PLAIN = re.compile(r"\w[\w.\-]*")  # a study or a trial: never a way out of the folder that it is in


def inside(root: Path, name: str) -> Path:
    """The path of a name below a folder. Raises ValueError when it leads out of it, through links or without."""
    root = root.resolve()
    path = (root / name).resolve()
    if root not in path.parents:
        raise ValueError(f"the name {name!r} leaves the folder {root.name}")
    return path


def shorter(path: Path) -> Path:
    """A path as one would type it here: relative, if it is below the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def user_cache() -> Path:
    """What this package keeps on this machine for this user alone; it may be deleted at any time."""
    return Path.home() / ".cache" / "orchestrator"


def data_root() -> Path:
    """Where data sets are by their names: ``$ORCHESTRATOR_DATA``, or ``data`` in the current folder."""
    return Path(os.environ.get("ORCHESTRATOR_DATA") or "data").expanduser().absolute()


@dataclass(frozen=True)
class _Folder:
    """``mirror`` is the URL that all below is at, too. See its methods for these."""

    root: Path
    mirror: Mirror | None = None

    def publish(self, path: Path, exact: bool = False) -> None:
        if self.mirror is not None:
            self.mirror.publish(path, exact)

    def obtain(self, path: Path, exact: bool = False) -> None:
        if self.mirror is not None:
            self.mirror.obtain(path, exact)

    def portable(self, path: Path) -> Path:
        """A path as other machines understand it: below a URL's folder it is relative to that."""
        return path if self.mirror is None else self.mirror.relative(path)

    def drop(self, path: Path) -> None:
        """Remove a folder here and there."""
        shutil.rmtree(path, ignore_errors=True)
        if self.mirror is not None:
            self.mirror.remove(path)


class TrialFolder(_Folder):
    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def maps(self) -> Path:
        """Stored results of its maps, kept until it has finished."""
        return self.root / "maps"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def attempt(self) -> Path:
        """The number of its last attempt: see `fence`."""
        return self.root / "attempt"


class StudyFolder(_Folder):
    @property
    def name(self) -> str:
        return self.root.name

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def study(self) -> Path:
        return self.root / "study.yaml"

    @property
    def environment(self) -> Path:
        """Where and with what the study began; each resume adds one, see `environment_of`."""
        return self.root / "environment.json"

    def environment_of(self, session: int) -> Path:
        return self.environment if session == 1 else self.root / f"environment-{session}.json"

    @property
    def control(self) -> Path:
        """Orders to the running driver, and its answers."""
        return self.root / "control"

    @property
    def driver_log(self) -> Path:
        """What Ray and other libraries say in the driver."""
        return self.root / "driver.log"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def figures(self) -> Path:
        """What the task draws of all its trials, each as ``<name>.png``."""
        return self.root / "figures"

    @property
    def model(self) -> Path:
        return self.root / "model"

    def trial(self, trial: str) -> TrialFolder:
        """Raises `UnknownName` for what cannot be a trial's id."""
        if not _PLAIN.fullmatch(trial):
            raise UnknownName("trial", trial, [], f"study '{self.name}'")
        return TrialFolder(self.root / "trials" / trial, self.mirror)

    def pages(self) -> list[Path]:
        """What the study as a whole has besides its journal, as far as it is here."""
        environments = sorted(self.root.glob("environment*.json"))
        return [path for path in (self.study, *environments, self.figures, self.report) if path.exists()]

    def obtain_pages(self) -> None:
        if self.mirror is not None:
            self.obtain(self.study)
            session = 1
            while self.mirror.entry(self.environment_of(session)) is not None:
                self.obtain(self.environment_of(session))
                session += 1
            self.obtain(self.figures)
            self.obtain(self.report)

    def obtain_journal(self) -> None:
        """Bring here what a reader needs: the journal, the study, who writes it. Not while a process here writes it."""
        if self.mirror is not None and not journal.is_written_here(self.journal):
            lease.keep_copy(self.mirror, journal.lease_of(self.journal))
            parts.obtain_journal(self.mirror, self.journal)
            self.obtain(self.study)


@dataclass(frozen=True)
class LoginFolder:
    """What an MLflow server with a login keeps to itself; only the owner can read it."""

    root: Path

    @property
    def password(self) -> Path:
        """The admin's."""
        return self.root / "password"

    @property
    def settings(self) -> Path:
        return self.root / "login.ini"

    @property
    def users(self) -> Path:
        return self.root / "users.db"


@dataclass(frozen=True)
class Runs:
    """The folder of all studies, the embedded tracker beside them, and the cache their trials share.

    The embedded tracker is not at a URL: ``orchestrator track STUDY`` makes it anew from the journal on any machine.
    """

    root: Path
    mirror: Mirror | None = None

    @classmethod
    def default(cls) -> Runs:
        """``$ORCHESTRATOR_RUNS``, a folder or a URL of one, or ``runs`` in the current folder."""
        given = os.environ.get("ORCHESTRATOR_RUNS", "runs")
        if is_url(given):
            mirror = Mirror(given)
            return cls(mirror.root, mirror)
        return cls(Path(given).expanduser().absolute())

    @property
    def where(self) -> str:
        return str(self.root) if self.mirror is None else self.mirror.url

    @property
    def tracker(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def tracker_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def login(self) -> LoginFolder:
        return LoginFolder(self.root / ".login")

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def shipped(self) -> Path:
        """Data that was sent along with studies, each folder named after its content."""
        return self.root / "shipped"

    def studies(self) -> list[StudyFolder]:
        """The studies here, oldest first."""
        for name in self.mirror.folders() if self.mirror is not None else ():
            if name not in TAKEN:
                self._folder(name).obtain_journal()
        folders = [StudyFolder(path.parent, self.mirror) for path in self.root.glob("*/journal.jsonl")]
        return sorted(folders, key=lambda folder: folder.study.stat().st_mtime if folder.study.exists() else 0)

    def study(self, name: str) -> StudyFolder:
        """An existing study. Raises `UnknownName` with the nearest."""
        if not _PLAIN.fullmatch(name) or not (folder := self._obtained(name)).journal.exists():
            raise UnknownName("study", name, [f.name for f in self.studies()], self.where)
        return folder

    def newest(self, name: str) -> StudyFolder | None:
        """The last of the runs ``name``, ``name-2``, … of a study."""
        newest, number = None, 1
        while (folder := self._numbered(name, number)).journal.exists():
            newest, number = folder, number + 1
        return newest

    def _numbered(self, name: str, number: int) -> StudyFolder:
        return self._obtained(name if number == 1 else f"{name}-{number}")

    def _folder(self, name: str) -> StudyFolder:
        return StudyFolder(self.root / name, self.mirror)

    def _obtained(self, name: str) -> StudyFolder:
        folder = self._folder(name)
        folder.obtain_journal()
        return folder

    def new_study(self, name: str) -> StudyFolder:
        """A folder for a new run of a study: ``name``, or ``name-2``, … when that has been run before.

        Raises `FolderBusy` when one of them is being written by a live process.
        """
        number = 1
        while True:
            folder = self._numbered(name, number)
            if not folder.journal.exists():
                return folder
            if journal.is_written(folder.journal):
                raise FolderBusy(
                    f"study '{folder.name}' is running{journal.owner(folder.journal)}",
                    f"wait for it, or give this one another name: name={name}-{number + 1}",
                )
            number += 1
