"""A run's directory and its records, with or without Ray.

<run_uri>/config.json                       the configuration it was started with
<run_uri>/run.json                          name, MLflow run id, tracking URI, experiment
<run_uri>/environment.json                  what it computed with, see provenance.py
<run_uri>/checkpoint_<step>_<token>/        see checkpoint.py
<run_uri>/journal/<number>.jsonl            metrics that the tracking server never confirmed
"""

import json
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from distseg import checkpoint, overlays, storage, tracking
from distseg.checkpoint import Checkpoint
from distseg.config import RunConfig, TrackingConfig, check_divides, from_dict, to_dict
from distseg.data.manifest import Manifest
from distseg.errors import CheckpointError, ConfigError, DataError, ResourceError, StorageError, TrackingError
from distseg.fit import check, fit
from distseg.handover import HandedOver, hand_over
from distseg.loop import Report, World, torchrun_world
from distseg.pages import run_markdown
from distseg.provenance import ENVIRONMENT_FILE, data_inputs, environment, environment_tags
from distseg.review import CONDITIONS_PLOT, HISTORY, MODEL_CARD, files_of, review_of
from distseg.style import check_style, fit_style

log = logging.getLogger(__name__)

PICTURES_S = 30.0  # for those still to be sent when a training ends

# (step, metrics, worst condition, "" if they are no evaluation): whatever shows a run's progress
Show = Callable[[int, Mapping[str, float], str], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training leaves behind."""

    run_name: str
    run_uri: str  # where its checkpoints are; what --resume takes
    checkpoint_uri: str  # the best by val/mIoU; empty if none was saved
    step: int  # of that checkpoint
    tables: dict[str, Any]  # its evaluation
    tracking_uri: str
    run_id: str  # MLflow's; empty if tracking is off or the server never answered
    num_unsent: int  # metric records kept in the journal
    handed_over: HandedOver = field(default_factory=HandedOver)


@dataclass
class Run:
    """One training's identity. `new` or `again`, then `open`, then `close`."""

    name: str
    uri: str
    tracking_uri: str
    experiment: str
    run_id: str = ""
    job_id: str = ""  # Ray's, if it is one
    tags: dict[str, str] = field(default_factory=dict)  # further ones, of its MLflow run
    dataset: str = ""
    inputs: list[tracking.DataInput] = field(default_factory=list)
    settings: TrackingConfig | None = None  # of the sitting that opened it
    is_resumed: bool = False

    @classmethod
    def new(cls, config: RunConfig) -> "Run":
        name = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        return cls(name, storage.join(storage.absolute(config.checkpoint.uri), name), *tracking_of(config))

    @classmethod
    def again(cls, uri: str, config: RunConfig) -> "Run":
        """The run whose directory is `uri`. Raises CheckpointError if there is none."""
        uri = storage.absolute(uri)
        about = read_about(uri)
        tracking_uri, experiment = tracking_of(config)
        return cls(about["name"], uri, tracking_uri, experiment, about["run_id"], is_resumed=True)

    @property
    def is_tracked(self) -> bool:
        return self.tracking_uri != tracking.OFF

    def find_or_create(self, config: RunConfig, manifest_digest: str) -> str:
        """The MLflow run's id. Raises TrackingError if the server does not answer."""
        tags = {"data.digest": manifest_digest, "git.commit": checkpoint.code_version(), "ray.job_id": self.job_id}
        given = {name: value for name, value in (tags | self.tags).items() if value}
        return tracking.open_run(self.tracking_uri, self.experiment, self.name, config, given, self.inputs)

    def open(self, config: RunConfig, manifest: Manifest) -> None:
        """Creates or re-opens the MLflow run and writes config.json and run.json. A dead server is only warned of."""
        self.dataset, self.settings, self.inputs = manifest.dataset, config.tracking, data_inputs(config)
        if self.is_tracked:
            try:
                self.run_id = self.find_or_create(config, manifest.digest)
            except TrackingError as error:
                log.warning("%s; training goes on, its metrics are kept and sent later", error)
        about = {
            "name": self.name,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
            "experiment": self.experiment,
        }
        storage.write_bytes(storage.join(self.uri, "config.json"), json.dumps(to_dict(config), indent=1).encode())
        storage.write_bytes(storage.join(self.uri, "run.json"), json.dumps(about, indent=1).encode())

    def close(self, status: str) -> Outcome:
        """Closes the MLflow run as FINISHED, FAILED or KILLED, writes the report and gathers what is left behind."""
        found = checkpoint.best(self.uri)
        uri, saved = found if found else ("", None)
        handed_over = HandedOver()
        try:
            files = self._finish(status, saved)
            handed_over = self._hand_over(status, saved, files.get(MODEL_CARD, b"").decode())
        except (TrackingError, StorageError) as error:
            log.warning("%s; the run is not closed there", error)
        return Outcome(
            run_name=self.name,
            run_uri=self.uri,
            checkpoint_uri=uri,
            step=saved.step if saved else 0,
            tables=saved.tables if saved else {},
            tracking_uri=self.tracking_uri,
            run_id=self.run_id,
            num_unsent=len(tracking.read_journal(self.uri)),
            handed_over=handed_over,
        )

    def _hand_over(self, status: str, saved: Checkpoint | None, card: str) -> HandedOver:
        is_training = self.tags.get("stage", "train") == "train"
        is_evaluated = saved is not None and "conditions" in saved.tables
        if not (self.is_tracked and self.settings and is_training and saved and is_evaluated):
            return HandedOver()
        return hand_over(
            self.tracking_uri,
            self.run_id,
            self.settings,
            saved,
            dataset=self.dataset,
            inputs=self.inputs,
            card=card,
            has_finished=status == "FINISHED",
        )

    def _finish(self, status: str, saved: Checkpoint | None) -> dict[str, bytes]:
        """The report goes below the run's directory and, if the run is tracked, to MLflow. Returns its files."""
        history: tracking.History = {}
        if self.is_tracked:
            if not self.run_id:
                self.run_id = tracking.find_run(self.tracking_uri, self.experiment, self.name)
            history = tracking.read_history(self.tracking_uri, self.run_id, HISTORY)
        files, tags = self._environment()
        if saved is not None and "conditions" in saved.tables:
            tags["worst_condition"] = str(saved.tables["worst_condition"] or "")
            files["tables/conditions.json"] = json.dumps(saved.tables, indent=1).encode()
            try:
                review = review_of(self.name, saved, dataset=self.dataset, history=history)
                files |= files_of(review)
                plot = f"get-artifact?path={CONDITIONS_PLOT}&run_uuid={self.run_id}" if self.is_tracked else ""
                tags[tracking.DESCRIPTION_TAG] = run_markdown(review, figure_url=plot)
            except Exception as error:  # noqa: BLE001 — a picture that cannot be drawn must not cost a run its end
                log.warning("the report could not be made: %r", error)
        if "report/index.html" in files:
            storage.write_bytes(storage.join(self.uri, "report", "index.html"), files["report/index.html"])
        if self.is_tracked:
            tracking.finish_run(self.tracking_uri, self.run_id, status, files, tags)
        return files

    def _environment(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """(file, tags) of what rank 0 computed with; empty if it never came to that."""
        uri = storage.join(self.uri, ENVIRONMENT_FILE)
        if not storage.exists(uri):
            return {}, {}
        data = storage.read_bytes(uri)
        try:
            return {f"config/{ENVIRONMENT_FILE}": data}, environment_tags(data)
        except DataError as error:
            log.warning("%s", error)
            return {}, {}


def tracking_of(config: RunConfig) -> tuple[str, str]:
    """(tracking URI, experiment) of a run. Raises ConfigError for a URI that carries a password."""
    uri = config.tracking.uri
    uri = uri if uri == tracking.OFF else tracking.resolve_uri(uri)
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise ConfigError(
            "tracking.uri carries a user or password, which would be kept with the run: give the server's plain URL "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri, config.tracking.experiment


def read_about(run_uri: str) -> dict[str, str]:
    """run.json of a run's directory. Raises CheckpointError if there is none."""
    uri = storage.join(run_uri, "run.json")
    if not storage.exists(uri):
        raise CheckpointError(f"{run_uri}: no run.json there; give the run's directory, as `train` printed it")
    try:
        about = json.loads(storage.read_bytes(uri))
        return {name: str(about[name]) for name in ("name", "run_id", "tracking_uri", "experiment")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{uri} is damaged ({error!r}); start a new run") from None


def read_config(run_uri: str) -> RunConfig:
    """The configuration a run was started with. Raises CheckpointError if it cannot be read."""
    read_about(run_uri)
    uri = storage.join(run_uri, "config.json")
    try:
        return from_dict(json.loads(storage.read_bytes(uri)))
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{uri} is damaged ({error}); start a new run") from None


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Workers run elsewhere: a path means what it means where the user stands."""
    if config.style.network is not None:
        config = replace(config, style=replace(config.style, network=storage.absolute(config.style.network)))
    weights = config.model.pretrained
    if weights not in (None, "imagenet"):
        config = replace(config, model=replace(config.model, pretrained=storage.absolute(str(weights))))
    if config.data.uri:
        mix = tuple(map(storage.absolute, config.data.mix))
        config = replace(config, data=replace(config.data, uri=storage.absolute(config.data.uri), mix=mix))
    return replace(config, checkpoint=replace(config.checkpoint, uri=storage.absolute(config.checkpoint.uri)))


def check_run(config: RunConfig) -> Manifest:
    """`check` of what the run trains: a network that segments, or one that restyles."""
    return check_style(config) if config.model.name == "adain" else check(config)


def fit_run(config: RunConfig, world: World, report: Report, *, resume: Checkpoint | None, run_id: str) -> None:
    """`fit` of what the run trains."""
    train = fit_style if config.model.name == "adain" else fit
    train(config, world, report, resume=resume, run_id=run_id)


class RunReport:
    """fit's Report on rank 0: metrics to MLflow and to whoever watches, checkpoints into the run's directory."""

    def __init__(
        self, config: RunConfig, run: Run, manifest_digest: str, saved: Checkpoint | None, show: Show | None = None
    ) -> None:
        self.run, self.show = run, show
        about = json.dumps(environment(run.job_id), indent=1)
        storage.write_bytes(storage.join(run.uri, ENVIRONMENT_FILE), about.encode())
        self.metric_log: tracking.MetricLog | None = None
        self.picture_log: tracking.PictureLog | None = None
        opening = threading.Lock()  # two threads must not create two runs

        def open_run() -> str:
            with opening:
                run.run_id = run.run_id or run.find_or_create(config, manifest_digest)
                return run.run_id

        if run.is_tracked:
            earlier = tracking.read_journal(run.uri) + (saved.records if saved else [])
            self.metric_log = tracking.MetricLog(run.tracking_uri, open_run, earlier=earlier)
            self.picture_log = tracking.PictureLog(run.tracking_uri, open_run)
        if saved is not None:
            self.pictures(saved.step, overlays.pictures(saved.evaluation))  # unless MLflow has them

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        if self.metric_log is not None:
            self.metric_log.log(step, metrics)
        if self.show is not None:
            self.show(step, metrics, worst_condition)

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        if self.picture_log is not None:
            self.picture_log.log(step, pictures)

    def pending_records(self) -> list[dict[str, Any]]:
        return self.metric_log.pending() if self.metric_log is not None else []

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        """Writes the checkpoint and removes what is neither the newest nor one of the best two."""
        assert saved is not None
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(Path(folder), saved)
            target = storage.join(self.run.uri, checkpoint.new_name(step))
            for name in (checkpoint.WEIGHTS_FILE, checkpoint.META_FILE):
                storage.upload(Path(folder) / name, storage.join(target, name))
        checkpoint.prune(self.run.uri)

    def close(self) -> None:
        """Sends what is left; what cannot be sent becomes the run's journal."""
        if self.metric_log is None or self.picture_log is None:
            return
        unsent = self.metric_log.close()
        step = self.picture_log.close(timeout_s=0.0 if unsent else PICTURES_S)
        if step is not None:
            log.warning("the pictures of step %d could not be sent to MLflow; its checkpoint has them", step)
        folder = storage.join(self.run.uri, "journal")
        try:
            tracking.replace_journal(self.run.uri, unsent)
        except StorageError as error:
            log.warning("%s: %d metric records that MLflow did not get cannot be kept: %s", folder, len(unsent), error)
            return
        if unsent:
            log.warning("%d metric records could not be sent to MLflow; they are kept in %s", len(unsent), folder)


def train_as_rank(config: RunConfig, *, resume: str | None = None, show: Show | None = None) -> Outcome | None:
    """One rank of a training without Ray, alone or as torchrun's environment says. The outcome on rank 0, else None."""
    check_divides(config.data.batch_size, int(os.environ.get("WORLD_SIZE", 1)), config.optim.accumulate_steps)
    config = with_absolute_paths(config)
    manifest = check_run(config)
    world = torchrun_world()
    if config.scaling.gpu and world.device.type != "cuda":
        raise ResourceError("scaling.gpu = True: torch sees no GPU on this machine; give False, or use another machine")
    run = agreed_run(config, resume, world)
    saved = saved_before(run, config, manifest)
    report: RunReport | Follower = Follower()
    if world.rank == 0:
        run.open(config, manifest)
        report = RunReport(config, run, manifest.digest, saved, show)
    status = "FAILED"
    try:
        fit_run(config, world, report, resume=saved, run_id=run.run_id)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        report.close()
        outcome = run.close(status) if world.rank == 0 else None
    return outcome


def agreed_run(config: RunConfig, resume: str | None, world: World) -> Run:
    """The run that --resume names, or a new one; its name is rank 0's on every rank."""
    run = [Run.again(resume, config) if resume else Run.new(config)]
    if world.size > 1:
        dist.broadcast_object_list(run, src=0)
    return run[0]


def saved_before(run: Run, config: RunConfig, manifest: Manifest) -> Checkpoint | None:
    """The checkpoint that a resumed run goes on from. Raises if it cannot, before anything of the run is touched."""
    found = checkpoint.newest(run.uri) if run.is_resumed else None
    if found is None:
        return None
    checkpoint.check_resumable(config, manifest, found[1])
    return found[1]


class Follower:
    """fit's Report on every rank but 0, which only keeps step."""

    def log(self, step: int, metrics: dict[str, float], worst_condition: str = "") -> None:
        raise AssertionError("only rank 0 logs")

    def pictures(self, step: int, pictures: dict[str, bytes]) -> None:
        raise AssertionError("only rank 0 sends pictures")

    def pending_records(self) -> list[dict[str, Any]]:
        raise AssertionError("only rank 0 keeps records")

    def save(self, step: int, saved: Checkpoint | None, metrics: dict[str, float]) -> None:
        pass

    def close(self) -> None:
        pass
