"""The network of a run's best checkpoint as an MLflow model, and its version in the model registry.

A model is a directory in MLflow's format: MLmodel (signature, requirements, model card), an input example, and one file
of ours, which the module LOADER reads; nothing in it is pickled. All calls use a client of their own: MLflow's global
state (active run, tracking URI) is neither read nor changed.
"""

import contextlib
import json
import platform
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import distseg
from distseg import storage
from distseg.errors import TrackingError, first_line
from distseg.metric_names import EVALUATION, class_iou
from distseg.tracking.address import without_password
from distseg.tracking.client import connect, rounded, server_errors
from distseg.tracking.environment import extended_timeout, set_defaults
from distseg.tracking.mlflow_runs import DATASET_DIGEST_LENGTH, DESCRIPTION_TAG, DataInput

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

# MLflow imports this module where a model is loaded, and calls its `_load_pyfunc`. Models that were logged earlier
# name `distseg.serving`.
LOADER = "distseg.deployment.segmenter"
MODEL_FILE = "model.pt"
CHAMPION = "champion"
OBJECTIVE_TAG, EVALUATION_TAG = "objective", "evaluation.digest"
EXAMPLE_SHAPE = (1, 48, 64, 3)  # of the input example: (B, H, W, 3)
CARD_LENGTH = 5000  # characters that MLflow takes as the description of a version


@dataclass(frozen=True, kw_only=True)
class ModelToLog:
    """A model to be logged: one file, its scores and its description."""

    name: str
    file: bytes  # checkpoint.as_one_file
    step: int
    scores: Mapping[str, float]  # the checkpoint's metrics, named as in metric_names
    evaluated_on: DataInput  # the images that gave these scores
    tags: Mapping[str, str] = field(default_factory=dict)
    card: str = ""  # Markdown


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str
    is_champion: bool
    why: str  # a sentence: why it is, or is not, the champion


# ---- logging


def log_model(uri: str, run_id: str, model: ModelToLog) -> str:
    """Logs the model to the run and links the run's metrics of that step to it. Returns the id of MLflow's LoggedModel.

    If the run has a model of the same step and scores, that one's id is returned and nothing is logged. Raises
    TrackingError if the server does not answer or refuses.
    """
    client = connect(uri)
    try:
        run = client.get_run(run_id)
        if found := _find_logged(client, run, model):
            return found
        created = client.create_logged_model(
            run.info.experiment_id,
            name=model.name,
            source_run_id=run_id,
            tags=_tags(model) | {DESCRIPTION_TAG: model.card},
            params=dict(run.data.params),
            model_type="segmentation",
        )
        try:
            _upload(client, created.model_id, run_id, model)
            _link(client, run, created.model_id, model)
        except BaseException:
            with contextlib.suppress(*server_errors()):
                client.finalize_logged_model(created.model_id, "FAILED")
            raise
        client.finalize_logged_model(created.model_id, "READY")
        return str(created.model_id)
    except server_errors() as error:
        raise TrackingError(
            f"MLflow at {without_password(uri)}: the model is not logged: {first_line(error)}"
        ) from None


def _tags(model: ModelToLog) -> dict[str, str]:
    scores = {name: str(rounded(value)) for name, value in model.scores.items()}
    return {**model.tags, **scores, EVALUATION_TAG: model.evaluated_on.shards_digest, "step": str(model.step)}


def _find_logged(client: "MlflowClient", run: "Run", model: ModelToLog) -> str:
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    for output in outputs:
        if output.step != model.step:
            continue
        found = client.get_logged_model(output.model_id)
        if found.status == "READY" and _tags(model).items() <= found.tags.items():
            return str(found.model_id)
    return ""


def _upload(client: "MlflowClient", model_id: str, run_id: str, model: ModelToLog) -> None:
    with storage.scratch_folder() as folder:
        directory = Path(folder, "model")
        write_model(directory, model, model_id=model_id, run_id=run_id)
        with extended_timeout(len(model.file)):
            client.log_model_artifacts(model_id, str(directory))


def prepare_to_log_model() -> None:
    """Imports what that takes. It can be called earlier, from any thread."""
    set_defaults()
    with warnings.catch_warnings():  # mlflow.pyfunc warns of its own type hints
        warnings.simplefilter("ignore", UserWarning)
        import mlflow.pyfunc  # noqa: F401


def write_model(directory: Path, model: ModelToLog, *, model_id: str = "", run_id: str = "") -> None:
    """Writes the model as `mlflow.pyfunc.load_model` takes it. `directory` must not exist.

    What `mlflow.pyfunc.save_model` writes, without its search through the files of all installed packages, which takes
    seconds at the end of each training.
    """
    set_defaults()
    from mlflow.models import Model

    prepare_to_log_model()
    import mlflow.pyfunc

    about = Model(run_id=run_id or None, model_id=model_id or None, model_uuid=model_id or uuid.uuid4().hex)
    about.metadata = {"model_card": model.card, "step": model.step, "distseg": distseg.__version__, **model.tags}
    about.signature = signature()
    about.saved_input_example_info = {
        "artifact_path": "input_example.json",
        "serving_input_path": "serving_input_example.json",
        "type": "ndarray",
    }
    data = f"data/{MODEL_FILE}"
    mlflow.pyfunc.add_to_model(
        about,
        loader_module=LOADER,
        data=data,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"precision": "auto"},
    )
    files = _files_beside(model) | {data: model.file}
    about.model_size_bytes = sum(map(len, files.values()))
    Path(directory, data).parent.mkdir(parents=True)
    for name, content in files.items():
        Path(directory, name).write_bytes(content)
    about.save(str(directory / "MLmodel"))


