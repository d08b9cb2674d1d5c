"""A run's identity and its directory, with or without Ray.

<run_uri>/config.json                       the configuration it was started with
<run_uri>/run.json                          its identity, and how it ended: the fields of Run
<run_uri>/environment.json                  machine and packages, see provenance.py
<run_uri>/checkpoint_<step>_<token>/        see distseg.training.checkpoint
<run_uri>/journal/                          every metric it measured, see distseg.tracking
<run_uri>/report/index.html                 its page, once it has ended

All that MLflow shows of a run is made from this directory, so `python -m distseg.sync` can send it at any time.
"""

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from distseg import storage, strict_json, tracking
from distseg.config import RunConfig, to_dict
from distseg.data.shards import Manifest
from distseg.errors import CheckpointError, ConfigError, TrackingError
from distseg.runs.provenance import data_inputs, opening_tags
from distseg.strict_json import AtLeast1, Check, Count, Line, RunId, RunName
from distseg.training import checkpoint
from distseg.training.checkpoint import Checkpoint, ResumePoint

log = logging.getLogger(__name__)

ProgressCallback = Callable[[int, Mapping[str, float], str], None]
"""(step, metrics, worst condition or "" outside evaluations): shows the progress of a run."""

RUNNING = "RUNNING"  # a status; also of a run whose process was killed
STATUSES = (RUNNING, "FINISHED", "FAILED", "KILLED")
Status = Annotated[str, Check(STATUSES.__contains__, f"must be one of {', '.join(STATUSES)}")]


