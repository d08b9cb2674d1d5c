"""Draws the house: the packages of distseg in their layers, and who imports whom, read from the imports themselves.

    python docs/house.py            prints the picture, a Mermaid diagram
    python docs/house.py --write    puts it into CONTRIBUTING.md, between the marks

The layers are those of pyproject.toml, which import-linter checks. An arrow is left out where a longer way of arrows
says the same. Sizes are rounded, and `same` compares pictures without them: only a new package or a new kind of import
makes a picture out of date.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grimp

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "CONTRIBUTING.md"
BEGIN, END = "<!-- house:begin -->", "<!-- house:end -->"
PROGRAMS = "programs"

Arrows = set[tuple[str, str]]  # (importer, imported)


@dataclass
class Room:
    """A package, a module that lies alone beside the packages, or all programs together."""

    name: str
    modules: list[Path] = field(default_factory=list)

    @property
    def size(self) -> str:
        lines = sum(len(path.read_text().splitlines()) for path in self.modules)
        count = f"{len(self.modules)} modules, " if len(self.modules) > 1 else ""
        return f"{count}{round(lines, -2) or lines} lines"


def layers() -> list[list[str]]:
    """The layers of the contract in pyproject.toml, top first; the programs, which are the first, as one."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = (each["layers"] for each in contracts if each["name"] == "Imports point down only")
    rows = [[name.strip().removeprefix("distseg.") for name in re.split(r"[|:]", row)] for row in found]
    return [[PROGRAMS], *rows[1:]]


def rooms(graph: grimp.ImportGraph, rows: Iterable[Iterable[str]]) -> dict[str, Room]:
    found = {name: Room(name) for row in rows for name in row}
    for module in sorted(graph.modules):
        if module != "distseg":
            found[_room_of(module, found)].modules.append(_path(module))
    return found


def _room_of(module: str, known: Mapping[str, object]) -> str:
    name = module.split(".")[1]
    is_program = name not in known or module.endswith(".__main__")
    return PROGRAMS if is_program else name


def _path(module: str) -> Path:
    path = REPOSITORY.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def arrows(graph: grimp.ImportGraph, known: Mapping[str, object]) -> Arrows:
    found: Arrows = set()
    for importer in graph.modules - {"distseg"}:
        for imported in graph.find_modules_directly_imported_by(importer) - {"distseg"}:
            found.add((_room_of(importer, known), _room_of(imported, known)))
    return {(importer, imported) for importer, imported in found if importer != imported}


def without_shortcuts(all_arrows: Arrows) -> Arrows:
    """Without (a, c) where other arrows lead from a to c. `all_arrows` must have no circle."""
    below: dict[str, set[str]] = {}
    for importer, imported in all_arrows:
        below.setdefault(importer, set()).add(imported)

    def reaches(start: str, target: str) -> bool:
        return any(step == target or reaches(step, target) for step in below.get(start, ()))

    return {(a, c) for a, c in all_arrows if not any(reaches(b, c) for b in below[a] - {c})}


def picture() -> str:
    graph = grimp.build_graph("distseg")
    rows = layers()
    known = rooms(graph, rows)
    lines = ["```mermaid", "flowchart TD"]
    for number, row in enumerate(rows):
        lines += [f'  subgraph layer{number}[" "]', "    direction LR"]
        lines += [f'    {name}["{name}<br/><small>{known[name].size}</small>"]' for name in row]
        lines += ["  end"]
    lines += [f"  {importer} --> {imported}" for importer, imported in sorted(without_shortcuts(arrows(graph, known)))]
    return "\n".join([*lines, "```"])


def same(one: str, other: str) -> bool:
    """Whether two pictures show the same packages, layers and arrows, whatever the sizes."""
    plain = [re.sub(r"<small>.*?</small>", "", text).split() for text in (one, other)]
    return plain[0] == plain[1]


def written(page: str) -> str | None:
    """The picture between the marks of a page; None if the page has no marks."""
    begin, end = page.find(BEGIN), page.find(END)
    return page[begin + len(BEGIN) : end].strip() if 0 <= begin < end else None


def with_picture(page: str, drawn: str) -> str:
    """The page with `drawn` between its marks. Raises ValueError if it has none."""
    if written(page) is None:
        raise ValueError(f"no marks {BEGIN} and {END} in this order; put both into the page")
    return f"{page[: page.index(BEGIN)]}{BEGIN}\n{drawn}\n{page[page.index(END) :]}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Draws the packages of distseg and their imports.")
    parser.add_argument("--write", action="store_true", help=f"put the picture into {PAGE.name}")
    if not parser.parse_args().write:
        print(picture())
        return 0
    try:
        PAGE.write_text(with_picture(PAGE.read_text(), picture()))
    except (OSError, ValueError) as error:
        print(f"error: {PAGE.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
