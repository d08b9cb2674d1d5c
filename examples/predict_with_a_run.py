"""Segments photographs with the best checkpoint of a run, and says which share of each is which class.

    python examples/predict_with_a_run.py RUN photograph.jpg …

`python -m distseg.predict` writes label maps and overlays of a whole directory.
"""

import sys
from pathlib import Path

import numpy as np

import distseg
from distseg.deployment import decode_photograph, tinted


def segment(run: str, paths: list[Path]) -> dict[str, dict[str, float]]:
    """File name -> class -> share of pixels, the largest first. Writes NAME.segmented.png beside each photograph."""
    segmenter = distseg.load_segmenter(run)
    shares: dict[str, dict[str, float]] = {}
    for path in paths:
        photograph = decode_photograph(path.read_bytes(), str(path))
        ids_HW = segmenter.predict(np.asarray(photograph)[None])[0]
        tinted(photograph, ids_HW, segmenter.label_space).save(path.with_suffix(".segmented.png"))
        counts_K = np.bincount(ids_HW.ravel(), minlength=segmenter.label_space.num_classes) / ids_HW.size
        of_class = dict(zip(segmenter.label_space.classes, counts_K.tolist(), strict=True))
        shares[path.name] = dict(sorted(of_class.items(), key=lambda item: -item[1]))
    return shares


if __name__ == "__main__":
    for name, of_class in segment(sys.argv[1], [Path(name) for name in sys.argv[2:]]).items():
        print(name, "  ".join(f"{label} {share:.0%}" for label, share in of_class.items() if share >= 0.01))
