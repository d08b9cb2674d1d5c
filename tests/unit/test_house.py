"""The rules of the house: packages are used by their faces, files and functions are short, importing is light.

import-linter checks the layers and the same faces (`make lint`); here every offender is listed, with the line.
"""

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grimp
import pytest

from tests.conftest import REPOSITORY

SOURCE = REPOSITORY / "distseg"
ALL_CODE = ("distseg", "cluster", "docs", "examples", "tests", "tune_spaces")
MAX_LINES_OF_FILE, MAX_LINES_OF_FUNCTION, MAX_MODULES = 350, 60, 12
LIGHT = ("torch", "ray", "mlflow", "tyro", "matplotlib")  # `import distseg` loads none of them
THIRD_PARTY = ("torch", "torchvision", "ray.train", "ray.tune", "mlflow", "matplotlib.figure", "scipy.stats", "tyro")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("distseg")


def packages() -> list[str]:
    folders = sorted(path.parent for path in SOURCE.rglob("__init__.py"))
    return [".".join(folder.relative_to(REPOSITORY).parts) for folder in folders]


def protected() -> dict[str, list[str]]:
    """Package -> who may import what is inside it, from the contracts of import-linter."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found: dict[str, list[str]] = {}
    for contract in contracts:
        if contract["type"] == "protected":
            for inside in contract["protected_modules"]:
                found[inside.removesuffix(".**")] = contract["allowed_importers"]
    return found


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imports(graph: grimp.ImportGraph) -> Iterator[tuple[str, str, str]]:
    """(importer, imported, line) of each import between modules of distseg."""
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            for detail in graph.get_import_details(importer=importer, imported=imported):
                yield importer, imported, f"{importer}:{detail['line_number']}: {detail['line_contents']}"


# ---- faces


def test_packages_are_imported_by_their_faces(graph: grimp.ImportGraph) -> None:
    faces = protected()
    past = [
        line
        for importer, imported, line in imports(graph)
        for face, allowed in faces.items()
        if is_within(imported, face) and imported not in faces and not any(is_within(importer, who) for who in allowed)
    ]
    assert past == [], "import from the package itself, or add the name to its __all__"


def test_every_package_is_protected() -> None:
    faces = protected()
    open_ones = [name for name in packages()[1:] if not any(is_within(name, face) for face in faces)]
    assert open_ones == ["distseg.data"], "each needs a contract in pyproject.toml (data: its three packages have one)"


def test_nobody_imports_a_program(graph: grimp.ImportGraph) -> None:
    programs = {
        f"distseg.{path.stem}" for path in SOURCE.glob("*.py") if 'if __name__ == "__main__":' in path.read_text()
    }
    assert {"distseg.train", "distseg.sync"} <= programs
    assert [line for _, imported, line in imports(graph) if imported in programs] == []


def test_every_package_says_what_it_is() -> None:
    texts = {name: ast.get_docstring(ast.parse(path_of(name).read_text())) or "" for name in packages()}
    assert [name for name, text in texts.items() if not text or text.startswith("TODO")] == []


def path_of(package: str) -> Path:
    return REPOSITORY.joinpath(*package.split("."), "__init__.py")


@pytest.mark.parametrize("name", ["distseg", *protected()])
def test_a_face_lists_its_names(name: str) -> None:
    face = importlib.import_module(name)
    assert face.__all__ == sorted(face.__all__, key=order)
    assert [each for each in face.__all__ if not hasattr(face, each)] == []


def order(name: str) -> tuple[int, str]:
    """CONSTANTS, Classes, functions, each by the alphabet: the order of ruff's RUF022."""
    return (0 if name.isupper() else 1 if name.lstrip("_")[:1].isupper() else 2), name


# ---- sizes


@pytest.fixture(scope="module")
def all_code() -> dict[str, str]:
    """The text of each Python file, by its path: the product's, its tests' and what stands beside them."""
    paths = [path for folder in ALL_CODE for path in sorted((REPOSITORY / folder).rglob("*.py"))]
    return {str(path.relative_to(REPOSITORY)): path.read_text() for path in paths}


def test_no_file_is_too_long(all_code: dict[str, str]) -> None:
    lines = {name: len(text.splitlines()) for name, text in all_code.items()}
    assert len(lines) > 500
    assert {name: count for name, count in lines.items() if count > MAX_LINES_OF_FILE} == {}


def test_no_function_is_too_long(all_code: dict[str, str]) -> None:
    lines = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, text in all_code.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(lines) > 3000
    assert {name: count for name, count in lines.items() if count > MAX_LINES_OF_FUNCTION} == {}


def test_no_package_has_too_many_modules() -> None:
    """Beside its __init__. The top level is left out: its programs are a contract with users' command lines."""
    sources = (path.relative_to(REPOSITORY) for path in SOURCE.rglob("*.py"))
    modules = Counter(path.parent for path in sources if path.name != "__init__.py")
    del modules[Path("distseg")]
    assert {str(name): count for name, count in modules.items() if count > MAX_MODULES} == {}


# ---- importing


def test_importing_distseg_loads_nothing_heavy() -> None:
    code = f"import sys, distseg; print(*(name for name in {LIGHT} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split(), ended.stderr) == (0, [], "")


def test_each_face_can_be_imported_first() -> None:
    """A circle of imports shows only in a process that begins with one certain package."""
    code = f"from tests.unit import test_house; test_house.import_each_first({packages()})"
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr


def import_each_first(names: list[str]) -> None:
    """Imports each in a child of its own, without any of distseg; what others wrote is loaded once, before."""
    for each in THIRD_PARTY:
        importlib.import_module(each)
    assert "distseg" not in sys.modules or len([m for m in sys.modules if is_within(m, "distseg")]) == 1
    for name in names:
        child = os.fork()
        if child == 0:
            code = 0
            try:
                importlib.import_module(name)
            except Exception:
                print(name, traceback.format_exc(), sep="\n", flush=True)
                code = 1
            os._exit(code)
        os.waitpid(child, 0)


# ---- the picture of the house


def house() -> Any:
    spec = importlib.util.spec_from_file_location("house", REPOSITORY / "docs" / "house.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_picture_in_contributing_is_what_the_imports_say() -> None:
    drawing = house()
    page = drawing.PAGE.read_text() if drawing.PAGE.exists() else ""
    if (shown := drawing.written(page)) is None:
        pytest.skip("CONTRIBUTING.md has no marks for the picture")
    assert drawing.same(shown, drawing.picture()), "python docs/house.py --write draws it again"


def test_another_import_is_another_picture_and_another_size_is_not() -> None:
    drawing = house()
    drawn = drawing.picture()
    assert "  runs --> tracking\n" in drawn and "tracking --> runs" not in drawn and "programs --> cli\n" in drawn
    assert drawing.same(drawn, drawn.replace("00 lines", "11 lines"))
    assert not drawing.same(drawn, drawn.replace("  runs --> tracking\n", ""))
    page = drawing.with_picture(f"# Title\n{drawing.BEGIN}\nold\n{drawing.END}\nrest\n", drawn)
    assert page.startswith("# Title\n") and page.endswith("\nrest\n") and "old" not in page
    assert drawing.written(page) == drawn
    with pytest.raises(ValueError, match="no marks"):
        drawing.with_picture("# Title\n", drawn)


def test_an_arrow_is_left_out_where_a_longer_way_says_the_same() -> None:
    everything = {("a", "b"), ("b", "c"), ("a", "c"), ("a", "d"), ("d", "c")}
    assert house().without_shortcuts(everything) == everything - {("a", "c")}
