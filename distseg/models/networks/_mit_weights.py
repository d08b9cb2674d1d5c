"""Weights of SegFormer's encoder MiT as others save them, under the names of `segformer.MixTransformer`.

Two layouts: that of the authors' code (`block1.0.attn.kv.weight`), and that of transformers' Segformer
(`segformer.encoder.block.0.0.attention.self.key.weight`), which has keys and values apart.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_AUTHORS = (
    (r"^patch_embed(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.embed."),
    (r"^block(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda found: f"stages.{int(found[1]) - 1}.norm."),
    (r"\.dwconv\.dwconv\.", lambda found: ".dwconv."),
)
_TRANSFORMERS = (
    (r"^(segformer\.)?encoder\.", ""),
    (r"^patch_embeddings\.(\d)\.layer_norm\.", r"stages.\1.embed.norm."),
    (r"^patch_embeddings\.(\d)\.", r"stages.\1.embed."),
    (r"^block\.(\d)\.", r"stages.\1.blocks."),
    (r"^layer_norm\.(\d)\.", r"stages.\1.norm."),
    (r"\.layer_norm_(\d)\.", r".norm\1."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.dwconv\.dwconv\.", ".dwconv."),
)
_HEADS = ("head.", "classifier.", "decode_head.")  # of ImageNet's or other classes


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights; a key of neither layout stays as it is, for the caller to name."""
    is_transformers = any("patch_embeddings." in key for key in state)
    of_encoder = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
    if not is_transformers:
        return {_replaced(key, _AUTHORS): value for key, value in of_encoder.items()}
    apart = {_replaced(key, _TRANSFORMERS): value for key, value in of_encoder.items()}
    joined = {key: value for key, value in apart.items() if ".attn.key." not in key and ".attn.value." not in key}
    for key, value in apart.items():
        if ".attn.key." in key and (other := key.replace(".attn.key.", ".attn.value.")) in apart:
            joined[key.replace(".attn.key.", ".attn.kv.")] = torch.cat([value, apart[other]])
    return joined


def _replaced(key: str, rules: tuple[tuple[str, object], ...]) -> str:
    for pattern, new in rules:
        key = re.sub(pattern, new, key)  # type: ignore[call-overload]
    return key
