"""Fixtures for the tests on several hosts."""

from __future__ import annotations

import hosts
import pytest


@pytest.fixture(scope="session")
def hosts_allowed() -> None:
    """Skips, and says why, where this machine cannot make hosts."""
    reason = hosts.skip_reason()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def hosts_lab(hosts_allowed, tmp_path_factory):
    """Three hosts that the tests of a module share."""
    with hosts.Lab(tmp_path_factory.mktemp("lab")) as made:
        yield made
