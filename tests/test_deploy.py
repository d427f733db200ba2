"""What is in deploy/ is what the systems it is for accept, and names commands, studies and settings that exist."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import boto3
import jsonschema
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.providers import _get_node_provider_cls as provider_class
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_NODE_KIND
from referencing import Registry, Resource

from orchestrator import cli
from orchestrator.studies.plan import Node
from orchestrator.studies.registry import study_names
from orchestrator.studies.studyfile import load_study

ROOT = Path(__file__).resolve().parents[1]
DEPLOY, DATA = ROOT / "deploy", Path(__file__).parent / "data"
LOCKED = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
REGION = "eu-central-1"


@pytest.fixture(scope="module")
def manifest() -> list[dict]:
    return list(yaml.safe_load_all((DEPLOY / "kuberay-rayjob.yaml").read_text()))


def containers(job: dict) -> list[dict]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def faults(document: dict) -> list[str]:
    """Where a manifest is not what its schema says."""
    schemas = {path.name: json.loads(path.read_text()) for path in DATA.glob("*.schema.json")}
    registry = Registry().with_resources([(name, Resource.from_contents(s)) for name, s in schemas.items()])
    claim = {"$ref": "kubernetes.schema.json#/$defs/PersistentVolumeClaim"}
    schema = claim if document["kind"] == "PersistentVolumeClaim" else schemas["rayjob.schema.json"]
    found = jsonschema.Draft202012Validator(schema, registry=registry).iter_errors(document)
    return [f"{error.json_path}: {error.message}" for error in found]


def test_the_manifest_is_valid(manifest):
    assert [document["kind"] for document in manifest] == ["PersistentVolumeClaim", "RayJob"]
    assert [faults(document) for document in manifest] == [[], []]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("$.spec", "ttlSecondsAfterFinished", "ttlSecondsAfterFinish"),
        ("$.spec.rayClusterSpec", "authOptions", "authOption"),
        ("$.spec.rayClusterSpec.workerGroupSpecs[0]", "groupName", "name"),
        ("$.spec.rayClusterSpec.workerGroupSpecs[0].template.spec.containers[0]", "volumeMounts", "volumMounts"),
        ("$.spec.rayClusterSpec.headGroupSpec.template.spec.volumes[1].emptyDir", "sizeLimit", "limit"),
    ],
)
def test_a_typo_in_the_manifest_is_found(manifest, path, old, new):
    job = json.loads(json.dumps(manifest[1]))
    place = job
    for key in re.findall(r"\w+", path.removeprefix("$")):
        place = place[int(key) if key.isdigit() else key]
    place[new] = place.pop(old)
    assert any(fault.startswith(f"{path}: ") and new in fault for fault in faults(job))


def test_a_wrong_value_in_the_manifest_is_found(manifest):
    job = json.loads(json.dumps(manifest[1]))  # a copy in which no part is another part's, too
    cluster = job["spec"]["rayClusterSpec"]
    cluster["authOptions"]["mode"] = "tokens"
    cluster["workerGroupSpecs"][0]["minReplicas"] = "2"
    cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "32 GB"
    assert len(faults(job)) == 3


def test_the_manifest_asks_for_a_token_and_the_locked_ray(manifest):
    cluster = manifest[1]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == LOCKED["ray"]
    assert len({container["image"] for container in containers(manifest[1])}) == 1


def test_the_manifest_runs_a_study_that_ships(manifest):
    program, verb, *words = shlex.split(manifest[1]["spec"]["entrypoint"])
    assert program in (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[2]
    assert {verb, "resume"} <= {command.callback.__name__ for command in cli.app.registered_commands}
    assert words[0] in study_names()
    assert manifest[1]["metadata"]["name"] == words[0]
    asked = load_study(words[0], words[1:])  # raises for a key that does not exist
    limits = containers(manifest[1])[-1]["resources"]["limits"]
    assert Node("worker", int(limits["cpu"]), int(limits["nvidia.com/gpu"])).holds(asked.resources)


def test_the_manifest_sets_what_the_package_reads(manifest):
    source = "".join(path.read_text() for path in (ROOT / "orchestrator").rglob("*.py"))
    mounted = {mount["mountPath"] for c in containers(manifest[1]) for mount in c["volumeMounts"]}
    for container in containers(manifest[1]):
        values = {variable["name"]: variable["value"] for variable in container["env"]}
        assert "ORCHESTRATOR_RUNS" in values
        for name, value in values.items():
            assert f'"{name}"' in source, name
            assert any(Path(value).is_relative_to(path) for path in mounted), value


def test_the_image_is_made_of_what_is_here():
    text = (DEPLOY / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {"requirements.lock", "pyproject.toml", "orchestrator", "tasks"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    python = re.search(r"^FROM python:3\.(\d+)-slim$", text, re.MULTILINE)
    assert python is not None
    assert f">=3.{python[1]}," in (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def aws() -> dict:
    return yaml.safe_load((DEPLOY / "cluster-aws.yaml").read_text())


def test_ray_accepts_the_cluster_on_aws(aws):
    validate_config(prepare_config(copy.deepcopy(aws)))
    typo = copy.deepcopy(aws)
    typo["available_node_types"]["gpu"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(typo))


def test_ray_rents_these_machines(aws, tmp_path, monkeypatch):
    """Ray's own launcher against a mock of EC2: which machines come, and that nothing but SSH is open to the world."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mock")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mock")
    config = copy.deepcopy(aws)
    key = tmp_path / "lab.pem"
    key.touch()
    config["auth"]["ssh_private_key"] = str(key)
    with mock_aws():
        ec2, iam = boto3.client("ec2", region_name=REGION), boto3.client("iam", region_name=REGION)
        for kind in config["available_node_types"].values():
            iam.create_instance_profile(InstanceProfileName=kind["node_config"]["IamInstanceProfile"]["Name"])
        config = prepare_config(config)
        launcher = provider_class(config["provider"])
        config = launcher.bootstrap_config(config)
        kinds = config["available_node_types"]
        cloud = launcher(config["provider"], config["cluster_name"])
        for name, kind in kinds.items():
            tags = {TAG_RAY_NODE_KIND: "head" if name == config["head_node_type"] else "worker"}
            cloud.create_node(kind["node_config"], tags, max(1, kind["min_workers"]))
        rented = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        groups = {group["GroupId"] for instance in rented for group in instance["SecurityGroups"]}
        rules = [
            rule
            for group in ec2.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
            for rule in group["IpPermissions"]
        ]
    assert {(i["InstanceType"], i.get("InstanceLifecycle", "")) for i in rented} == {
        ("g6.xlarge", "spot"), ("m7i.xlarge", ""),
    }  # fmt: skip
    assert config["max_workers"] == kinds["gpu"]["min_workers"] == kinds["gpu"]["max_workers"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules if rule["IpRanges"]] == [(22, 22)]


