"""Every file that distseg reads, as somebody else may have written it: a success or one line, and nothing outside.

Each example takes a sound file and changes it: values are replaced by hostile ones, keys are taken away or added; or it
is any bytes at all. A manifest is sealed again, an index is signed again, so that what is behind the digests is
reached, too. `make fuzz` tries 10,000 examples of each file, these tests FUZZ_EXAMPLES.
"""

import copy
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distseg import cli, runs, search, tracking
from distseg.config import RunConfig, recipes, to_dict
from distseg.data import raw
from distseg.data.datasets import folder as folder_dataset
from distseg.data.loading.cache import ShardCache
from distseg.data.shards import inspect, load_manifest, pack, read_index, verify
from distseg.data.shards.manifest import combined_digest, index_json
from distseg.errors import DistsegError
from distseg.search import records
from distseg.training import checkpoint
from tests.conftest import REPOSITORY
from tests.toy_data import LABELS, toy_samples

NUM_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
BEFORE = REPOSITORY / "tests/data/before"

pytestmark = pytest.mark.timeout(300 + NUM_EXAMPLES // 5)
fuzzed = settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 255, 256, 2**31, 2**62, 2**63, 10**30, 10**4000, 0.5, -1e308, float("nan")),
    *(float("inf"), "", " ", "x", "../../x", "../../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "s3://b/c"),
    *("\ud800", "\x1b[31mred", "a\nb", "\0", "9" * 5000, "x" * 3000, "os:system", "..:x", "a.b:c", "name=1"),
    *([], [[]], {}, {"a": 1}, [1] * 300, {"": None}, json.loads("[" * 40 + "]" * 40), {"index_sha256": "0" * 64}),
)
hostile_values = (
    st.sampled_from(HOSTILE).map(copy.deepcopy)  # what is put into a file may be changed there again
    | st.text(max_size=8)
    | st.integers()
    | st.floats()
)


def places_in(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside, the first twenty of a list."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*at, key)
        yield from places_in(item, (*at, key))


@st.composite
def mutations(draw: st.DrawFn, sound: Any) -> Any:
    """The sound value with one to three things changed."""
    changed = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_in(changed))
        if not places:
            return draw(hostile_values)
        *way, last = draw(st.sampled_from(places))
        node = changed
        for key in way:
            node = node[key]
        what = draw(st.sampled_from(["replace", "replace", "replace", "delete", "add"]))
        if what == "replace":
            node[last] = draw(hostile_values)
        elif what == "delete":
            del node[last]
        elif isinstance(node, dict):
            node[draw(st.sampled_from(["x", "../x", "\x1b[1m", "", "\ud800", "name"]))] = draw(hostile_values)
    return changed


def file_bytes(sound: Any) -> st.SearchStrategy[bytes]:
    """Bytes for the place of a file whose sound content is given."""
    text = json.dumps(sound)
    cut = st.integers(0, len(text)).map(lambda n: text[:n].encode())
    return mutations(sound).map(as_bytes) | mutations(sound).map(as_bytes) | st.binary(max_size=60) | cut


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


class Sandbox:
    """A folder in which one thing may be used; all beside it must stay as it was."""

    def __init__(self, root: Path) -> None:
        self.root, self.inside = root, root / "a" / "b" / "inside"
        self.inside.mkdir(parents=True)
        for name in ("x.tar", "a/x.tar", "a/b/x.tar", "a/b/x.index.json"):
            (root / name).write_bytes(b"keep")
        self.before = self.outside()

    def outside(self) -> set[str]:
        return {str(path) for path in self.root.rglob("*") if self.inside not in (path, *path.parents)}

    def check(self, use: Callable[[], object]) -> bool:
        """Whether it ended well; if not, it was one line."""
        try:
            use()
        except DistsegError as error:
            text = str(error)
            assert text.isprintable(), text
            assert len(text) < 3000
            assert "Error(" not in text, f"a repr of Python's own error: {text}"
            return False
        finally:
            assert self.outside() == self.before
        return True


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("packed")
    groups = (("day", "town"), ("night", "town"))
    samples = {split: toy_samples(4, split, groups, (16, 16)) for split in ("train", "val")}
    pack(samples, LABELS, str(uri), dataset="toy")
    return uri


# ---- a packed data set


