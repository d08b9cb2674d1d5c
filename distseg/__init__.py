"""distseg: distributed training of semantic segmentation networks on Ray, measured per weather condition.

The Python API. Names are imported when they are first used: importing distseg loads neither torch nor Ray.

    config = distseg.with_overrides(distseg.recipes.town(), {"optim.max_steps": 100})
    outcome = distseg.train_without_ray(config)                  or train_on_ray(config)
    segmenter = distseg.load_segmenter(outcome.checkpoint_uri)
    labels_BHW = segmenter.predict(images_BHW3)                  uint8 in, uint8 class ids out

    RunConfig, recipes, model_config, with_overrides, to_dict, from_dict        what a run is
    LabelSpace, Sample, pack_samples, load_manifest                             data
    build_model                                                                 a network, as a torch.nn.Module
    train_on_ray, train_without_ray, load_segmenter                             training, and what comes of it
    DistsegError                                                                what all errors derive from

Each package below has more, and says so in its docstring. The programs are `python -m distseg.VERB`.
"""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use

if TYPE_CHECKING:
    from distseg.config import RunConfig, from_dict, model_config, recipes, to_dict, with_overrides
    from distseg.data import LabelSpace, Sample
    from distseg.data.shards import load_manifest
    from distseg.data.shards import pack as pack_samples
    from distseg.deployment import load_segmenter
    from distseg.errors import DistsegError
    from distseg.models import build_model
    from distseg.orchestration import train as train_on_ray
    from distseg.runs import train_without_ray

__version__ = "0.1.0"

__all__ = [
    "DistsegError",
    "LabelSpace",
    "RunConfig",
    "Sample",
    "build_model",
    "from_dict",
    "load_manifest",
    "load_segmenter",
    "model_config",
    "pack_samples",
    "recipes",
    "to_dict",
    "train_on_ray",
    "train_without_ray",
    "with_overrides",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.config": ("RunConfig", "from_dict", "model_config", "recipes", "to_dict", "with_overrides"),
        "distseg.data": ("LabelSpace", "Sample"),
        "distseg.data.shards": ("load_manifest", "pack as pack_samples"),
        "distseg.deployment": ("load_segmenter",),
        "distseg.errors": ("DistsegError",),
        "distseg.models": ("build_model",),
        "distseg.orchestration": ("train as train_on_ray",),
        "distseg.runs": ("train_without_ray",),
    },
)
