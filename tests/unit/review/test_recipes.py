"""Seeds of one recipe as one entry of a comparison, and leads that are real over seeds and images."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from distseg.config import recipes, to_dict
from distseg.evaluation import seeds_difference
from distseg.review import RunReview
from distseg.review.comparison import comparison_page
from distseg.review.recipes import ALL, WORST, Recipes
from distseg.review.tested_runs import Comparison
from tests.unit.review.test_pages import checked
from tests.unit.reviews import HITS, Example, example


@functools.cache
def evaluated(better: int) -> Example:
    return example({condition: hits + better for condition, hits in HITS.items()})


def training(name: str, seed: int, better: int = 0, *, lr: float = 0.01) -> RunReview:
    """Of a recipe that is told by `lr`; each condition has `better` more right pixels of 100."""
    config = recipes.town()
    config = replace(config, name=name, seed=seed, optim=replace(config.optim, lr=lr))
    made = evaluated(better)
    return RunReview(name=f"{name}-{seed}", table=made.table, images=made.images, config=to_dict(config))


def found(*runs: Sequence[RunReview]) -> Recipes:
    return Recipes(Comparison([run for group in runs for run in group]))


STEADY = [training("base", seed, better) for seed, better in enumerate((0, 1, 2))]
BETTER = [training("new", seed, better, lr=0.02) for seed, better in enumerate((9, 10, 11))]
UNSTEADY = [training("new", seed, better, lr=0.02) for seed, better in enumerate((0, 5, 16))]


def test_what_differs_by_seed_and_place_alone_is_one_recipe() -> None:
    made = found(STEADY, BETTER)
    assert [(recipe.name, recipe.runs) for recipe in made.recipes] == [("base", (0, 1, 2)), ("new", (3, 4, 5))]
    again = found(STEADY, [training("base", 2), replace(STEADY[0], config={}), replace(STEADY[0], data_digest="other")])
    assert [recipe.runs for recipe in again.recipes] == [(0, 1, 2), (3,), (4,), (5,)]
    assert not found(STEADY[:1], BETTER[:1]).has_seeds
    named = [replace(run, config={**run.config, "name": run.name}) for run in STEADY]
    assert [recipe.name for recipe in found(named, BETTER).recipes] == ["base", "new"]


def test_scores_are_those_of_each_seed() -> None:
    made = found(STEADY, BETTER)
    assert made.scores(0, ALL) == [run.table["mIoU"] for run in STEADY]
    assert made.scores(1, WORST) == [min(entry["mIoU"] for entry in run.table["conditions"].values()) for run in BETTER]


def test_a_lead_is_real_if_it_outlasts_seeds_and_images() -> None:
    made = found(STEADY, BETTER)
    assert all(made.is_real(1, 0, row) for row in made.rows) and made.summary().startswith("new is best at ")
    chance = found(STEADY, UNSTEADY)
    seeds, images = (test(1, 0, ALL) for test in (chance.over_seeds, chance.over_images))
    assert seeds and images and seeds.low < 0 < images.low  # on these images yes, with other seeds who knows
    assert chance.is_real(1, 0, ALL) is False
    assert chance.summary() == "No recipe leads by more than seeds and test images explain."


def test_one_training_of_a_recipe_says_nothing_of_other_seeds() -> None:
    made = found(STEADY, BETTER[:1])
    assert (
        made.over_images(1, 0, ALL) is None and made.over_seeds(1, 0, ALL) is None and made.is_real(1, 0, ALL) is None
    )
    assert made.summary() == (
        "Not tested at night, fog and dawn: that takes two seeds of each recipe, and counts of the same images."
    )
    assert made.table().header == ("condition", "base, 3 seeds", "new-0, 1 seed")


def test_a_run_on_other_images_does_not_keep_others_from_being_tested() -> None:
    elsewhere = example({"dawn": 90, "fog": 80, "night": 40}, num_images=30)
    other = replace(training("else", 0, lr=0.5), table=elsewhere.table, images=elsewhere.images)
    assert found(STEADY, BETTER, [other]).is_real(1, 0, ALL)
    assert found(STEADY, BETTER, [replace(other, images=None)]).is_real(1, 0, ALL)


def test_recipes_without_a_score_or_a_common_condition_are_no_error() -> None:
    void = [replace(run, table={**run.table, "mIoU": None, "conditions": {}}) for run in STEADY]
    assert found(void).summary() == "3 seeds of one recipe, without a score: all is void."
    others = [replace(run, table={**run.table, "conditions": {}}) for run in BETTER]
    assert found(void, others).summary() == "They have no condition in common."


def test_recipes_of_other_numbers_of_seeds_are_tested_on_the_same_labels() -> None:
    assert found(STEADY, BETTER[:2]).is_real(1, 0, ALL)


def test_the_page_speaks_of_recipes() -> None:
    page = checked(comparison_page([*STEADY, *BETTER]))
    assert "6 runs compared new is best at " in page.text
    assert "base, 3 seeds new, 3 seeds" in page.text and "over images 0." in page.text and "real gain" in page.text
    alone = checked(comparison_page(STEADY))
    assert "3 seeds of one recipe: mIoU 0." in alone.text and "What differs between them is chance." in alone.text
    assert "a real lead" not in alone.text and ", real on these images" in alone.text
    assert "Recipes over" not in checked(comparison_page([STEADY[0], BETTER[0]])).text


def test_all_tests_of_recipes_share_one_error_rate() -> None:
    """Two recipes at three conditions, the worst of each and all images: five tests over seeds, 1 % each."""
    scores = [[run.table["mIoU"] for run in group] for group in (BETTER, STEADY)]
    assert found(STEADY, BETTER).over_seeds(1, 0, ALL) == seeds_difference(*scores, level=1 - 0.05 / 5)


@pytest.mark.parametrize("num_recipes", [2, 4])
def test_of_recipes_that_are_alike_seldom_one_is_said_to_lead(num_recipes: int) -> None:
    """60 comparisons of three seeds each. Both tests must be passed: less often than in 5 %, which would be 3."""
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(60):
        groups = [
            [training(f"r{r}", seed, int(better), lr=0.01 + r) for seed, better in enumerate(rng.integers(-4, 5, 3))]
            for r in range(num_recipes)
        ]
        said += "is best at" in found(*groups).summary()
    assert said <= 3
