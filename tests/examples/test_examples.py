"""Each program of examples/, run as its docstring says, on a few small images; and the notebook."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from examples import town_as_images
from tests import programs
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

EXAMPLES = REPOSITORY / "examples"
NOTEBOOK = EXAMPLES / "own_images.ipynb"
# In tests/unit/data/datasets, in tests/unit/storage, and in test_to_cvat.py.
TESTED_ELSEWHERE = {"own_dataset.py", "own_store.py", "to_cvat.py"}
NUM_TRAIN, NUM_VAL, SIZE_HW = 18, 18, (48, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With my-images, and a run of two steps on them."""
    place = tmp_path_factory.mktemp("examples")
    town_as_images.write_images(place / "my-images", NUM_TRAIN, NUM_VAL, SIZE_HW)
    run(place, "train_in_python", "my-images", "--steps", "2")
    return place


def run(folder: Path, name: str, *arguments: str) -> str:
    ended = programs.run(folder, programs.alone(), f"examples.{name}", *arguments)
    assert ended.code == 0, ended.err
    return ended.out


def size_of(path: Path) -> tuple[int, int]:
    """Width and height."""
    with Image.open(path) as image:
        return image.size


def test_every_example_is_here() -> None:
    here = set(re.findall(r'run\(\w+, "(\w+)"|^from examples import (\w+)', Path(__file__).read_text(), re.MULTILINE))
    named = {f"{name}.py" for pair in here for name in pair if name}
    assert named | TESTED_ELSEWHERE == {path.name for path in EXAMPLES.glob("*.py")}


def test_images_are_written_in_the_layout_of_pack_folder(folder: Path) -> None:
    images = sorted((folder / "my-images/images").rglob("*.png"))
    assert len(images) == NUM_TRAIN + NUM_VAL
    for path in images:
        label = folder / "my-images/labels" / path.relative_to(folder / "my-images/images")
        assert size_of(label) == size_of(path) == SIZE_HW[::-1]


def test_a_training_in_python_leaves_a_run(folder: Path) -> None:
    (found,) = (folder / "runs/checkpoints").glob("mine-*/run.json")
    assert (found.parent / "report/index.html").exists()


def test_photographs_are_segmented_by_a_run(folder: Path, tmp_path: Path) -> None:
    (run_file,) = (folder / "runs/checkpoints").glob("mine-*/run.json")
    photograph = tmp_path / "street.png"
    Image.new("RGB", (70, 50), (120, 130, 140)).save(photograph)
    out = run(folder, "predict_with_a_run", str(run_file.parent), str(photograph))
    shares = [int(share) for share in re.findall(r"(\d+)%", out)]
    assert out.startswith("street.png")
    assert shares == sorted(shares, reverse=True)
    assert 90 <= sum(shares) <= 100
    assert size_of(tmp_path / "street.segmented.png") == (70, 50)


def test_shards_are_read_without_distseg(folder: Path) -> None:
    out = run(folder, "shards_without_distseg", "runs/data/mine/val")
    brightness = {name: float(value) for name, value in re.findall(r"([\w-]+) +([\d.]+)", out)}
    assert len(brightness) == 9
    assert brightness["night"] < brightness["summer"]


# ---- the notebook


@pytest.fixture
def executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[nbformat.NotebookNode]:
    """The notebook, run in an empty folder with few images and steps."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (first,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    first.source = f"NUM_TRAIN, NUM_VAL, SIZE_HW, NUM_STEPS = {NUM_TRAIN}, {NUM_VAL}, {SIZE_HW}, 2"
    path = [str(EXAMPLES), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    place = tmp_path / "work"
    place.mkdir()
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(place)}}).execute()
    yield notebook


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own packages
def test_the_notebook_ends_with_a_table_and_overlays(executed: nbformat.NotebookNode) -> None:
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert "winter-night" in text
    assert len(pictures) >= 3


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
    assert NOTEBOOK.stat().st_size < 10_000
