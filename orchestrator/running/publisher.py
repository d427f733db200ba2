"""Brings a running study to the URL where it is kept: its journal, and the pages about it.

What holds, whatever dies and when:

- What is at the URL is a beginning of the journal. It is behind by the time between two rounds (`ROUND_SECONDS`) and
  the upload; while the store does not answer, by as long as that lasts.
- A trial's checkpoint may be ahead of it. It holds the trial's reports of the last half minute, so that a resume
  elsewhere finds them there; where even that is too little, the trial begins anew (see `context.TrialContext.restore`).
- Before a trial goes on because of what others reported (promoted, or changed by pbt), all that led to it is at the
  URL: `settle`. So no checkpoint is ever ahead of a decision about its trial.
- The journal's last line comes after the pages: who reads that a study has ended finds its report.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from orchestrator.errors import EnvironmentProblem, StorageProblem
from orchestrator.history.folder import StudyFolder
from orchestrator.history.journal import Journal, is_written_here, lease_of
from orchestrator.objectstore import lease, parts
from orchestrator.objectstore.lease import Lease, LeaseLost
from orchestrator.objectstore.storage import QUICK_SECONDS, Mirror

ROUND_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 15.0


@contextlib.contextmanager
def open_journal(folder: StudyFolder) -> Iterator[Journal]:
    """A study's journal for writing, and at its end the URL up to date, if there is one.

    Raises `FolderBusy` when another process or machine writes it, and `StorageProblem` when the URL cannot be reached,
    or in the end still lacks something: it is kept here then, and the next who opens the journal here sends it.
    """
    if folder.mirror is None:
        with Journal(folder.journal) as journal:
            yield journal
        return
    if is_written_here(folder.journal):
        with Journal(folder.journal):  # raises, and says by whom
            pass
    held = lease.take(folder.mirror, lease_of(folder.journal))
    try:
        published = parts.obtain_journal(folder.mirror, folder.journal)
        folder.obtain_pages()
        with Journal(folder.journal) as journal:
            publisher = Publisher(folder, folder.mirror, journal, held, published)
            journal.settle, journal.trouble = publisher.settle, publisher.trouble
            try:
                yield journal
            except BaseException:
                publisher.finish(QUICK_SECONDS)
                raise
            publisher.finish(folder.mirror.patient().patience)
    finally:
        with contextlib.suppress(StorageProblem):  # it goes stale in a minute
            held.release()


class Publisher:
    """Publishes from a thread of its own. Nothing waits for it but `settle` and `finish`."""

    def __init__(self, folder: StudyFolder, mirror: Mirror, journal: Journal, held: Lease, published: int) -> None:
        self._folder, self._mirror, self._journal, self._lease = folder, mirror, journal, held
        self._published = min(published, journal.end)  # a torn last line was dropped
        self._error: StorageProblem | None = None
        self._asked = threading.Event()
        self._done = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def trouble(self) -> EnvironmentProblem | None:
        """Why this process must not go on, if so."""
        return self._error if isinstance(self._error, LeaseLost) else None

    def settle(self) -> None:
        """Wait until all that has been appended is at the URL. Raises `StorageProblem` when that takes too long."""
        end, deadline = self._journal.end, time.monotonic() + self._mirror.patient().patience
        self._asked.set()
        with self._change:
            while self._published < end:
                if isinstance(self._error, LeaseLost) or time.monotonic() > deadline or not self._thread.is_alive():
                    raise self._behind() from self._error
                self._change.wait(0.1)

    def finish(self, patience: float) -> None:
        """Send what is left. Raises `StorageProblem` when that is not done in about ``patience`` seconds."""
        self.abandon()
        deadline = time.monotonic() + patience
        while not self._round():
            if isinstance(self._error, LeaseLost) or time.monotonic() > deadline:
                raise self._behind() from self._error
            time.sleep(ROUND_SECONDS)

    def abandon(self) -> None:
        """Send nothing more."""
        self._done = True
        self._asked.set()
        self._thread.join()

    def _behind(self) -> StorageProblem:
        if isinstance(self._error, LeaseLost):
            return self._error
        name = self._folder.name
        return StorageProblem(
            f"not all of '{name}' is at {self._mirror.url}: {self._error or 'it takes too long'}",
            f"all is kept in {self._folder.root}; when the store answers again: orchestrator resume {name}",
        )

    def _work(self) -> None:
        wait = ROUND_SECONDS
        while not self._done:
            self._asked.wait(wait)
            self._asked.clear()
            if not self._done:
                well = self._round()
                if isinstance(self._error, LeaseLost):
                    return
                wait = ROUND_SECONDS if well else min(_LONGEST_WAIT_SECONDS, 2 * wait)

    def _round(self) -> bool:
        """The lease first, the journal last. What goes wrong is for `trouble`, `settle` and `finish` to say."""
        if isinstance(self._error, LeaseLost):
            return False
        try:
            self._lease.renew()
            end = self._journal.end  # before the pages: those that its last line speaks of are among them
            for page in self._folder.pages():
                self._mirror.publish(page)
            if end > self._published:
                parts.publish_journal(self._mirror, self._folder.journal, end, self._published)
        except Exception as error:
            self._error = error if isinstance(error, StorageProblem) else StorageProblem(f"publishing broke: {error!r}")
            return False
        with self._change:
            self._published, self._error = end, None
            self._change.notify_all()
        return True
