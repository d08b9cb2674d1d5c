"""The former name of distseg.deployment.segmenter, by which models logged in MLflow earlier are loaded."""

from distseg.deployment import Segmenter, _load_pyfunc

__all__ = ["Segmenter", "_load_pyfunc"]
