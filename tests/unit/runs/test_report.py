"""What a run is reviewed by, read from its directory."""

from dataclasses import replace
from pathlib import Path

from distseg.config import CheckpointConfig, RunConfig
from distseg.review import run_page
from distseg.runs import read_review, train_without_ray


def test_the_page_that_is_written_again_is_the_one_that_the_run_left(tmp_path: Path, small_config: RunConfig) -> None:
    config = replace(
        small_config,
        data=replace(small_config.data, batch_size=2),
        optim=replace(small_config.optim, max_steps=2),
        checkpoint=CheckpointConfig(uri=str(tmp_path)),
    )
    outcome = train_without_ray(config)
    assert outcome is not None
    review = read_review(outcome.run_uri)
    assert review.dataset == "town"
    assert run_page(review) == (Path(outcome.run_uri) / "report" / "index.html").read_text()
