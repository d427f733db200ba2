"""How the pages' commands are executed here. Who adds a page adds to these tables what its commands need, if anything.

A command runs as it is printed, but for three things: a searching one is given `SHRINK` behind its own words, so that
it takes a second; `STAND_INS` are put in the place of a reader's own folders; and what needs other machines or a
running server is left to the test that `ELSEWHERE` names. A command that none of this fits fails.
"""

from __future__ import annotations

from dataclasses import dataclass

# ------------------------------------------------------------------------------------------- what makes a run short

DOGS = "params.resolution=32 params.views=1 params.epochs=2 params.batch_size=6"
SHRINK = {  # of a task
    "dogs": f"{DOGS} search.trials=3",
    "angles": "params.samples=2000 params.shard=1000 search.space={n:{choice:[3,5]}}",
    "attribution": "params.photos=3 params.resolution=32 params.max_nodes=32 params.tolerance=1 params.samples=8"
    " search.space={baseline:{choice:[zero]}}",
    "batchnorm": "params.steps=20 params.width=4 params.stability_steps=2 search.seeds=2"
    " search.space={lr:{choice:[0.1]},norm:{choice:[none,batch]}}",
    "compare": "",
    "ebgan": "params.steps=4 params.report_every=2 params.width=8 params.generator_width=8 params.batch_size=16"
    " params.evaluated=100 params.final=200 params.chain_steps=4 params.channels=4 search.seeds=1",
    "ensemble": "search.trials=3 params.bags=2",
    "layerwise": "params.steps=20 search.space={optimizer:{choice:[sgd,adam]},scale:{choice:[3.0]}}",
    "multilabel": "params.epochs=1 params.train_rows=200 params.held_rows=100 search.seeds=2"
    " search.space={loss:{choice:[bce,zlpr]},lr:{choice:[0.01]}}",
    "terms": "params.judged=10",
}
SHRINK_STUDY = {  # of a study, where its task's does not fit
    "dogs-arms": f"{DOGS} params.frozen_epochs=0 params.clean_epochs=0 search.seeds=2"
    " search.space={without:{choice:[nothing,glu]}}",
    "dogs-ablation": "params.seeds=2 search.space={arm:{choice:[glu]}}",
    "dogs-probe": f"{DOGS} search.seeds=2",
    "dogs-tuned": f"{DOGS} params.probe_epochs=2 search.seeds=2",
    "dogs-gain": "params.seeds=2",
    "dogs-diverse": f"{DOGS} search.seeds=1 search.space={{diversity:{{choice:[0]}}}}",
    "dogs-finetune": f"{DOGS} params.frozen_epochs=0 params.clean_epochs=1 search.trials=2",
    "dogs-recipe": f"{DOGS} params.frozen_epochs=0 params.clean_epochs=1 params.backbone=tf_efficientnet_lite0"
    " params.weights=packaged",
    "terms-search": "params.judged=10 search.trials=3",
    "ebgan-modes": "params.steps=4 params.report_every=2 params.width=8 params.generator_width=8 params.batch_size=16"
    " params.evaluated=100 params.final=200 params.chain_steps=4 search.trials=3",
}

OFFLINE = {"dogs-recipe": "params.weights=none"}  # a study whose plan asks the network, and what spares it that

# ------------------------------------------------------------------------------------- what stands for a reader's own

STAND_INS = {  # a word, or the end of one behind '=': below the folder of `docstandins`
    "FOLDER": "photos",
    "PHOTOS": "photos",
    "/shared/photos": "photos",
    "s3://BUCKET/photos": "photos",
    "s3://bucket/photos": "photos",
    "CORPUS": "corpus.txt",
    "FILE": "corpus.txt",
    "OTHER_TEXT": "other.txt",
    "LIST": "list.txt",
    "terms.tsv": "list.txt",
    "domain_power.txt": "corpus.txt",
    "background_science.txt.gz": "other.txt",
    "gold_power_wide.txt": "list.txt",
    "neg_power.txt": "list.txt",
    "s3://bucket/runs": "file://bucket",
    "s3://BUCKET/runs": "file://bucket",
}
FOLDERS = {  # which FOLDER a study reads, where it is no photos
    "multilabel-digits": "mnist",
    "ebgan-mnist-anomaly": "mnist",
    "ebgan-stacked-mnist": "mnist",
    "ebgan-kdd99": "kdd",
    "ebgan-cifar10": "pictures",
    "batchnorm-cifar10": "pictures",
}
STUDY = "dogs"  # what S, STUDY and TRIAL in prose stand for
NAMES = {"S": STUDY, "STUDY": STUDY, "TRIAL": "t0000", "S/TRIAL": f"{STUDY}/t0000", "KEY=VALUE": "priority=1"}
NAMES |= {"A": STUDY, "B": f"{STUDY}-2", "NAME": "imagewoof", "TASK": "my_task"}