def _files_beside(model: ModelToLog) -> dict[str, bytes]:
    """Model card, input example, and the environment in the three forms that MLflow's ways of serving read.

    What is named YAML is written as JSON, which is YAML too.
    """
    python = platform.python_version()
    conda = {"name": "mlflow-env", "channels": ["conda-forge"]}
    packages = [f"python={python}", "pip", {"pip": requirements()}]
    virtualenv = {"python": python, "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    example = np.random.default_rng(0).integers(0, 256, EXAMPLE_SHAPE, dtype=np.uint8).tolist()
    texts = {
        "model_card.md": model.card,
        "requirements.txt": "\n".join(requirements()),
        "conda.yaml": json.dumps(conda | {"dependencies": packages}, indent=1),
        "python_env.yaml": json.dumps(virtualenv, indent=1),
        "input_example.json": json.dumps(example),
        "serving_input_example.json": json.dumps({"inputs": example}),
    }
    return {name: text.encode() for name, text in texts.items()}


def signature() -> "ModelSignature":
    """uint8 images (B, H, W, 3) in, uint8 label maps (B, H, W) out, of any size."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    byte = np.dtype(np.uint8)
    return ModelSignature(
        inputs=Schema([TensorSpec(byte, (-1, -1, -1, 3))]), outputs=Schema([TensorSpec(byte, (-1, -1, -1))])
    )


def requirements() -> list[str]:
    """pip requirements: the packages that predict, at the versions that trained. distseg requires the rest itself."""
    # Without the local part of a version (+cu130): only PyTorch's own index has those builds.
    versions = {name: metadata.version(name).partition("+")[0] for name in ("mlflow", "numpy", "torch", "torchvision")}
    return [f"{name}=={version}" for name, version in ({"distseg": distseg.__version__} | versions).items()]


def _link(client: "MlflowClient", run: "Run", model_id: str, model: ModelToLog) -> None:
    from mlflow.entities import LoggedModelOutput

    client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, model.step)])
    metrics = _metrics_at(client, run, model_id, model)
    if metrics:
        client.log_batch(run.info.run_id, metrics=metrics)


def _metrics_at(client: "MlflowClient", run: "Run", model_id: str, model: ModelToLog) -> list["Metric"]:
    """The run's metrics of that step with their exact times: with another time MLflow would add a second value.

    The IoU of each class is left out. It would cost one request each, and the run and the model card have it.
    """
    from mlflow.entities import Metric

    names = [name for name in run.data.metrics if name.startswith(EVALUATION) and not name.startswith(class_iou(""))]
    records = [record for name in names for record in client.get_metric_history(run.info.run_id, name)]
    data = {
        "dataset_name": model.evaluated_on.name,
        "dataset_digest": model.evaluated_on.digest[:DATASET_DIGEST_LENGTH],
    }
    return [
        Metric(record.key, record.value, record.timestamp, record.step, model_id=model_id, **data)
        for record in records
        if record.step == model.step
    ]


# ---- the registry


def register_model(
    uri: str, run_id: str, model_id: str, model: ModelToLog, *, name: str, objective: str
) -> RegisteredVersion:
    """Creates a version of the registered model `name`, and gives it the alias `champion` if it beats the champion.

    It beats the champion if its score by `objective` is higher on the same images. If the images differ, or the
    champion was not registered by distseg, nothing is compared and the alias stays where it is. Raises TrackingError
    if the server does not answer or refuses.
    """
    client = connect(uri)
    try:
        champion = _champion(client, name)
        # Not models:/<id>: MLflow would look that up on the server of its global state, which may be another.
        source = client.get_logged_model(model_id).artifact_location
        version = _version_of(client, name, run_id, source) or client.create_model_version(
            name,
            source=source,
            run_id=run_id,
            tags=_tags(model) | {OBJECTIVE_TAG: objective},
            description=model.card[:CARD_LENGTH],
            model_id=model_id,
            await_creation_for=0,  # no need to wait: the files are uploaded already
        )
        number = str(version.version)
        is_champion, why = _judge(model, objective, number, champion)
        if is_champion:
            client.set_registered_model_alias(name, CHAMPION, number)
        return RegisteredVersion(name=name, version=number, is_champion=is_champion, why=why)
    except server_errors() as error:
        raise TrackingError(
            f"MLflow at {without_password(uri)}: {name!r} is not registered: {first_line(error)}"
        ) from None


def _champion(client: "MlflowClient", name: str) -> "ModelVersion | None":
    """The version with the alias, or None. Creates the registered model if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Semantic segmentation networks trained by distseg.")
        return None
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else client.get_model_version(name, str(version))


def _version_of(client: "MlflowClient", name: str, run_id: str, source: str) -> "ModelVersion | None":
    """The version that was created from this model earlier, or None."""
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    return next((version for version in found if version.source == source), None)


def _judge(model: ModelToLog, objective: str, number: str, champion: "ModelVersion | None") -> tuple[bool, str]:
    """(Whether version `number` gets the alias, why)."""
    if objective not in model.scores:
        return False, f"its evaluation has no {objective}"
    own = rounded(model.scores[objective])
    if champion is None:
        return True, f"the first with that alias ({objective} {own:.4f})"
    if str(champion.version) == number:
        return True, f"it was before ({objective} {own:.4f})"
    has = f"version {champion.version} stays it"
    if champion.tags.get(EVALUATION_TAG) != model.evaluated_on.shards_digest:
        return False, f"{has}: it was evaluated on other images, so the two cannot be compared; set the alias by hand"
    if objective not in champion.tags:
        return False, f"{has}: it has no {objective} to compare with; set the alias by hand"
    its = float(champion.tags[objective])
    comparison = f"{objective} {own:.4f} against {its:.4f} of version {champion.version}"
    return (True, comparison) if own > its else (False, f"{has}: {comparison}")