def sealed(body: Any) -> bytes:
    """With the digest of what it holds, as whoever made it would write it."""
    if not isinstance(body, dict):
        return as_bytes(body)
    body = {name: value for name, value in body.items() if name != "digest"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
    return as_bytes({**body, "digest": digest})


@fuzzed
@given(data=st.data())
def test_a_manifest(packed: Path, sandbox: Sandbox, data: st.DataObject) -> None:
    sound = json.loads((packed / "manifest.json").read_text())
    content = data.draw(mutations(sound).map(sealed) | mutations(sound).map(sealed) | file_bytes(sound))
    uri = sandbox.inside / "data"
    shutil.rmtree(uri, ignore_errors=True)
    shutil.copytree(packed, uri)
    (uri / "manifest.json").write_bytes(content)

    def use() -> None:
        manifest = load_manifest(str(uri))
        inspect(str(uri))
        combined_digest([manifest, manifest])
        with_cache(sandbox, manifest)

    sandbox.check(use)
    sandbox.check(lambda: verify(str(uri)))
    again = {"train": toy_samples(1, "train", (("day", "town"),), (16, 16))}
    sandbox.check(lambda: pack(again, LABELS, str(uri), dataset="toy", overwrite=True))


def with_cache(sandbox: Sandbox, manifest: Any) -> None:
    cache = ShardCache(str(sandbox.inside / "cache"), 1 << 20)
    try:
        for shard in manifest.shards[:2]:
            assert cache._path(shard).parent == sandbox.inside / "cache"
            cache.forget(shard)
    finally:
        cache.close()


@fuzzed
@given(data=st.data())
def test_an_index(packed: Path, sandbox: Sandbox, data: st.DataObject) -> None:
    manifest = load_manifest(str(packed))
    shard = manifest.shards[0]
    sound = json.loads(index_json(shard.name, list(read_index(manifest, shard).entries)))
    content = data.draw(file_bytes(sound))
    uri = sandbox.inside / "data"
    (uri / "train").mkdir(parents=True, exist_ok=True)
    (uri / shard.index_name).write_bytes(content)
    signed = dataclasses.replace(shard, index_sha256=hashlib.sha256(content).hexdigest())
    sandbox.check(lambda: list(read_index(dataclasses.replace(manifest, uri=str(uri)), signed).entries))


# ---- classes, a configuration


@fuzzed
@given(data=st.data())
def test_classes(sandbox: Sandbox, data: st.DataObject) -> None:
    sound = {
        "name": "town",
        "classes": ["road", {"name": "sky", "color": [1, 2, 3]}],
        "ids": {"7": "road", "8": "sky"},
        "ignore": [0, 255],
    }
    (sandbox.inside / "classes.json").write_bytes(data.draw(file_bytes(sound) | file_bytes(sound["classes"])))
    sandbox.check(lambda: folder_dataset.labels(str(sandbox.inside)).to_train_ids(np.zeros((1, 1), np.uint8), "x"))


@fuzzed
@given(data=st.data())
def test_a_configuration(sandbox: Sandbox, data: st.DataObject) -> None:
    sound = to_dict(recipes.find(data.draw(st.sampled_from(["town", "enet_camvid", "pspnet_camvid"]))))
    path = sandbox.inside / "config.json"
    path.write_bytes(data.draw(file_bytes(sound)))
    sandbox.check(lambda: json.dumps(to_dict(cli.read_config_file(str(path))), allow_nan=False).encode())


# ---- runs, checkpoints, searches


def copied(sandbox: Sandbox, name: str, file: str, content: bytes) -> str:
    target = sandbox.inside / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(BEFORE / name, target)
    (target / file).write_bytes(content)
    return str(target)


@fuzzed
@given(data=st.data())
@pytest.mark.parametrize("file", ["run.json", "config.json", "environment.json", "journal/closed.json"])
def test_a_run(sandbox: Sandbox, file: str, data: st.DataObject) -> None:
    sound = json.loads((BEFORE / "run" / file).read_text())
    uri = copied(sandbox, "run", file, data.draw(file_bytes(sound)))

    def use() -> None:
        run = runs.Run.read(uri)
        runs.read_config(uri)
        tracking.read_journal_end(uri)
        tracking.read_journal(uri, run.mlflow_name)
        run.write_run_json()
        assert runs.Run.read(uri) == run

    sandbox.check(use)
    sandbox.check(lambda: runs.contents.environment_tags((Path(uri) / "environment.json").read_bytes()))  # type: ignore[attr-defined]


@fuzzed
@given(data=st.data())
def test_a_journal(sandbox: Sandbox, data: st.DataObject) -> None:
    (segment,) = (BEFORE / "run" / "journal").glob("*.jsonl")
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    changed = data.draw(st.lists(file_bytes(lines[0]), max_size=3))
    uri = copied(sandbox, "run", f"journal/{segment.name}", b"".join(line + b"\n" for line in changed))
    (Path(uri) / "journal" / data.draw(st.sampled_from(["x.jsonl", "..jsonl", "00000x-a.jsonl", "9-a.jsonl"]))).touch()
    sandbox.check(lambda: tracking.replace_journal(uri, tracking.read_journal(uri)))


@fuzzed
@given(data=st.data())
def test_what_is_known_of_a_checkpoint(sandbox: Sandbox, data: st.DataObject) -> None:
    name = next((BEFORE / "killed_run").glob("checkpoint_*")).name
    sound = json.loads((BEFORE / "killed_run" / name / "checkpoint.json").read_text())
    uri = sandbox.inside / "run"
    (uri / name).mkdir(parents=True, exist_ok=True)
    (uri / name / "checkpoint.json").write_bytes(data.draw(file_bytes(sound)))
    (uri / name / "checkpoint.pt").write_bytes(b"no checkpoint")
    for use in (checkpoint.read, checkpoint.found_in, checkpoint.resume_point, checkpoint.best, checkpoint.prune):
        sandbox.check(lambda use=use: use(str(uri / name) if use is checkpoint.read else str(uri)))  # type: ignore[misc]


@fuzzed
@given(data=st.data())
def test_a_checkpoint(sandbox: Sandbox, data: st.DataObject) -> None:
    (weights,) = (BEFORE / "killed_run").glob("checkpoint_*/checkpoint.pt")
    sound = torch.load(weights, weights_only=True)
    for name in ("model", "optimizer"):
        sound[name] = dict(list(sound[name].items())[:2])
    buffer = io.BytesIO()
    torch.save(data.draw(mutations(sound)), buffer)
    content = data.draw(st.sampled_from([buffer.getvalue(), buffer.getvalue(), buffer.getvalue()[:-40], b"", b"\x80"]))
    sandbox.check(lambda: checkpoint.to_bytes(checkpoint.from_bytes(content, "checkpoint")))


@fuzzed
@given(data=st.data())
def test_a_search(sandbox: Sandbox, data: st.DataObject) -> None:
    question = {
        "uri": "/x", "space": "se_ratio",
        "budget": {"num_trials": 2, "max_steps": 3, "evaluate_every": 1, "reduction": 2},
        "config": to_dict(RunConfig()), "objective": "val/mIoU", "second": None, "algorithm": "random",
        "scheduler": "none", "seeds_per_trial": 1, "hours": None, "keep": 3, "parent_run_id": "",
    }  # fmt: skip
    (sandbox.inside / "search.json").write_bytes(data.draw(file_bytes(question)))
    sandbox.check(lambda: search.read_question(str(sandbox.inside)))


@fuzzed
@given(data=st.data())
@pytest.mark.parametrize("file", ["trial.json", "ended.json", "evaluations/00000001.json", "took_over/00000001.json"])
def test_a_trial(sandbox: Sandbox, file: str, data: st.DataObject) -> None:
    sound: dict[str, Any] = {
        "trial.json": {
            "trial_id": "t_00001",
            "number": 1,
            "params": {"optim.lr": 0.1},
            "config": {},
            "costs": {"c": 1},
        },
        "ended.json": {"status": "finished", "error": ""},
        "evaluations/00000001.json": {"step": 1, "time_s": 1.5, "metrics": {"val/mIoU": 0.5}},
        "took_over/00000001.json": {"trial_id": "t_00000", "step": 1},
    }
    trial = sandbox.inside / "trials" / "t_00001"
    for name, content in sound.items():
        (trial / name).parent.mkdir(parents=True, exist_ok=True)
        (trial / name).write_bytes(as_bytes(content))
    (trial / file).write_bytes(data.draw(file_bytes(sound[file])))
    sandbox.check(lambda: search.read_trials(str(sandbox.inside)))


@fuzzed
@given(
    content=st.binary(max_size=200)
    | st.text(alphabet='[]{}",:0123456789eE.-NaIfinity\\u d8', max_size=60).map(str.encode)
)
def test_any_bytes(sandbox: Sandbox, content: bytes) -> None:
    path = sandbox.inside / "any.json"
    path.write_bytes(content)
    sandbox.check(lambda: raw.json_at(str(path)))
    sandbox.check(lambda: checkpoint.from_bytes(content, "any"))
    sandbox.check(lambda: cli.read_config_file(str(path)))
    sandbox.check(lambda: records.read_error(str(sandbox.inside)))
