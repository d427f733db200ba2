"""What a host of a cluster can be asked over SSH; `orchestrator.remote` obeys there."""

from __future__ import annotations

from enum import StrEnum


class Do(StrEnum):
    COMMAND = "command"
    SUBMIT = "submit"
    ATTACH = "attach"
    HAS_DATA = "has_data"
    TAKE_DATA = "take_data"
    STOP_RAY = "stop_ray"
    WHY_NOT_JOINED = "why_not_joined"
    PROBE = "probe"
