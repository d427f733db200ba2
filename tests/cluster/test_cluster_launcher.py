"""Ray's cluster launcher, over SSH, on hosts of one's own: what ``ray up`` starts and what ``ray down`` leaves."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import hosts
import pytest
import yaml

pytestmark = pytest.mark.cluster

# Ray's processes; the SSH server and its logins are the hosts' own.
RAY = r"raylet|gcs_server|ray::|ray/_private|ray/dashboard|ray/autoscaler|ray\.util"
PATIENCE_SECONDS = 180.0
START = "--num-cpus=1 --object-store-memory=80000000 --disable-usage-stats"


class Launched:
    """``ray up`` on the hosts of a lab: the first is the head, the others are workers."""

    def __init__(self, lab: hosts.Lab) -> None:
        self.lab, self.file = lab, lab.root / "cluster.yaml"
        self.file.write_text(yaml.safe_dump({
            "cluster_name": "laboratory",
            "provider": {
                "type": "local", "head_ip": lab.head.address,
                "worker_ips": [host.address for host in lab.hosts[1:]],
            },
            "auth": {"ssh_user": "root", "ssh_private_key": str(lab.key)},
            # The launcher brings it to the head, and the head to the workers.
            "file_mounts": {"~/.ray/auth_token": str(lab.laptop / ".ray" / "auth_token")},
            # The second autoscaler does not know the head of such a cluster: it takes it for a lost machine after
            # the first worker, and starts no other.
            "head_start_ray_commands": [
                "ray stop --force",
                "RAY_enable_autoscaler_v2=0 RAY_AUTH_MODE=token ray start --head --port=6379 "
                f"--autoscaling-config=~/ray_bootstrap_config.yaml --include-dashboard=false {START}",
            ],
            "worker_start_ray_commands": [
                "ray stop --force",
                f"RAY_AUTH_MODE=token ray start --address=$RAY_HEAD_IP:6379 {START}",
            ],
        }))  # fmt: skip

    def ray(self, *words: str) -> str:
        """``ray WORDS`` as typed on the laptop."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ray"), *words], env={**self.lab.environment, "RAY_AUTH_MODE": "token"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for(self, count: int) -> None:
        """Until the head counts so many CPUs, one of each host."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status = self.lab.head.run("ray", "status", RAY_AUTH_MODE="token")
            if re.search(rf"/{count}\.0 CPU", status.stdout):
                return
            assert time.monotonic() < deadline, status.stdout + status.stderr
            time.sleep(0.5)


# Where one task of each node ran.
ASK = """
import ray, socket
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=1)
def name():
    return socket.gethostname()
nodes = [node for node in ray.nodes() if node["Alive"]]
strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
calls = [name.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote() for node in nodes]
print(*sorted(ray.get(calls, timeout=120)))
print(*sorted(node["NodeManagerAddress"] for node in nodes))
"""


def test_the_launcher_starts_ray_on_every_host_and_its_end_leaves_no_process(hosts_allowed, tmp_path):
    with hosts.Lab(tmp_path / "lab", 3) as lab:
        for host in lab.hosts:  # a new host has no token; the launcher brings it
            (host.home / ".ray" / "auth_token").unlink()
        cluster = Launched(lab)
        cluster.ray("up", "-y", "--no-config-cache", str(cluster.file))
        cluster.wait_for(3)
        asked = lab.head.run("python", "-c", ASK, RAY_AUTH_MODE="token")
        assert asked.stdout.splitlines() == ["host1 host2 host3", " ".join(host.address for host in lab.hosts)], asked
        # A stranger without the token is turned away.
        refused = lab.head.run("ray", "status", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
        assert refused.returncode != 0
        cluster.ray("down", "-y", str(cluster.file))
        assert lab.head.processes(RAY) == {}
        # `ray down` stops the head alone.
        for worker in lab.hosts[1:]:
            assert worker.processes("raylet") != {}
            assert worker.run("ray", "stop", "--force").returncode == 0
            assert worker.processes(RAY) == {}
