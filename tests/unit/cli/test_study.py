"""The tables of studies by hand, and what their rows share."""

from typing import Any

import pytest

from distseg import study
from distseg.data.datasets import town
from distseg.errors import ConfigError


def table(dawn: float, night: float, small: float) -> dict[str, Any]:
    classes = {name: small if name in study.SMALL_CLASSES else None for name in town.LABELS.classes}
    conditions = {"dawn": {"mIoU": dawn}, "night": {"mIoU": night}}
    return {"conditions": conditions, "mIoU": (dawn + night) / 2, "mIoU_worst": night, "classes": classes}


def test_markdown_by_hand() -> None:
    asked = study.Study("Why?", {"a": study._studies()["dawn"].rows["trained on dawn"]})
    lines = study.markdown(asked, {"a": [table(0.5, 0.3, 0.2), table(0.7, 0.3, 0.4)]}).splitlines()
    assert lines == [
        "Why? mIoU in %, 2 seeds.",
        "",
        "| | dawn | night | all images | worst | small classes |",
        "|---|---|---|---|---|---|",
        "| a | 60.0 ± 14.1 | 30.0 ± 0.0 | 45.0 ± 7.1 | 30.0 ± 0.0 | 30.0 ± 14.1 |",
        "",
        "Worst: the lowest mIoU of a condition, over the classes that occur in all. Whether rows differ is not tested.",
    ]
    assert "| a | 50.0 | 30.0 |" in study.markdown(asked, {"a": [table(0.5, 0.3, 0.2)]})


def test_a_seed_given_twice_is_no_second_training() -> None:
    with pytest.raises(ConfigError, match=r"--seeds \(0, 1, 0\): give each once"):
        study.main(["dawn", "--seeds", "0", "1", "0"])


def test_rows_of_one_name_are_one_configuration() -> None:
    rows = [config for asked in study._studies().values() for config in asked.rows.values()]
    for config in rows:
        assert all(other == config for other in rows if other.name == config.name), config.name
    assert len({config.name for config in rows}) < len(rows)


def test_only_the_last_row_of_the_study_adapt_has_labels_of_other_conditions() -> None:
    asked = study._studies()["adapt"]
    labelled = [row for row, config in asked.rows.items() if config.data.train_conditions != (study.SOURCE,)]
    assert labelled == ["all labels"]
    assert set(asked.adapted) <= set(asked.rows)
    seen = {config.adapt.conditions for config in asked.rows.values() if config.adapt.conditions}
    assert seen == {study.TARGETS}
