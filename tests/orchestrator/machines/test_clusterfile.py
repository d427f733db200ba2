from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.errors import StudyError
from orchestrator.machines import clusterfile

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def key(tmp_path) -> Path:
    path = tmp_path / "key"
    path.touch()
    return path


def write(tmp_path: Path, key: Path, **changes) -> Path:
    raw = {
        "cluster_name": "lab",
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
        "auth": {"ssh_user": "ann", "ssh_private_key": str(key)},
        "metadata": {"orchestrator": {"runs": "/shared/runs"}},
    }
    for dotted, value in changes.items():
        at = raw
        *above, last = dotted.split("__")
        for name in above:
            at = at[name]
        if value is None:
            del at[last]
        else:
            at[last] = value
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def test_hosts_login_and_runs(tmp_path, key):
    cluster = clusterfile.load(write(tmp_path, key))
    assert [host.address for host in cluster.hosts] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert {(host.user, host.key) for host in cluster.hosts} == {("ann", key)}
    assert (cluster.name, cluster.runs, dict(cluster.environment)) == ("lab", "/shared/runs", {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"provider__head_ip": None}, "provider.head_ip: is missing"),
        ({"provider__worker_ips": "10.0.0.2"}, "provider.worker_ips: expected a list of addresses"),
        ({"provider__worker_ips": ["10.0.0.1"]}, "provider.worker_ips: named twice: 10.0.0.1"),
        ({"provider__worker_ips": ["10.0.0.2", "10.0.0.2"]}, "named twice: 10.0.0.2"),
        ({"auth__ssh_private_key": "/nowhere/key"}, "auth.ssh_private_key: there is no key at /nowhere/key"),
        ({"metadata": {}}, "metadata.orchestrator.runs: is missing"),
        ({"metadata__orchestrator__runs": "runs"}, "expected an absolute path or a URL, got 'runs'"),
        ({"metadata__orchestrator__environment": {"A": 1}}, "expected names and texts"),
        ({"cluster_name": None}, "cluster_name: is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, key, changes, words):
    path = write(tmp_path, key, **changes)
    with pytest.raises(StudyError) as caught:
        clusterfile.load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_command_is_fixed_but_for_the_interpreter(tmp_path, key):
    cluster = clusterfile.load(write(tmp_path, key, metadata__orchestrator__python="~/my env/bin/python; reboot"))
    assert cluster.command == "~/'my env/bin/python; reboot' -m orchestrator.remote"


def test_the_file_that_ships_is_ready_to_be_filled_in(tmp_path, key):
    """Also for Ray's own schema, as `ray up` checks it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    text = (ROOT / "cluster.yaml").read_text()
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace("~/.ssh/id_ed25519", str(key)))
    cluster = clusterfile.load(path)
    assert len(cluster.hosts) == 3
    validate_config(prepare_config(yaml.safe_load(text)))
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert all("RAY_AUTH_MODE=token" in c for c in yaml.safe_load(text)[commands] if "ray start" in c)
    to_change = [line for line in text.splitlines() if "<--" in line]
    assert len([line for line in to_change if not line.startswith("#")]) == 6
