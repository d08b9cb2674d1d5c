"""python -m distseg.export --checkpoint URI --format onnx|torch-export|weights|safetensors --out FILE [--size 256 512]

`weights` writes one small file that every --checkpoint takes: the weights, classes, configuration and scores.
`safetensors` holds the same without pickle, for other tools too; every --checkpoint takes it as well.
The others write a checkpoint's network for use without distseg. Input `images`: float32 (N, 3, H, W), RGB from 0 to
255; output `logits`: float32 (N, K, H, W), at the images' size. N is free; H and W are any from 33 pixels on, or any
such multiples of 8 (ENet), 16 (U-Nets) or 32 (FCNs on VGG16). Normalisation and resizing are inside;
classes, palette, sizes, run, data and scores are in the file's metadata.
Their file is run on random input of several sizes and compared with the checkpoint before it counts as written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from distseg import cli, deployment, storage
from distseg.deployment import load_model
from distseg.errors import ConfigError
from distseg.training import checkpoint

PROG = "python -m distseg.export"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    checkpoint: str
    """A checkpoint's directory, a run's (its best), or a file of `export --format weights` or
    `safetensors`; path or URI."""
    format: Literal["onnx", "torch-export", "weights", "safetensors"]
    out: str
    """The file: a path or s3:// URI."""
    size: tuple[int, int] = (256, 512)
    """Height and width of the example that a program is traced with; any other may be used later."""
    average: tuple[str, ...] = ()
    """Further checkpoints: the mean of the weights of all is exported, without scores. All must have been trained on
    from the same weights: as a network of day, and its twin that was adapted to night."""


def main(arguments: Sequence[str]) -> int:
    options = cli.parse(Arguments, arguments, prog=PROG, description=__doc__ or "")
    if min(options.size) < 64 or any(side % 32 for side in options.size):
        raise ConfigError(f"--size {options.size}: both sides must be multiples of 32, at least 64")
    deployment.check_export(options.format)
    cli.check_output("--out", options.out)
    found = dict(checkpoint.resolve(each) for each in (options.checkpoint, *options.average))
    if len(found) <= len(options.average):
        raise ConfigError(
            f"--average {' '.join(options.average)}: name each checkpoint once, --checkpoint's own is counted"
        )
    uri, saved = " + ".join(found), checkpoint.mean_of(found) if options.average else next(iter(found.values()))
    model = load_model(saved, torch.device("cpu"), "fp32")
    if options.format == "weights":
        storage.write_bytes(options.out, checkpoint.as_one_file(saved))
    elif options.format == "safetensors":
        about = deployment.describe_weights(saved)
        storage.write_bytes(options.out, checkpoint.as_safetensors(saved, about))
    else:
        difference = deployment.export_network(
            model,
            options.out,
            file_format=options.format,
            size=options.size,
            metadata=deployment.describe_network(saved, multiple=model.exported_multiple),
        )
        cli.say(f"differs by at most {difference:.1e} on random images of 3 sizes")
    cli.say(f"{saved.config.model.name} of {uri}, step {saved.step}")
    cli.say(f"written     {options.out}")
    return 0


if __name__ == "__main__":
    cli.run(main)