@dataclass
class Run:
    """One training. `new` or `resume`, then `open` begins it and `finalize_run` ends it; `read` only looks at it."""

    name: RunName  # it names files of this machine, too
    uri: str
    tracking_uri: str
    experiment: Line
    run_id: RunId = ""
    job_id: str = ""  # Ray's, if it is one
    tags: dict[Line, str] = field(default_factory=dict)  # of its MLflow run
    dataset: str = ""
    inputs: list[tracking.DataInput] = field(default_factory=list)
    is_resumed: bool = False
    attempt: AtLeast1 = 1  # one more each time that steps are repeated under another plan, see `_changes_plan`
    max_steps: Count = 0  # the plan; 0: unknown
    status: Status = RUNNING
    started_ms: Count = 0  # since the epoch
    ended_ms: Count = 0
    problem: str = ""  # the warning about the tracking server that the user has seen

    @classmethod
    def new(cls, config: RunConfig) -> "Run":
        name = f"{config.name}-{secrets.token_hex(2)}-{time.strftime('%Y%m%d-%H%M%S')}"  # lists cut long names
        uri = storage.join(storage.absolute(config.checkpoint.uri), name)
        return cls(name, uri, *resolve_tracking(config), started_ms=now_ms())

    @classmethod
    def resume(cls, uri: str, config: RunConfig) -> "Run":
        """The run whose directory is `uri`, to go on with. Raises CheckpointError if there is none."""
        run = cls.read(uri)
        run.is_resumed = True
        run.set_tracking(*resolve_tracking(config))
        return run

    @classmethod
    def read(cls, uri: str) -> "Run":
        """The run whose directory is `uri`, as it was left. Raises CheckpointError if there is none."""
        uri = storage.absolute(uri)
        return cls(uri=uri, **read_run_json(uri))

    def set_tracking(self, tracking_uri: str, experiment: str) -> None:
        """Changes the server and experiment that the run belongs to."""
        if (tracking_uri, experiment) != (self.tracking_uri, self.experiment):
            self.tracking_uri, self.experiment, self.run_id = tracking_uri, experiment, ""

    @property
    def is_tracked(self) -> bool:
        return self.tracking_uri != tracking.OFF

    @property
    def is_training(self) -> bool:
        """Not a trial of a search."""
        return self.tags.get("stage", "train") == "train"

    @property
    def mlflow_name(self) -> str:
        return self._name_of(self.attempt)

    def _name_of(self, attempt: int) -> str:
        return self.name if attempt == 1 else f"{self.name}-{attempt}"

    def find_or_create(self, config: RunConfig) -> str:
        """The MLflow run's id. Raises TrackingError if the server does not answer."""
        given = {name: value for name, value in self.tags.items() if value}
        place = (self.tracking_uri, self.experiment)
        run_id = tracking.open_run(
            *place, self.mlflow_name, config, given, self.inputs, started_ms=self.started_ms or None
        )
        for earlier in range(1, self.attempt):
            tracking.delete_replaced(*place, self._name_of(earlier), replaced_by=run_id)
        return run_id

    def open(self, config: RunConfig, manifest: Manifest, saved: Checkpoint | ResumePoint | None) -> None:
        """Creates or re-opens the MLflow run, and writes config.json and run.json.

        `saved`: the checkpoint it goes on from. A dead server costs a warning, after at most tracking's OPEN_WAIT_S.
        """
        self.dataset, self.inputs = manifest.dataset, data_inputs(config)
        self.tags |= opening_tags(manifest, self.job_id)
        if self.is_resumed and self._changes_plan(config, saved):
            self._begin_attempt(saved.step if saved else 0)
        self.max_steps, self.status, self.ended_ms = config.optim.max_steps, RUNNING, 0
        if self.is_tracked:
            try:
                self.run_id = self.find_or_create(config)
            except TrackingError as error:
                self.run_id, self.problem = "", str(error)
                log.warning("%s; training goes on, its metrics are kept and sent later", error)
            except KeyboardInterrupt:  # it may be created: `sync` and --resume must find it
                self._write_files(config)
                raise
        self._write_files(config)
        if self.is_resumed:
            tracking.reopen_journal(self.uri)  # here, too: what it says was sent is of the earlier process
        if saved is not None:
            checkpoint.quarantine(self.uri, saved.step)

    def _changes_plan(self, config: RunConfig, saved: Checkpoint | ResumePoint | None) -> bool:
        """Whether steps were logged that the new optim.max_steps does differently, or never reaches.

        The learning rate depends on max_steps. MLflow cannot delete logged values, and takes the value of the highest
        step for the latest one: the old steps would stay in the run for ever.
        """
        step = saved.step if saved else 0
        if self.max_steps in (0, config.optim.max_steps) or step >= self.max_steps:
            return False
        was_killed = self.status == RUNNING  # then its last step is unknown
        return was_killed or any(record["step"] > step for record in tracking.read_journal(self.uri))

    def _begin_attempt(self, step: int) -> None:
        """Replaces the MLflow run by a new one, which gets the steps up to `step` from the journal."""
        records = tracking.read_journal(self.uri)
        tracking.replace_journal(self.uri, [record for record in records if record["step"] <= step])
        log.warning(
            "%s goes on from step %d with another optim.max_steps: in MLflow a new run, %s-%d, takes its place, with "
            "all that was logged until then",
            *(self.mlflow_name, step, self.name, self.attempt + 1),
        )
        self.attempt, self.run_id = self.attempt + 1, ""

    def adopt_checkpoint(self, other_uri: str, saved: Checkpoint) -> None:
        """Makes a checkpoint of another run, with the metrics logged until then, the one that this run resumes from."""
        stale = [found.uri for found in checkpoint.found_in(self.uri)]
        checkpoint.save(self.uri, saved)
        for uri in stale:
            storage.delete_tree(uri)
        records = tracking.read_journal(other_uri)
        tracking.replace_journal(self.uri, [record for record in records if record["step"] <= saved.step])
        self.attempt, self.run_id = self.attempt + 1, ""
        self.write_run_json()

    def write_again_if_removed(self, config: RunConfig) -> None:
        """Puts the run's files back if somebody has removed its directory: without them its checkpoints are no run."""
        if not storage.exists(storage.join(self.uri, "config.json")):
            log.warning("%s was removed while it was training; what follows is kept there", self.uri)
            self._write_files(config)

    def _write_files(self, config: RunConfig) -> None:
        storage.write_bytes(storage.join(self.uri, "config.json"), json.dumps(to_dict(config), indent=1).encode())
        self.write_run_json()

    def write_run_json(self) -> None:
        """Writes run.json, which `read` reads."""
        about = {name: getattr(self, name) for name in _KEPT} | {"inputs": [used._asdict() for used in self.inputs]}
        storage.write_bytes(storage.join(self.uri, "run.json"), json.dumps(about, indent=1).encode())