# ------------------------------------------------------------------------ what is executed by another test than this


@dataclass(frozen=True)
class Test:
    """``file::test`` executes a command for real; ``mentions`` stands in that file."""

    name: str
    mentions: str


_RUNS = "tests/cluster/test_cluster_runs.py"
_DEPLOY = "tests/test_deploy.py"
ELSEWHERE = {  # how a command begins, as it is typed; with --cluster, what its command is executed by
    "orchestrator cluster up": Test(f"{_RUNS}::test_up_starts_ray_on_every_host", "cluster up"),
    "orchestrator cluster status": Test(f"{_RUNS}::test_up_starts_ray_on_every_host", "cluster status"),
    "orchestrator cluster down": Test(f"{_RUNS}::test_down_leaves_no_process_of_ray", "cluster down"),
    "orchestrator attach": Test(f"{_RUNS}::test_it_goes_on_without_the_laptop_and_obeys_another_shell", "attach left"),
    "orchestrator ui": Test("tests/faults/test_listening.py::test_the_ui_listens_to_this_machine_alone", "ui --port"),
    "orchestrator --install-completion": Test(
        "tests/orchestrator/commands/test_completion.py::test_commands_and_options", "complet"
    ),
    "orchestrator data get": Test("tests/orchestrator/datasets/test_get.py::test_the_commands", "data get"),
    "make demo": Test("tests/faults/test_listening.py::test_a_demo_listens_to_this_machine_alone", "demo"),
    "docker build": Test(f"{_DEPLOY}::test_the_image_is_made_of_what_is_here", "Dockerfile"),
    "kubectl apply": Test(f"{_DEPLOY}::test_the_manifest_is_valid", "kuberay-rayjob.yaml"),
    "sbatch": Test(f"{_DEPLOY}::test_a_job_on_slurm_runs_the_study_with_ray_on_all_nodes", "slurm.sbatch"),
    "scancel --batch --signal=INT": Test(
        "tests/faults/test_slurm.py::test_a_study_is_stopped_and_queued_again_and_goes_on", "scancel --batch"
    ),
}  # fmt: skip
ON_A_CLUSTER = {  # with --cluster or ORCHESTRATOR_CLUSTER
    "run": Test(f"{_RUNS}::test_a_search_of_dogs_works_on_all_hosts", "run dogs-demo"),
    "resume": Test(f"{_RUNS}::test_a_dead_driver_is_resumed", "resume dead"),
    "ps": Test(f"{_RUNS}::test_it_goes_on_without_the_laptop_and_obeys_another_shell", "ps --json"),
    "logs": Test(f"{_RUNS}::test_it_goes_on_without_the_laptop_and_obeys_another_shell", "logs left"),
    "stop": Test(f"{_RUNS}::test_it_goes_on_without_the_laptop_and_obeys_another_shell", "stop left t0000"),
    "doctor": Test(f"{_RUNS}::test_a_wrong_token_and_another_torch_are_found", "doctor"),
}
FOREIGN = {  # programs of others: how a command begins → the file that it acts upon, and what must be in that file
    "docker push registry.example.com/orchestrator": ("deploy/Dockerfile", ["FROM"]),
    "kubectl get rayjob dogs": ("deploy/kuberay-rayjob.yaml", ["kind: RayJob", "name: dogs"]),
    "kubectl delete rayjob dogs": ("deploy/kuberay-rayjob.yaml", ["kind: RayJob", "name: dogs"]),
    "kubectl logs -f job/dogs": ("deploy/kuberay-rayjob.yaml", ["name: dogs"]),
    "kubectl get pod -o name -l ray.io/node-type=head": ("deploy/kuberay-rayjob.yaml", ["headGroupSpec"]),
    "kubectl exec": ("deploy/kuberay-rayjob.yaml", ["name: ray-head"]),
    "tail -f slurm-JOB.out": ("deploy/slurm.sbatch", ["#SBATCH"]),
}
