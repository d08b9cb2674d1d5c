"""Markdown and HTML as text: tables, pictures and the one page that holds them. It knows nothing of runs.

Whatever is given as text is escaped; only `section` and `document` take HTML, which the others here made.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def md(text: str) -> str:
    """As text: what Markdown or HTML would take for markup is shown as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]|#" else c for c in html.escape(text, quote=False).replace("\n", " "))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header)]
    lines += [[md(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def p(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]], strong: Iterable[int] = ()) -> str:
    """The first column names the row; further lines of a cell are small; rows of `strong` are bold."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr{" class=strong" if number in set(strong) else ""}><th scope="row">{html.escape(row[0])}</th>'
        f"{''.join(f'<td>{_cell(cell)}</td>' for cell in row[1:])}</tr>"
        for number, row in enumerate(rows)
    )
    shown_head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="wide"><table>{shown_head}<tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    first, *more = text.split("\n")
    return html.escape(first) + "".join(f"<br><small>{html.escape(line)}</small>" for line in more)


def picture(figure: "Figure", alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    width_px = round(96 * figure.get_figwidth())
    image = f'<img src="{_uri("png", buffer.getvalue())}" alt="{html.escape(alt)}" width="{width_px}">'
    return f'<p class="figure">{image}</p>'


def photograph(jpeg: bytes, alt: str, caption: str) -> str:
    """A caption's further lines are small."""
    image = f'<img src="{_uri("jpeg", jpeg)}" alt="{html.escape(alt)}">'
    return f"<figure>{image}<figcaption>{_cell(caption)}</figcaption></figure>"


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def document(
    title: str, lead: str, sentences: Sequence[str], answers: Sequence[tuple[str, str]], sections: Iterable[str]
) -> str:
    asked = "".join(f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd></div>" for name, text in answers)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>"
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>'
        f"{p(' '.join(sentences)) if sentences else ''}"
        f"<dl>{asked}</dl>\n{chr(10).join(section for section in sections if section)}\n</main></body></html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #5c5c5c; --line: #d9d9d9; --band: #f4f4f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #17191c; --soft: #a9a9a9; --line: #3a3d42; --band: #212428; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.3rem; color: var(--soft); font-weight: 500; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
.lead { font-size: 1.35rem; line-height: 1.4; margin: .5rem 0 .75rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; margin: 1.25rem 0 0; }
dl div { background: var(--band); border-radius: .5rem; padding: .6rem .9rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 500; white-space: nowrap; }
td { overflow-wrap: break-word; }
.strong > * { font-weight: 700; }
figcaption { font-size: .9rem; }
small { color: var(--soft); font-size: .82rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: .4rem; }
.figure { margin: .5rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; }
.legend span { display: inline-block; margin: 0 .9rem .2rem 0; font-size: .85rem; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-right: .35em; vertical-align: -.08em;
  border: 1px solid var(--line); }
.legend .void { background: repeating-linear-gradient(135deg, #6e6e6e 0 2px, #cdcdcd 2px 6px); }
pre { background: var(--band); padding: .9rem; border-radius: .5rem; overflow-x: auto; font-size: .82rem; }
summary { cursor: pointer; margin-top: .75rem; }
@media print {
  :root { --ink: #000000; --paper: #ffffff; --soft: #444444; --line: #bbbbbb; --band: #f4f4f4; }
  main { max-width: none; padding: 0; }
  tr, .figure, dl div { break-inside: avoid; }
}
"""
