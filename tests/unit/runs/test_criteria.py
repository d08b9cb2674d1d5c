"""Figures of target images, from a training's evaluations to what `report criteria` makes of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distseg import evaluate, report
from distseg.config import CheckpointConfig, EvaluateConfig, RunConfig
from distseg.data.datasets import town
from distseg.errors import ConfigError
from distseg.runs import train_without_ray
from distseg.training import checkpoint


def test_a_run_that_chooses_by_a_figure_without_labels_and_how_well_it_did(
    tmp_path: Path, small_config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(
        small_config,
        data=replace(small_config.data, train_conditions=("dawn",), batch_size=2),
        optim=replace(small_config.optim, max_steps=3),
        evaluate=EvaluateConfig(every_steps=1, targets=("night", "val/fog"), target_images=3),
        checkpoint=CheckpointConfig(uri=str(tmp_path / "runs"), best_by="target/information"),
    )
    outcome = train_without_ray(config)
    assert outcome is not None
    uri = outcome.run_uri
    kept = {info.step: info.metrics["target/information"] for info in checkpoint.found_in(uri)}
    best = checkpoint.best(uri)
    assert best is not None and kept[best[1].step] == max(kept.values())
    assert best[1].tables["target"]["information"] == kept[best[1].step]

    assert report.main(["criteria", uri, "--json", str(tmp_path / "found.json")]) == 0
    assert "the truth is the mean of val/mIoU/night, val/mIoU/fog" in capsys.readouterr().out
    found = {each["name"]: each for each in json.loads((tmp_path / "found.json").read_text())["chosen"]}
    assert found.keys() == {
        *("target/certainty", "target/information", "target/class_ratios", "score on the source", "the newest"),
    }
    assert found["the newest"]["step"] == 3 and all(each["num_evaluations"] == 3 for each in found.values())
    assert found["target/information"]["step"] == best[1].step

    arguments = ["--checkpoint", uri, "--data", config.data.uri, "--precision", "fp64", "--criteria"]
    assert evaluate.main([*arguments, "--json", str(tmp_path / "val.json")]) == 0
    figures = json.loads((tmp_path / "val.json").read_text())["criteria"]
    assert figures.keys() == set(town.DATASET.conditions) and figures["night"].keys() == best[1].tables["target"].keys()
    with pytest.raises(ConfigError, match="--criteria: of networks as they are; leave out --adapt tent"):
        evaluate.main([*arguments, "--adapt", "tent"])
