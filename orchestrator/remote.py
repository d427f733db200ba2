"""What another machine's ``orchestrator`` asks of this one over SSH: one line of JSON in, one out.

Run as ``python -m orchestrator.remote``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from orchestrator import probe


def main() -> None:
    request = json.loads(sys.stdin.readline())
    print(json.dumps({"probe": _probe}[request["do"]](request)))


def _probe(request: dict[str, Any]) -> probe.Facts:
    """``{"do": "probe", "question": {…}}`` → the facts of this machine."""
    return probe.probe(probe.Question.from_plain(request["question"]))


if __name__ == "__main__":
    main()
