"""From a network and packed images to scores per weather condition, and how far they may be trusted.

In: a model from `distseg.models` (or any that returns `Logits`), a manifest, shards, and the `World` of ranks. Images
are uint8 RGB (B, 3, H, W); labels are class ids 0 … K - 1 with 255 for void.

    evaluate_shards(model, manifest, shards, world, precision=…) -> ConfusionMatrix     int64, summed over ranks
    as_table(counted, labels) -> dict       the JSON of `evaluate --json`; fractions, None where undefined
    as_metrics(table) -> dict               the same under MLflow's names
    rank_conditions(table) -> ConditionRanking      order, worst, best and gap: everything that shows them asks here
    bootstrap_intervals(images), compare_runs(runs)      intervals of 95 %, of one run and of the differences of runs
    Criteria                                how good predictions look on images without labels
    predict(model, images_B3HW, precision, config) -> class ids (B, H, W), int64; so `predict_with_confidence`
    Overlays                                pictures of chosen images, as JPEGs of at most 64 KiB, and as layers

A metric computed from the confusion matrix is added in `metrics.py` alone, or given as `module:name` (see there). One
that needs the label maps is counted in `trust/counts.py`, read in `trust/readings.py`, and shown on pages; `as_metrics`
would have to be told of it to log it. Errors: ConfigError for bad options,
DataError for damaged, missing or mismatched data. Names are imported when first used: importing this package loads no
torch.
"""

from typing import TYPE_CHECKING

from distseg.lazy import on_first_use

if TYPE_CHECKING:
    from distseg.data import MEAN_RGB, STD_RGB
    from distseg.evaluation.bootstrap import (
        MIN_UNITS,
        Differences,
        ImageCounts,
        Intervals,
        bootstrap_intervals,
        check_same_images,
        compare_runs,
    )
    from distseg.evaluation.criteria import Criteria
    from distseg.evaluation.inference import (
        WHOLE_IMAGE,
        InferenceConfig,
        grid_probabilities,
        latency_ms,
        predict,
        predict_with_confidence,
    )
    from distseg.evaluation.metrics import METRICS, Metric, PixelCounts, metrics_in, own_metrics
    from distseg.evaluation.pictures.layers import NUM_STEPS, Layers, confidence_map, layers_of_prediction
    from distseg.evaluation.pictures.overlays import (
        Overlay,
        Overlays,
        overlay_pictures,
        overlays_from_tensors,
        overlays_to_tensors,
    )
    from distseg.evaluation.pictures.panels import WRONG_RGB, Palette, with_note
    from distseg.evaluation.precision import autocast, denormalize, normalize, of_colours, products, resolve_precision
    from distseg.evaluation.ranking import ConditionRanking, Table, rank_conditions, weakest_class
    from distseg.evaluation.scoring import ConfusionMatrix, evaluate_shards, max_batch_pixels
    from distseg.evaluation.selection import check_disjoint, evaluation_shards
    from distseg.evaluation.simultaneous import LEVEL, Interval, seeds_difference
    from distseg.evaluation.tables import as_metrics, as_table
    from distseg.evaluation.world import World, torchrun_world, world_size

__all__ = [
    "LEVEL",
    "MEAN_RGB",
    "METRICS",
    "MIN_UNITS",
    "NUM_STEPS",
    "STD_RGB",
    "WHOLE_IMAGE",
    "WRONG_RGB",
    "ConditionRanking",
    "ConfusionMatrix",
    "Criteria",
    "Differences",
    "ImageCounts",
    "InferenceConfig",
    "Interval",
    "Intervals",
    "Layers",
    "Metric",
    "Overlay",
    "Overlays",
    "Palette",
    "PixelCounts",
    "Table",
    "World",
    "as_metrics",
    "as_table",
    "autocast",
    "bootstrap_intervals",
    "check_disjoint",
    "check_same_images",
    "compare_runs",
    "confidence_map",
    "denormalize",
    "evaluate_shards",
    "evaluation_shards",
    "grid_probabilities",
    "latency_ms",
    "layers_of_prediction",
    "max_batch_pixels",
    "metrics_in",
    "normalize",
    "of_colours",
    "overlay_pictures",
    "overlays_from_tensors",
    "overlays_to_tensors",
    "own_metrics",
    "predict",
    "predict_with_confidence",
    "products",
    "rank_conditions",
    "resolve_precision",
    "seeds_difference",
    "torchrun_world",
    "weakest_class",
    "with_note",
    "world_size",
]

__getattr__ = on_first_use(
    __name__,
    {
        "distseg.data": ("MEAN_RGB", "STD_RGB"),
        "distseg.evaluation.bootstrap": (
            "MIN_UNITS",
            "Differences",
            "ImageCounts",
            "Intervals",
            "bootstrap_intervals",
            "check_same_images",
            "compare_runs",
        ),
        "distseg.evaluation.criteria": ("Criteria",),
        "distseg.evaluation.inference": (
            "WHOLE_IMAGE",
            "InferenceConfig",
            "grid_probabilities",
            "latency_ms",
            "predict",
            "predict_with_confidence",
        ),
        "distseg.evaluation.metrics": ("METRICS", "Metric", "PixelCounts", "metrics_in", "own_metrics"),
        "distseg.evaluation.pictures.layers": ("NUM_STEPS", "Layers", "confidence_map", "layers_of_prediction"),
        "distseg.evaluation.pictures.overlays": (
            "Overlay",
            "Overlays",
            "overlay_pictures",
            "overlays_from_tensors",
            "overlays_to_tensors",
        ),
        "distseg.evaluation.pictures.panels": ("WRONG_RGB", "Palette", "with_note"),
        "distseg.evaluation.precision": (
            "autocast",
            "denormalize",
            "normalize",
            "of_colours",
            "products",
            "resolve_precision",
        ),
        "distseg.evaluation.ranking": ("ConditionRanking", "Table", "rank_conditions", "weakest_class"),
        "distseg.evaluation.scoring": ("ConfusionMatrix", "evaluate_shards", "max_batch_pixels"),
        "distseg.evaluation.selection": ("check_disjoint", "evaluation_shards"),
        "distseg.evaluation.simultaneous": ("LEVEL", "Interval", "seeds_difference"),
        "distseg.evaluation.tables": ("as_metrics", "as_table"),
        "distseg.evaluation.world": ("World", "torchrun_world", "world_size"),
    },
)
