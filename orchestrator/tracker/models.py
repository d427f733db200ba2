"""The best trial's model in MLflow: logged with its run, and registered under the study's name, where it is ``best``.

Both may be asked for again: what is there already is found and left as it is. When a resumed study has another best
trial, that becomes the next version of the model, and the alias moves to it.
"""

from __future__ import annotations

import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.history.folder import StudyFolder
from orchestrator.history.record import Record, TrialRecord
from orchestrator.studies.plan import metric_of
from tasks import serving

ALIAS = "best"
_UID = "orchestrator.study"  # on a registered model: whose it is


def log(
    client: Any, experiment: str, run: str, folder: StudyFolder, record: Record, best: TrialRecord, model: Any
) -> str:
    """Export the best trial's model and log it with its run; its URI, ``models:/ID``."""
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import infer_signature

    folder.model.mkdir(exist_ok=True)
    folder.obtain(folder.trial(best.id).artifacts)
    example = model.export(folder.trial(best.id).artifacts, folder.model)
    serving.mark(folder.model, record.study["task"])
    answer = serving.load(folder.model).predict(example)
    requirements = [f"{name}=={metadata.version(name)}" for name in model.packages]
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        mlflow.pyfunc.save_model(
            str(target),
            loader_module="tasks.serving",
            data_path=str(folder.model),
            code_paths=[str(Path(serving.__file__).parent)],
            signature=infer_signature(example, answer),
            input_example=example,
            pip_requirements=requirements,
        )
        begun = client.search_logged_models([experiment], f"source_run_id = '{run}'")
        logged = begun[0] if begun else client.create_logged_model(experiment, ALIAS, run)
        client.log_model_artifacts(logged.model_id, str(target))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=best.steps)])
    uri = f"models:/{logged.model_id}"
    client.set_tag(run, "model", uri)
    return uri


def register(client: Any, study: str, record: Record, best: TrialRecord, run: str, uri: str) -> tuple[str, str]:
    """Make the logged model of this run the version of the study's registered model that is `ALIAS`.

    Returns the registered model's name, which is the study's unless another study's model has it, and the version.
    """
    registered = _registered(client, study, record)
    name, model_id = registered.name, uri.rpartition("/")[2]
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
    if known:
        version = min((each.version for each in known), key=int)
    else:
        metric, _ = metric_of(record)
        said = f"{best.id} of {study}: {metric} {best.value(metric):.4g}"
        tags = {"trial": best.id, "seed": str(best.seed)}
        # Where it lies, not its URI: a store that is no server would look that up in MLflow's default store.
        place = client.get_logged_model(model_id).artifact_location
        version = client.create_model_version(name, place, run, tags, description=said, model_id=model_id).version
        versions = json.dumps([{"name": name, "version": str(version)}])
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})  # its own page then leads there
    if str(registered.aliases.get(ALIAS)) != str(version):
        client.set_registered_model_alias(name, ALIAS, version)
    return name, str(version)


def _registered(client: Any, study: str, record: Record) -> Any:
    """The study's registered model, made if need be. On a server, others may have studies of the same name."""
    for name in (study, f"{study}-{record.uid[:8]}"):
        found = client.search_registered_models(f"name = '{name}'")
        if not found:
            return client.create_registered_model(name, {_UID: record.uid}, record.study["question"])
        if found[0].tags.get(_UID) == record.uid:
            return found[0]
    raise RuntimeError(f"the registry has other models called {study} and {name}")
