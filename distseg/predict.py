"""python -m distseg.predict --checkpoint URI --images DIR|URI --out DIR [--scales …] [--flip] [--sliding]

Segments the photographs of a directory or s3:// prefix, of any sizes, with a checkpoint's network. For each it writes
`label/NAME.png`, class ids in the label space's palette, and `overlay/NAME.png`, the photograph tinted by class. Both
are upright: a photograph is taken as a viewer shows it, turned as its EXIF orientation says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

from distseg import cli, deployment, evaluation, storage
from distseg.config import Precision
from distseg.deployment import load_model
from distseg.training import checkpoint

PROG = "python -m distseg.predict"


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.InferenceOptions):
    checkpoint: str
    """A checkpoint's directory, a run's (its best), or a file of `export --format weights`; path or URI."""
    images: str
    """Directory or s3:// prefix; all photographs below it."""
    out: str
    """Directory or s3:// prefix for label/ and overlay/; names and sub-directories are kept."""
    precision: Precision = "auto"


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    uri, saved = checkpoint.resolve(options.checkpoint)
    inference = options.inference(saved.config)
    names = deployment.photographs_below(options.images)
    storage.check_writable(options.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = evaluation.resolve_precision(options.precision, device)
    model = load_model(saved, device, precision)
    with cli.progress("predicting", "images") as progress:
        for number, name in enumerate(names, 1):
            source = storage.join(options.images, name)
            image = deployment.decode_photograph(storage.read_bytes(source), source, options.max_megapixels)
            image_1HW3 = torch.from_numpy(np.array(image))[None]
            images_13HW = image_1HW3.permute(0, 3, 1, 2).to(device)
            ids_HW = evaluation.predict(model, images_13HW, precision, inference)[0].to(torch.uint8).cpu().numpy()
            target = str(PurePosixPath(name).with_suffix(".png"))
            colours = deployment.label_image(ids_HW, saved.label_space)
            storage.write_bytes(storage.join(options.out, "label", target), deployment.png_bytes(colours))
            tinted = deployment.tinted(image, ids_HW, saved.label_space)
            storage.write_bytes(storage.join(options.out, "overlay", target), deployment.png_bytes(tinted))
            progress(number, len(names))
    cli.say(f"{len(names)} images segmented by {uri}")
    cli.say(f"written     {storage.join(options.out, 'label')} and {storage.join(options.out, 'overlay')}")
    return 0


if __name__ == "__main__":
    cli.run(main)
