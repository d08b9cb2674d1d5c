"""The former name of `distseg.training.segmenter`, by which models that are already logged in MLflow are loaded."""

from distseg.training import Segmenter, _load_pyfunc

__all__ = ["Segmenter", "_load_pyfunc"]
