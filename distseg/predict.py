"""python -m distseg.predict --checkpoint URI --images DIR|URI|VIDEO --out DIR|URI [--ray] [--scales …] [--sliding]

Segments the photographs of a directory or s3:// prefix, of any sizes, or the frames of a video, with a checkpoint's
network. Below --out it writes

    label/NAME.png         class ids in the label space's palette
    overlay/NAME.png       the photograph tinted by class
    confidence/NAME.png    how sure the network is: 0 to 255, of every third row and column
    images.csv             of each image its mean confidence and the share of each class
    index.html             a page to look at some of them

All are upright: a photograph is taken as a viewer shows it, turned as its EXIF orientation says. What was stopped goes
on where it was; so does a folder that has grown.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distseg import cli, deployment, evaluation, review, storage
from distseg.config import Precision
from distseg.data import num_cores
from distseg.errors import ConfigError
from distseg.training import checkpoint

PROG = "python -m distseg.predict"


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.InferenceOptions, cli.Workers):
    checkpoint: str
    """A checkpoint's directory, a run's (its best), or a file of `export --format weights`; path or URI."""
    images: str
    """Directory or s3:// prefix: all photographs below it. Or a video, which needs pip install 'distseg[video]'."""
    out: str
    """Directory or s3:// prefix for the results; names and sub-directories are kept."""
    num_processes: int = 1
    """Processes on this machine. One uses all its cores, or its GPU."""
    every: int | None = None
    """Of a video, only every so many frames."""
    show: int = 48
    """Images on the page, at most; the page stays below 4 MB. 0: no page."""
    precision: Precision = "auto"
    overwrite: bool = False
    """Segment everything anew, whatever is there; files of the same names are replaced, whoever made them."""

    def __post_init__(self) -> None:
        cli.InferenceOptions.__post_init__(self)
        cli.Workers.__post_init__(self)
        if self.every is not None and self.every < 1:
            raise ConfigError(f"--every {self.every}: must be at least 1")
        if self.show < 0:
            raise ConfigError(f"--show {self.show}: must not be negative")


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    for flag, uri in (("--images", options.images), ("--out", options.out)):
        cli.check_named(flag, uri)
    images, out = storage.absolute(options.images), storage.absolute(options.out)
    if storage.is_within(out, images):
        raise ConfigError(
            f"--out {options.out}: is below --images, and would be segmented the next time; choose another"
        )
    uri, saved = checkpoint.resolve(storage.absolute(options.checkpoint))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job = deployment.SegmentJob(
        checkpoint=uri,
        source=deployment.images_at(images, options.every),
        out=out,
        inference=options.inference(saved.config),
        precision=evaluation.resolve_precision(options.precision, device),
        max_megapixels=options.max_megapixels,
        num_threads=0 if options.ray or options.num_processes == 1 else max(1, num_cores() // options.num_processes),
    )
    places = job.source.places()
    with cli.progress("predicting", "images") as progress:
        found, num_before = deployment.segment_all(
            job, saved, places, options.runner(out), progress, overwrite=options.overwrite
        )
    storage.write_bytes(storage.join(out, deployment.TABLE), _table(found, saved.label_space.classes))
    before = f", {num_before} of them before" if num_before else ""
    cli.say(f"{len(found)} images segmented by {uri}{before}")
    cli.say(f"written     {storage.join(options.out, 'label')}, overlay, confidence and images.csv")
    if options.show:
        overlays = deployment.shown(job, places, found, options.show)
        page = _page(saved, options.images, found, overlays)
        storage.write_bytes(storage.join(out, deployment.PAGE), page.encode())
        cli.say(f"look        {storage.join(options.out, deployment.PAGE)}")
    return 0


def _page(
    saved: checkpoint.Checkpoint,
    source: str,
    images: Sequence[deployment.SegmentedImage],
    overlays: Sequence[evaluation.Overlay],
) -> str:
    shares = zip(*(image.shares for image in images), strict=True)  # of each class
    return review.predictions_page(
        review.PredictionsReview(
            network=saved.config.name,
            source=source,
            palette=saved.label_space.palette,
            confidences={image.name: image.confidence for image in images},
            shares={
                name: sum(each) / len(images) for name, each in zip(saved.label_space.classes, shares, strict=True)
            },
            shares_of={image.name: image.shares for image in images},
            shown=overlays,
        )
    )


def _table(images: Sequence[deployment.SegmentedImage], classes: Sequence[str]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("image", "confidence", *classes))
    rows.writerows(
        (image.name, f"{image.confidence:.4f}", *(f"{share:.6f}" for share in image.shares)) for image in images
    )
    return text.getvalue().encode()


if __name__ == "__main__":
    cli.run(main)