def test_the_cluster_on_aws_is_cluster_yaml_but_for_the_marked_lines(aws):
    """Line for line: whatever is not marked is as in cluster.yaml."""
    ours = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    same = ("cluster_name", "file_mounts", "rsync_exclude", "head_start_ray_commands", "worker_start_ray_commands")
    assert {key: aws[key] for key in same} == {key: ours[key] for key in same}
    assert [line for line in aws["setup_commands"] if "apt-get" not in line] == ours["setup_commands"]
    assert aws["metadata"]["orchestrator"].keys() == ours["metadata"]["orchestrator"].keys()


# The batch script with programs of ours for Slurm's and the study's; tests/faults/test_slurm.py has it run for real.
STUBS = {
    "srun": """echo "$@" >step
trap 'exit 130' USR1
echo $$ >step.pid
while [ ! -e over ]; do sleep 0.05; done
exit "$(cat over)" """,
    "orchestrator": """echo "$@" >>orders
kill -USR1 "$(cat step.pid)" """,
    "scontrol": 'echo "$@" >>slurm',
}


class Job:
    def __init__(self, here: Path, *words: str) -> None:
        self.here = here
        for name, text in {**STUBS, "../.venv/bin/activate": ""}.items():
            path = here / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        environment = {
            "PATH": f"{here / 'bin'}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(here),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "3",
            "SLURM_CPUS_PER_TASK": "5",
        }
        self.process = subprocess.Popen(
            ["bash", str(DEPLOY / "slurm.sbatch"), *words],
            env=environment, cwd=here, stderr=subprocess.PIPE, text=True,
            # What was started in a shell's background ignores SIGINT, and no bash below it may trap it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while not (here / "step.pid").exists() and self.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> int:
        _, err = self.process.communicate(timeout=30)
        assert list(self.here.glob(".ray-*")) == [], err
        return self.process.returncode

    def said(self, name: str) -> str:
        path = self.here / name
        return path.read_text() if path.exists() else ""


def test_a_job_on_slurm_runs_the_study_with_ray_on_all_nodes(tmp_path):
    job = Job(tmp_path, "dogs", "data=/shared/dogs")
    (tmp_path / "over").write_text("0")
    assert job.end() == 0
    address = re.search(r"--address (\S+:6379) ", job.said("step"))
    assert address is not None
    assert "ray symmetric-run" in job.said("step")
    assert "--min-nodes 3 --num-cpus=5" in job.said("step")
    assert job.said("step").endswith(f" env RAY_ADDRESS={address[1]} orchestrator run dogs data=/shared/dogs\n")
    assert job.said("slurm") == ""


@pytest.mark.parametrize(("number", "queued"), [(signal.SIGTERM, "requeue 7\n"), (signal.SIGINT, "")])
def test_a_job_on_slurm_stops_its_study_in_order(tmp_path, number, queued):
    job = Job(tmp_path, "my/study.yaml")
    job.process.send_signal(number)
    assert job.end() == 130
    assert job.said("orders") == "stop study\n"
    assert job.said("slurm") == queued


def test_what_the_study_ends_with_counts(tmp_path):
    """And not what `ray symmetric-run` ends with, which is 1 at times although all went well."""
    job = Job(tmp_path, "dogs")
    (tmp_path / ".ray-result-7").write_text("0")
    (tmp_path / "over").write_text("1")
    assert job.end() == 0


def test_a_job_on_slurm_goes_on_with_a_study_that_has_begun(tmp_path):
    journal = tmp_path / "runs" / "study" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.touch()
    (tmp_path / ".ray-result-7").write_text("130")  # what the job left when it was queued again
    job = Job(tmp_path, "my/study.yaml", "search.trials=8")
    (tmp_path / "over").write_text("1")
    assert job.end() == 1
    assert job.said("step").endswith("orchestrator resume study\n")


def test_the_batch_script_says_no_without_a_study(tmp_path):
    job = Job(tmp_path)
    _, err = job.process.communicate(timeout=30)
    assert job.process.returncode != 0
    assert "sbatch deploy/slurm.sbatch STUDY" in err


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_batch_script_is_sound():
    script = str(DEPLOY / "slurm.sbatch")
    done = subprocess.run(["shellcheck", "--shell=bash", "--severity=warning", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