def now_ms() -> int:
    return int(time.time() * 1000)


def resolve_tracking(config: RunConfig) -> tuple[str, str]:
    """(tracking URI, experiment) of a run. Raises ConfigError for a URI with a password."""
    uri = config.tracking.uri
    return uri if uri == tracking.OFF else tracking.checked_uri("tracking.uri", uri), config.tracking.experiment


_NOT_KEPT = ("uri", "job_id", "is_resumed", "problem")
_KEPT = tuple(each.name for each in fields(Run) if each.name not in _NOT_KEPT)


def read_run_json(run_uri: str) -> dict[str, Any]:
    """run.json of a run's directory: the fields of Run. Raises CheckpointError if there is none."""
    uri = storage.join(run_uri, "run.json")
    if not storage.exists(uri):
        raise CheckpointError(f"{run_uri}: no run.json there; give the run's directory, as `train` printed it")
    about: dict[str, Any] = storage.read_json(dict[str, Any], uri, CheckpointError, "start a new run")
    try:
        run: Run = strict_json.build(Run, {"run_id": None, **about, "uri": run_uri}, "")
    except ConfigError as error:
        raise CheckpointError(f"{uri} is damaged ({error}); start a new run") from None
    return {name: getattr(run, name) for name in _KEPT}


def find_run_in(folder: str) -> str | None:
    """The directory of a run somewhere below `folder`, a path or s3:// URI; None if no run has begun there."""
    return next(iter(find_runs_in(folder)), None)


def find_runs_in(folder: str) -> list[str]:
    """The directories of all runs somewhere below `folder`."""
    uris = (entry.uri for entry in storage.list_files(folder))
    return [uri.removesuffix("/run.json") for uri in uris if uri.endswith("/run.json")]


def read_config(run_uri: str) -> RunConfig:
    """The configuration a run was started with. Raises CheckpointError if it cannot be read."""
    read_run_json(run_uri)
    uri = storage.join(run_uri, "config.json")
    config: RunConfig = storage.read_json(RunConfig, uri, CheckpointError, "start a new run")
    return config


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Makes paths absolute on the driver, because workers run in other directories."""
    if config.style.network is not None:
        config = replace(config, style=replace(config.style, network=storage.absolute(config.style.network)))
    weights = config.model.pretrained
    if weights not in (None, "imagenet"):
        config = replace(config, model=replace(config.model, pretrained=storage.absolute(str(weights))))
    if config.data.uri:
        mix = tuple(map(storage.absolute, config.data.mix))
        config = replace(config, data=replace(config.data, uri=storage.absolute(config.data.uri), mix=mix))
    return replace(config, checkpoint=replace(config.checkpoint, uri=storage.absolute(config.checkpoint.uri)))


def load_resume_checkpoint(run: Run, config: RunConfig, manifest: Manifest) -> Checkpoint | None:
    """The checkpoint that a resumed run goes on from; None for a new run.

    Raises CheckpointError or ConfigError if it does not fit, before anything of the run is changed.
    """
    found = checkpoint.newest(run.uri) if run.is_resumed else None
    if found is None:
        return None
    checkpoint.check_resumable(config, manifest, found[1])
    return found[1]


def check_resume(run: Run, config: RunConfig, manifest: Manifest) -> ResumePoint | None:
    """What `load_resume_checkpoint` would load, for a process that does not train and so needs no weights.

    Raises as `load_resume_checkpoint` does.
    """
    point = checkpoint.resume_point(run.uri) if run.is_resumed else None
    if point is not None:
        checkpoint.check_resumable(config, manifest, point)
    return point
