"""The one file that is given to others as safetensors: weights that any program reads, and no pickle.

The weights are its tensors, under the network's own names. All else is JSON, in the entry `checkpoint` of its metadata.
The package is the extra `export`; without it such a file is refused with what to install.
"""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distseg.errors import first_line

ENTRY = "checkpoint"
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
INSTALL = "it is a file of safetensors, which is not installed: pip install 'distseg[export]'"


def is_safetensors(data: bytes) -> bool:
    """Such a file begins with the length of its header, which is JSON."""
    return len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _MAX_HEADER_BYTES


def is_of_distseg(data: bytes) -> bool:
    """Whether a file of safetensors is one of `write`."""
    try:
        return ENTRY in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (ValueError, AttributeError, TypeError):
        return False


def write(content: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """`content`: as torch.save gets it; its `model` is the only entry with tensors."""
    from safetensors.torch import save

    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in content["model"].items()}
    rest = {name: value for name, value in content.items() if name != "model"}
    return bytes(save(weights, {**metadata, ENTRY: json.dumps(rest)}))


def tensors(data: bytes) -> dict[str, Tensor]:
    """Of any file of safetensors. Raises ValueError that says in a few words why it cannot be read."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError:
        raise ValueError(INSTALL) from None
    try:
        found: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise ValueError(f"it is no file of safetensors: {first_line(error)}") from None
    return found


def read(data: bytes) -> dict[str, Any]:
    """The inverse of `write`. Raises ValueError that says in a few words why it cannot be read."""
    weights = tensors(data)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        rest = json.loads(header["__metadata__"][ENTRY])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is no file of export --format safetensors: {type(error).__name__}") from None
    if not isinstance(rest, dict):
        raise ValueError(f"the entry {ENTRY} of its metadata is no object")
    return {**rest, "model": weights}
