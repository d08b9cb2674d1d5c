"""What the README and the pages of docs/ say is true: links lead somewhere, commands work.

Every block of commands is run, in one folder with a few small images, in the order of its page. A comment on the line
above it changes that:

    <!-- not run: REASON -->     it is not run; its programs must have its flags, and `train` must take its arguments
    <!-- run with: FLAGS -->     it is run with these flags of `train` added, so that it takes seconds
    <!-- on Ray, with: FLAGS --> the same, in a test of its own that starts a Ray cluster
    <!-- file: NAME -->          it is the content of a file, which is written before later blocks run

In the blocks RUN stands for the run that the README's commands make, OTHER_RUN for a second one, URI for the packed
data, IMAGES for a folder of photographs.
"""

import ast
import contextlib
import csv
import functools
import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import programs
from tests.conftest import REPOSITORY
from tests.docs import pages
from tests.docs.pages import Block, Invocation

pytestmark = pytest.mark.timeout(1200)

README, EXTENDING = REPOSITORY / "README.md", pages.DOCS / "extending.md"
PAGES = pages.pages()
SIZE_HW = (64, 96)
LANGUAGES = ("bash", "python", "json", "csv", "text", "mermaid")
NOT_BY_RECIPE = {"…", "--resume", "--config", "--recipe", "--list", "--print-config", "--help"}
NOT_BY_RECIPE |= {"auto"}  # it is sized by data, which must be there
FUNCTION = re.compile(r"([\w/]+\.py):([\w.]+)")
OWN_MODULE = re.compile(r"\bmy_\w+:\w+")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
MADE = {"infra/secrets", "infra/secrets/client/env"}  # by a script that the page names before
FOLDERS = re.compile(r"(?:tests|docs|distseg|cluster|infra|tune_spaces|examples|\.ci)/[\w./-]*\w")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# ---- text


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


@by_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in pages.links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}: no such file"
        assert not anchor or anchor in pages.anchors(target), f"{page.name}: {link}: no such heading"


@by_page
def test_files_that_are_named_exist(page: Path) -> None:
    texts = [*pages.code_spans(page), *(block.text for block in pages.blocks(page) if block.language == "bash")]
    for word in " ".join(texts).split():
        if FOLDERS.fullmatch(word):
            assert word in MADE or (REPOSITORY / word).exists(), f"{page.name}: {word}: no such file"


def test_functions_that_are_named_exist() -> None:
    named = [span for page in PAGES for span in pages.code_spans(page) if FUNCTION.fullmatch(span)]
    assert len(named) > 30
    assert [each for each in named if not is_defined(*each.split(":"))] == []


def is_defined(path: str, name: str) -> bool:
    """`name`: of a function or a class, or Class.method."""
    node: ast.AST = ast.parse((REPOSITORY / path).read_text())
    for part in name.split("."):
        definitions = {each.name: each for each in ast.iter_child_nodes(node) if isinstance(each, DEFINITIONS)}
        if part not in definitions:
            return False
        node = definitions[part]
    return True


def test_the_tree_of_the_readme_has_every_package() -> None:
    (tree,) = (block.text for block in pages.blocks(README) if block.text.startswith("distseg/"))
    named = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    assert named == {path.parent.name for path in (REPOSITORY / "distseg").glob("*/__init__.py")}


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[\w-]+\.md", (REPOSITORY / "mkdocs.yml").read_text()))
    assert named == {page.name for page in pages.DOCS.glob("*.md")}


