"""Word that a study is over: to a command or to a webhook. It never holds a study up for long, and never fails one.

    notify: notify-send "a study is over"     # a command; the facts come as JSON on its standard input
    notify: https://ntfy.sh/a-topic           # a webhook; the facts come as the body of a POST
    notify: $SLACK_WEBHOOK                    # either of them, from the environment of whoever runs the study

The facts have a ``text``, which Slack and its kin show. What of a URL comes after the host lets anybody post there: it
is in no journal, log or page, and so a resume must be given it again, unless it comes from the environment.

>>> Notify("https://hooks.example.org/services/T0/B0/x1y2z3")
Notify(https://hooks.example.org/***)
>>> str(Notify("$SLACK_WEBHOOK")), Notify("$SLACK_WEBHOOK").is_whole
('$SLACK_WEBHOOK', True)
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import UserError
from orchestrator.redaction import HIDDEN, redacted, without_paths

SECONDS = 10.0
"""How long the end of a study may wait for it."""
_VARIABLE = re.compile(r"\$([A-Za-z_]\w*)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


@dataclass(frozen=True, repr=False)
class Notify:
    """Whom to notify; as text it is what may be written down. Raises ValueError for what is neither form."""

    _text: str

    def __post_init__(self) -> None:
        if not isinstance(self._text, str) or not self._text.strip():
            raise ValueError("expected a command, a webhook's URL, or $NAME of a variable that holds one of them")
        if _VARIABLE.fullmatch(self._text):
            return
        if self.is_webhook:
            parts = urlsplit(self._text)
            if parts.scheme.lower() not in ("http", "https") or not parts.hostname or re.search(r"[\s'\"]", self._text):
                raise ValueError("a webhook's URL is written https://HOST/…")
        else:
            try:
                shlex.split(self._text)
            except ValueError as error:
                raise ValueError(f"the command cannot be read: {str(error).lower()}") from None

    def __str__(self) -> str:
        return without_paths(self._text)

    def __repr__(self) -> str:
        return f"Notify({self})"

    @property
    def is_webhook(self) -> bool:
        return _URL.match(self._text) is not None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of it is missing, as it is in a journal where that may not be."""
        return HIDDEN not in self._text

    def check(self) -> None:
        """Raise `UserError` when it is plain now that it will not work."""
        words = self._resolved()
        if words.is_webhook or not words.is_whole:
            return
        program = shlex.split(words._text)[0]
        if shutil.which(program) is None:
            raise UserError(
                f"notify: there is no program '{program}' here",
                "correct its name, or leave it out: notify=null; for what a shell understands, write: sh -c '…'",
            )

    def deliver(self, facts: Mapping[str, Any]) -> str | None:
        """Send it off, and return why it did not arrive, if so; after `SECONDS` nobody waits for it any more."""
        said = [f"no answer within {SECONDS:g} s"]

        def send() -> None:
            try:
                target = self._resolved()
                said[0] = target._post(facts) if target.is_webhook else target._run(facts)
            except Exception as error:  # whatever it is: no reason to fail a study that has its results
                said[0] = str(error) or repr(error)

        thread = threading.Thread(target=send, name="notify", daemon=True)
        thread.start()
        thread.join(SECONDS + 1)
        return without_paths(redacted(said[0])) or None

    def _resolved(self) -> Notify:
        found = _VARIABLE.fullmatch(self._text)
        if found is None:
            return self
        value = os.environ.get(found[1])
        if not value:
            raise UserError(
                f"notify: the environment has no {found[1]}",
                f"set it: export {found[1]}=…; or leave it out: notify=null",
            )
        try:
            return Notify(value)
        except ValueError as error:
            raise UserError(f"notify: {found[1]} of the environment: {error}", f"set it: export {found[1]}=…") from None

    def _post(self, facts: Mapping[str, Any]) -> str:
        from orchestrator.web import NoAnswer, post  # takes its time to import, and few studies want it

        try:
            post(self._text, facts, SECONDS)
        except NoAnswer as error:
            return str(error)
        return ""

    def _run(self, facts: Mapping[str, Any]) -> str:
        """Files and not pipes: neither who does not read nor who never ends may hold this up."""
        shown = {f"ORCHESTRATOR_{key.upper()}": str(facts[key]) for key in ("study", "state", "text")}
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(json.dumps(facts).encode())
            given.seek(0)
            process = subprocess.Popen(
                shlex.split(self._text),
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
                env={**os.environ, **shown},
            )
            try:
                code = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"the command had not ended after {SECONDS:g} s"
            said.seek(0)
            lines = said.read(10_000).decode(errors="replace").strip().splitlines()
        return "" if code == 0 else f"the command ended with {code}" + (f": {lines[-1]}" if lines else "")
