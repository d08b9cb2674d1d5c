"""The first points, then points drawn at random."""

from collections.abc import Mapping, Sequence

from ray.tune.search import BasicVariantGenerator
from ray.tune.search.sample import Domain

from distseg.search import params
from distseg.search.algorithms import Algorithm, Point


class Random(Algorithm):
    def build(
        self, space: Mapping[str, Domain], first: Sequence[Point], *, second: str | None, at_once: int, seed: int
    ) -> BasicVariantGenerator:
        """Ray Tune's own search. It keeps to no limit on trials at once but the one that it is made with."""
        encoded = [{name: params.encode(value) for name, value in point.items()} for point in first]
        return BasicVariantGenerator(points_to_evaluate=encoded or None, max_concurrent=at_once, random_state=seed)


ALGORITHM = Random
