"""A scene of one of the sites of `town`."""

import numpy as np

from distseg.data.datasets.townscape.highway import highway
from distseg.data.datasets.townscape.new_york import new_york
from distseg.data.datasets.townscape.scene import Scene

_BUILDERS = {"highway": highway, "new-york": new_york}
SITES = tuple(_BUILDERS)


def build_scene(site: str, rng: np.random.Generator) -> Scene:
    return _BUILDERS[site](rng)
