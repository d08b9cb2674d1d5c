"""The pages: what they answer, that they are whole and need nothing else, and that nothing foreign becomes markup."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import numpy as np
import pytest
from markdown_it import MarkdownIt

from distseg.config import recipes, to_dict
from distseg.evaluation import rank_conditions
from distseg.evaluation.pictures import panels
from distseg.evaluation.pictures.overlays import Overlay
from distseg.evaluation.simultaneous import between_conditions
from distseg.review import Cost, RunReview, model_card, run_markdown, run_page
from distseg.review.comparison import comparison_page
from distseg.review.images.gallery import MAX_PICTURE_BYTES
from distseg.review.trust import next_steps
from distseg.runs import briefly_named
from tests.unit.reviews import HITS, LABELS, example

HOSTILE = '<script>alert("x")</script>|`*_[a](http://evil.example)&'
OVERLAYS: tuple[tuple[panels.Kind, str], ...] = (("fixed", "7"), ("fixed", "8"), ("worst", "8"), ("worst", "9"))
CAPTIONS = (("Among the worst, and always shown", "8"), ("Among the worst", "9"), ("Always shown", "7"))
FIGURE_URL = "get-artifact?path=plots/condition_miou.png&run_uuid=ab12"


def review(name: str = "town-1", better: int = 0, **changed: object) -> RunReview:
    made = example({condition: hits + better for condition, hits in HITS.items()})
    config = recipes.town()
    config = replace(config, data=replace(config.data, train_conditions=("dawn",), prefetch_batches=4 + better))
    config = replace(config, checkpoint=replace(config.checkpoint, uri=f"runs/{better}"))
    small = panels.shrink(np.zeros((3, 8, 12)), np.zeros((8, 12)), np.ones((8, 12)))
    jpeg = panels.as_jpeg(panels.panel(small, LABELS.palette, tile_px=60))
    whole = RunReview(
        name=name,
        table=made.table,
        config=to_dict(config),
        dataset="town",
        data_digest="9f2c" * 16,
        code_version="abc1234",
        cost=Cost(device="2 CPU cores", wall_hours=0.07, cpu_hours=0.14, images_per_s=31.24, data_wait_fraction=0.012),
        history={"train/loss": [(1, 2.0), (2, 1.0)], "val/mIoU": [(2, 0.5)]},
        images=made.images,
        matrix_KK=made.matrix_KK,
        palette=LABELS.palette,
        overlays=[
            Overlay(kind=kind, condition=c, key=f"{c}/{key}", iou=0.31, jpeg=jpeg)
            for kind, key in OVERLAYS
            for c in HITS
        ],
    )
    return replace(whole, **changed)  # type: ignore[arg-type]


class Page(HTMLParser):
    """What a browser would find: text by element, pictures, and every reference. Fails on tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.images: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag == "img":
            self.images.append(str(dict(attrs)["alt"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def checked(html: str) -> Page:
    """Well-formed and needing nothing from elsewhere; its links lead to its own sections."""
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not page.tags & {"link", "iframe", "object", "base"}
    places = {f"#{place}" for place in page.ids}
    assert all(reference.startswith("data:image/") or reference in places for reference in page.references)
    assert "url(" not in html and "@import" not in html
    assert all(page.images)
    return page


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_description_begins_with_the_verdict_and_embeds_the_figure() -> None:
    text = run_markdown(review(), figure_url=FIGURE_URL, links={"whole report": "#/report"})
    assert text.startswith("Trained on dawn: works best at dawn (mIoU 0.8")
    assert f"![mIoU per condition]({FIGURE_URL})" in text
    assert text.splitlines()[2] == "[whole report](#/report)"
    header, _, *body = rows(text)
    assert header[:5] == ["condition", "images", "mIoU", "95 % interval", "to best"]
    assert [row[0] for row in body] == ["night", "fog", "dawn", "all images together"]
    assert [row[-1] for row in body] == ["no", "no", "yes", ""]
    assert "<table>" in MarkdownIt("commonmark").enable("table").render(text)


@pytest.mark.parametrize(
    ("trained_on", "labels"),
    [
        (["dawn", "fog"], ["no", "yes", "yes"]),  # the training split has no night, and the configuration names none
        (["dawn", "fog", "night", "rain"], ["yes", "yes", "yes"]),
        (None, ["unknown", "unknown", "unknown"]),  # of an earlier version
    ],
)
def test_which_conditions_had_labels_is_what_the_training_split_has(
    trained_on: list[str] | None, labels: list[str]
) -> None:
    made = review(config=to_dict(recipes.town()))
    made = made if trained_on is None else replace(made, table={**made.table, "trained_on": trained_on})
    assert [row[-1] for row in rows(run_markdown(made))[2:5]] == labels
    assert ("Trained without labels of night." in model_card(made)) == (labels[0] == "no")
    known = {"no": "of which it had no labels.", "yes": "of which it had some labels.", "unknown": "against dawn."}
    assert next_steps(made)[0].endswith(known[labels[0]])


def test_run_page_answers_what_a_reader_asks() -> None:
    page = checked(run_page(review()))
    for answer in (
        "works best at dawn",
        "Worst condition night: 0.27",
        "Is the loss sure? yes: 0.5",
        "Cost 0.14 CPU core hours",
        "time spent waiting for data 1.2%",
        "9f2c9f2c",
        "abc1234",
        '"max_steps": 480',
        "step of the scores unknown of 480",
    ):
        assert answer in page.text
    assert len(page.images) == 4 + 3 * len(HITS)  # one is among the worst and always shown
    shown = [f"{what}: pixel-weighted IoU 0.31 {c}/{key}" for c in ("night", "fog", "dawn") for what, key in CAPTIONS]
    assert [page.text.index(caption) for caption in shown] == sorted(page.text.index(caption) for caption in shown)
    assert "void, not counted" in page.text
    assert {"details", "figure"} <= page.tags


def test_a_page_of_many_pictures_stays_small_and_shows_every_condition() -> None:
    names = [f"weather-{k}" for k in range(8)]
    made = example(dict.fromkeys(names, 80), num_images=2)
    noise = bytes(panels.MAX_JPEG_BYTES)  # only counted here, not shown
    overlays = [
        Overlay(kind=kind, condition=c, key=f"{c}/{kind}-{n}", iou=None, jpeg=noise)
        for kind in get_args(panels.Kind)
        for c in names
        for n in range(8)
    ]
    html = run_page(RunReview(name="many", table=made.table, overlays=overlays))
    page = checked(html)
    assert len(html) < 5_000_000
    num_shown = MAX_PICTURE_BYTES // panels.MAX_JPEG_BYTES
    assert f"{num_shown} of 128 images are shown." in page.text
    assert all(f"{name}/worst-0" in page.text for name in names)


def test_run_page_with_nothing_but_the_table() -> None:
    page = checked(run_page(RunReview(name="bare", table=example(num_images=2).table)))
    assert "Is the loss sure? unknown" in page.text
    assert "not recorded" in page.text
    assert len(page.images) == 2


def test_pages_of_a_single_condition() -> None:
    made = example({"all": 80})
    one = RunReview(name="voc", table=made.table, images=made.images)
    page = checked(run_page(one))
    assert "Images 20" in page.text
    assert "Worst condition" not in page.text
    checked(comparison_page([one, replace(one, name="again")]))


def test_own_classes_are_shown_where_conditions_differ_in_them() -> None:
    made = example(absent=(("fog", 1),))
    text = run_markdown(RunReview(name="x", table=made.table, images=made.images))
    assert "Conditions are compared over the 2 classes that occur in every condition." in text
    header, _, *body = rows(text)
    own = header.index("mIoU over its own classes")
    assert {row[0]: row[own] for row in body}["fog"] == f"{made.table['conditions']['fog']['mIoU']:.3f}"


def test_nothing_foreign_becomes_markup() -> None:
    hits = {HOSTILE: 40, "dawn": 90}
    made = example(hits)
    worst = replace(review().overlays[0], key=HOSTILE, condition=HOSTILE)
    hostile = review(
        HOSTILE,
        table=made.table,
        images=made.images,
        config={"data": {"uri": HOSTILE, "train_conditions": [HOSTILE]}, "model": {"name": HOSTILE}},
        dataset=HOSTILE,
        data_digest=HOSTILE,
        code_version=HOSTILE,
        cost=Cost(device=HOSTILE),
        overlays=[worst],
    )
    for html in (run_page(hostile), comparison_page([hostile, replace(hostile, config={"a": HOSTILE})])):
        assert HOSTILE in checked(html).text
    for text in (run_markdown(hostile), model_card(hostile)):
        rendered = MarkdownIt("commonmark").enable("table").render(text)
        assert "<script" not in rendered
        assert "<a " not in rendered
        assert 'alert("x")' in rendered.replace("&quot;", '"')


def test_comparison_says_what_is_better_where_and_whether_it_is_sure() -> None:
    page = checked(comparison_page([review("base"), review("better", better=5)]))
    assert re.search(r"2 runs compared better is best at (\w+, \w+ and \w+)\. ", page.text)
    assert "better against base: a real gain at " in page.text
    for condition in HITS:
        assert f"{condition} (+0." in page.text
    worst, pooled = (
        f"Best {where} better: 0\\.\\d\\d, a real lead" for where in ("at its worst condition", "over all images")
    )
    assert re.search(f"{worst} {pooled}", page.text)
    assert re.search(r"night better 0\.3\d\d \+0\.0\d\d \(0\.0\d\d to 0\.0\d\d\) yes", page.text)
    assert re.search(r"night 20 0\.2\d\d 0\.3\d\d \+0\.0\d\d \(0\.0\d\d to 0\.0\d\d\) real gain", page.text)
    assert "base: pixel-weighted IoU 0.31 night/7 better: pixel-weighted IoU 0.31 night/7" in page.text
    assert len(page.images) == 1 + 2 * 2 * len(HITS)  # two images of each condition, of each run
    assert "data.prefetch_batches 4 9" in page.text  # the only field that differs, but for where the run lies
    assert "checkpoint.uri" not in page.text
    assert "model.name" not in page.text
    assert "Published results" not in page.text
    base, better = (review(name, better=more) for name, more in (("base", 0), ("better", 5)))
    weakest = min(better.table["classes"], key=better.table["classes"].__getitem__)
    scores = [(run.table["classes"], run.table["conditions"]["night"]["classes"]) for run in (base, better)]
    cells = " ".join(f"{of_all[weakest]:.3f} night {at_night[weakest]:.3f}" for of_all, at_night in scores)
    assert f"class base better {weakest} {cells} " in page.text


def test_runs_are_named_without_their_times_where_that_tells_them_apart() -> None:
    names = ("pspnet-20261121-183725-a220", "pspnet-se-20261121-184258-4672", "mine")
    brief = briefly_named([review(name) for name in names])
    assert [run.name for run in brief] == ["pspnet", "pspnet-se", "mine"]
    page = checked(comparison_page(brief))
    assert all(page.text.count(name) == 1 for name in names[:2]), "each in full once, with data and code"
    twice = [review(f"pspnet-20261121-18372{k}-a220") for k in range(2)]
    assert briefly_named(twice) == twice


def test_how_many_times_a_cost_is_told_of_the_hours_that_are_shown() -> None:
    """Two runs on as many GPUs for as long, the second with twice the CPU cores beside them."""
    costs = [Cost(device="2 GPUs", wall_hours=0.5, gpu_hours=1.0, cpu_hours=hours) for hours in (8.0, 16.0)]
    page = checked(comparison_page([review(f"run-{k}", cost=cost) for k, cost in enumerate(costs)]))
    assert "run-0 1.00 GPU hours; run-1 1.00 GPU hours, 1.0 times the first" in page.text
    assert [Cost(cpu_hours=hours).brief() for hours in (0.0731, 0.2)] == ["0.073 CPU core hours", "0.20 CPU core hours"]


def test_comparison_with_itself_finds_no_difference() -> None:
    page = checked(comparison_page([review("a"), review("a")]))
    assert (
        "a [2] against a [1]: differences that may be chance at 3 of 3 conditions; "
        "the worst condition of each 0.00: may be chance." in page.text
    )
    assert re.search(
        r"night a \[1\] 0\.2\d\d 0\.000 \(0\.000 to 0\.000\) may be chance cannot be told apart from a \[2\]", page.text
    )
    assert "Their configurations are the same." in page.text
    assert "a [1]" in page.text and "a [2]" in page.text


def test_comparison_of_runs_that_cannot_be_paired_says_so() -> None:
    other = example({"dawn": 90, "fog": 80, "night": 40}, num_images=30)
    page = checked(comparison_page([review("base"), review("other", table=other.table, images=other.images)]))
    assert "Not tested at night, fog and dawn: the runs were not evaluated on the same images" in page.text
    page = checked(comparison_page([review("base"), review("other", images=None)]))
    assert "Not tested at night, fog and dawn: other has no counts of single images." in page.text
    assert page.text.lower().count("not tested") == 1 and "may be chance" not in page.text.partition("How to read")[0]
    assert re.search(r"other against base: the worst condition of each 0\.00\.", page.text)


def test_a_comparison_says_once_that_conditions_have_too_few_images() -> None:
    """A lead of half a mIoU on five images: neither real nor chance, but not tested."""
    few, better = (example({"dawn": hits, "night": 10}, num_images=5) for hits in (10, 90))
    runs = [RunReview(name=name, table=made.table, images=made.images) for name, made in (("a", few), ("b", better))]
    page = checked(comparison_page(runs))
    assert "Not tested at night and dawn: 5 images, 8 needed." in page.text
    said = page.text.partition("How to read")[0]
    assert said.lower().count("not tested") == 1
    assert "may be chance" not in said and "real gain" not in said and " yes" not in said
    assert "So neither are the differences of all images together and of the worst conditions." in said


def test_of_nine_conditions_that_are_alike_none_is_said_to_be_the_worst() -> None:
    """The best and the worst alone would be told apart: a 95 % interval of these two, not chosen, excludes 0."""
    made = example({f"c{k}": 70 for k in range(9)}, spread=25, num_images=19)
    worst, best = rank_conditions(made.table).worst, rank_conditions(made.table).best
    counts = {name: made.images.by_condition()[name].counts_n3K for name in (worst, best) if name}
    assert between_conditions(counts)(str(best), str(worst)).low > 0
    page = checked(run_page(RunReview(name="x", table=made.table, images=made.images)))
    assert "chance could explain the loss" in page.text and "Is the loss sure? no" in page.text


def test_a_lead_says_which_runs_are_as_good() -> None:
    made = {"a": example(), "b": example({name: hits + 5 for name, hits in HITS.items()})}
    runs = [RunReview(name=name, table=m.table, images=m.images) for name, m in made.items()]
    page = checked(comparison_page([*runs, replace(runs[1], name="c")]))
    assert "may be chance cannot be told apart from c" in page.text
    assert "Best over all images b: 0.61, a lead that may be chance" in page.text


def test_comparison_of_many_runs_draws_those_it_can_tell_apart() -> None:
    page = checked(comparison_page([review(f"run {k}") for k in range(9)]))
    assert "The figure shows the first 7 of 9 runs." in page.text
    assert "run 8" in page.text
    with pytest.raises(ValueError, match="needs at least two"):
        comparison_page([review()])


def test_model_card_says_what_the_model_is_not_good_for() -> None:
    text = model_card(review())
    assert "| network | pspnet on resnet18 |" in text
    assert "Trained without labels of night, fog." in text
    assert "0 road, 1 sign, 2 car" in text
    assert [row[0] for row in rows(text.partition("## mIoU")[2])][2:] == ["night", "fog", "dawn", "all images together"]
