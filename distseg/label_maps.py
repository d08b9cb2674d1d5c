"""Label maps: uint8 arrays of train ids, 0 … num_classes - 1, and `IGNORE_INDEX` for void, which nothing counts."""

IGNORE_INDEX = 255
