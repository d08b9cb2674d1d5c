"""The former name of distseg.training.segmenter. Models that were logged in MLflow earlier are loaded by this name."""

from distseg.training import Segmenter, _load_pyfunc

__all__ = ["Segmenter", "_load_pyfunc"]
