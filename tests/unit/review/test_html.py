"""Templates: what they escape, what they refuse, and that nothing is loaded before a page is drawn."""

import subprocess
import sys

import pytest
from jinja2 import UndefinedError

from distseg.review.html import HtmlTable, render


def test_a_value_that_a_template_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="is undefined"):
        render("run.html.j2")


def test_tables_escape_their_cells_and_show_further_lines_small() -> None:
    table = HtmlTable(("", "a<b"), [("<i>", "1\n& 2"), ("x", "")], strong=(1,))
    shown = {"conditions": table, "cost": table, "provenance": table}
    no_figure = {"png": b"", "alt": '"', "width_px": 1}
    html = render(
        "run.html.j2",
        **{"title": "t", "lead": "<b>", "sentences": [], "answers": [("q", "<a>")], "images": None, "config": ""},
        **{"viewer": None, "trust": None, "next_steps": []},
        **{"condition_bars": no_figure, "condition_by_class": no_figure, "confusion": None, "curves": None},
        **shown,
    )
    header, cell = '<th scope="row" role="rowheader">', '<td role="cell" data-column="a&lt;b">'  # on narrow screens
    assert html.count(f'<tr role="row">{header}&lt;i&gt;</th>{cell}1<br><small>&amp; 2</small></td></tr>') == len(shown)
    assert html.count(f'<tr role="row" class="strong">{header}x</th>{cell}</td></tr>') == len(shown)
    assert '<td role="cell"></td><th scope="col" role="columnheader">a&lt;b</th>' in html
    assert "<dd>&lt;a&gt;</dd>" in html and 'alt="&#34;"' in html and '<p class="lead">&lt;b&gt;</p>' in html
    assert "<a>" not in html and "<b>" not in html


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("from distseg.review import RunReview, comparison_page, run_files, run_markdown", "matplotlib jinja2"),
        ("from distseg.review import markdown_table, mean_and_spread", "torch"),
        ("from distseg.evaluation import rank_conditions, weakest_class", "torch"),
    ],
)
def test_what_a_process_does_not_use_is_not_loaded(code: str, unwanted: str) -> None:
    loaded = f"{code}; import sys; print(*(name for name in {unwanted.split()} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