def test_pre_commit_runs_what_make_lint_runs() -> None:
    makefile = (REPOSITORY / "Makefile").read_text().replace("$(VENV)", ".venv")
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", makefile, re.MULTILINE)
    hooks = re.findall(r"^ +entry: (.+)$", (REPOSITORY / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert hooks == [line.strip() for line in recipe.splitlines()]


# ---- flags


@by_page
def test_blocks_are_marked_in_a_way_that_is_known(page: Path) -> None:
    for block in pages.blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: ```{block.language}"
        if block.language == "bash":
            assert re.fullmatch(r"|not run: .{5,}|(run|on Ray,) with: --.+", block.comment), (
                f"{block.where}: {block.comment}"
            )
    commands = re.findall(r"^ {4,}(?:python -m |distseg |make ).*$", pages.prose(page), re.MULTILINE)
    assert not commands, f"{page.name}: not in a block between ``` lines: {commands}"


@by_page
def test_programs_have_the_flags_that_are_given(page: Path) -> None:
    commands = [(block.where, command) for block in pages.blocks(page) for command in block_commands(block)]
    commands += [(page.name, span) for span in pages.code_spans(page) if span.startswith(("python -m ", "distseg "))]
    for where, command in commands:
        for invocation in pages.invocations(command):
            unknown = invocation.flags - flags_of(invocation.program)
            assert not unknown, f"{where}: {invocation.program} has no {', '.join(sorted(unknown))}"
            if invocation.is_training and not NOT_BY_RECIPE & set(invocation.arguments):
                assert_it_trains(invocation, where)


def block_commands(block: Block) -> list[str]:
    """But for those that are run with a module of the reader's, which has options of its own."""
    commands = block.commands if block.language == "bash" else []
    return [command for command in commands if not (block.is_run and OWN_MODULE.search(command))]


@functools.cache
def flags_of(program: str) -> frozenset[str]:
    """All that its --help names; a search also takes the fields of a configuration."""
    name, *subcommand = program.split()
    found = re.findall(r"--[a-z][\w.-]*", printed(name, [*subcommand, "--help"]))
    flags = {flag.replace("-", "_") for flag in found}
    return frozenset(flags | flags_of("train") if program == "tune" else flags)


def assert_it_trains(invocation: Invocation, where: str) -> None:
    """Its arguments make a configuration."""
    name, *subcommand = invocation.program.split()
    try:
        config = json.loads(printed(name, [*subcommand, *invocation.arguments, "--print-config"]))
    except Exception as error:
        raise AssertionError(f"{where}: {invocation.program} {' '.join(invocation.arguments)}: {error}") from error
    assert config["data"]


def printed(name: str, arguments: list[str]) -> str:
    """What a program prints, in this process."""
    module = name if "." in name else f"distseg.{name}"
    if (spec := importlib.util.find_spec(module)) and spec.submodule_search_locations:
        module += ".__main__"
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", [name])
        importlib.import_module(module).main(arguments)
    return out.getvalue()


# ---- commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the README's commands have run in."""
    folder = tmp_path_factory.mktemp("docs")
    draw_images(folder)
    for block in pages.blocks(README):
        follow(block, folder)
    return folder


def draw_images(folder: Path) -> None:
    """Those that the README's conditions.csv names, with labels of its classes.json."""
    (table,) = (block.text for block in pages.blocks(README) if block.language == "csv")
    (classes,) = (json.loads(block.text) for block in pages.blocks(README) if block.language == "json")
    generator = np.random.default_rng(0)
    for row in csv.DictReader(io.StringIO(table)):
        image, label = (folder / "my-images" / part / row["file"] for part in ("images", "labels"))
        ids_HW = generator.integers(0, len(classes), SIZE_HW, dtype=np.uint8)
        for path, array in ((image, np.stack([ids_HW * 80] * 3, axis=-1)), (label.with_suffix(".png"), ids_HW)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def follow(block: Block, folder: Path) -> None:
    if block.file is not None:
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
    elif block.is_run and not block.needs_ray:
        run(block, folder, programs.alone())


def run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.language == "python":
        command = [sys.executable, "-c", filled(block.text, folder)]
    else:
        command = ["bash", "-euc", filled("\n".join(with_added_flags(block)), folder)]
    bin_and_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | {"PATH": bin_and_path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{block.where}: exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr}"


def with_added_flags(block: Block) -> list[str]:
    takes_them = [any(i.takes_fields for i in pages.invocations(command)) for command in block.commands]
    return [f"{c} {block.added_flags}" if takes else c for c, takes in zip(block.commands, takes_them, strict=True)]


def filled(text: str, folder: Path) -> str:
    """With places in this folder for the words that stand for the reader's own."""
    values = {"URI": "runs/data/mine", "IMAGES": "my-images/images/val"}
    for run_file in sorted(folder.glob("runs/checkpoints/*/run.json")):
        values["RUN"] = str(run_file.parent.relative_to(folder))
        values["OTHER_RUN"] = str(next(run_file.parent.glob("checkpoint_*")).relative_to(folder))
    return re.sub(rf"(?<![\w./:])({'|'.join(values)})(?!\w)", lambda found: values[found[1]], text)


@pytest.mark.long
def test_the_readme_ends_with_a_table_and_label_maps(place: Path) -> None:
    scores = json.loads((place / "scores.json").read_text())
    assert scores["conditions"].keys() == {"day", "night"}
    assert {path.name for path in (place / "predicted/label").iterdir()} == {"0003.png", "0004.png"}


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=lambda page: page.name)
def test_the_commands_and_the_code_of_a_page_work(page: Path, place: Path) -> None:
    for block in pages.blocks(page):
        follow(block, place)
    if page == EXTENDING:
        table = json.loads((place / "kappa.json").read_text())
        assert -1 <= table["conditions"]["day"]["kappa"] <= 1


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.nightly
def test_a_search_with_parts_of_ones_own_works_on_ray(place: Path) -> None:
    blocks = pages.blocks(EXTENDING)
    for block in blocks:
        if block.file is not None:  # some are shown after the command that uses them
            follow(block, place)
    for block in blocks:
        if block.needs_ray:
            with programs.own_environment() as environment:
                run(block, place, environment)
    (table,) = place.glob("runs/checkpoints/small-*/search.md")
    assert "night_first" in table.read_text()
