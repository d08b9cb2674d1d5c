"""HTML pages from the templates beside this file. A page is one file that needs nothing else.

Style and scripts are inline, pictures are data: URIs, and no link leads elsewhere. Whatever a template is given
is escaped; a name that it uses and is not given is an error.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class HtmlTable:
    """The first column names the row. Further lines of a cell are small; rows of `strong` are bold."""

    header: Sequence[str]  # all "": none
    rows: Sequence[Sequence[str]]
    strong: Iterable[int] = ()


@dataclass(frozen=True)
class Picture:
    """A figure on a page."""

    png: bytes
    alt: str
    width_px: int


def picture(figure: "Figure", alt: str) -> Picture:
    from distseg.review.figures import as_png

    return Picture(as_png(figure, dpi=150), alt, round(96 * figure.get_figwidth()))


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # here, as a training draws no page until its end

    made = Environment(
        loader=PackageLoader("distseg.review"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["data_uri"] = lambda data, kind: f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return made
