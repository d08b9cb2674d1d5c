"""What lines a street of `town`: houses, fences, hedges, cut into short faces so that drawing far to near is right."""

import math
from collections.abc import Sequence

import numpy as np

from distseg.data.datasets.townscape.scene import Colour, Facade, Face, Label, Material, Scene
from distseg.data.datasets.townscape.shapes import distance, shade, upright

WALLS: tuple[Colour, ...] = (
    (0.55, 0.30, 0.23), (0.64, 0.42, 0.32), (0.45, 0.24, 0.20), (0.72, 0.66, 0.55), (0.62, 0.60, 0.56),
    (0.78, 0.72, 0.62), (0.50, 0.47, 0.44), (0.68, 0.55, 0.42), (0.58, 0.60, 0.64), (0.40, 0.36, 0.34),
)  # fmt: skip
AWNINGS: tuple[Colour, ...] = (
    (0.60, 0.12, 0.12), (0.12, 0.32, 0.22), (0.14, 0.20, 0.45), (0.80, 0.62, 0.20), (0.30, 0.30, 0.32),
)  # fmt: skip


def block(
    scene: Scene,
    s: float,
    outward: float,
    z0: float,
    z1: float,
    depth_m: float,
    height_m: float,
    rng: np.random.Generator,
    shop: bool = False,
) -> None:
    """A house, a shop or a tower, as drawn at random, from z0 to z1 along the street."""
    tower = height_m > 35 and rng.random() < 0.5
    wall = WALLS[int(rng.integers(len(WALLS)))]
    tint = rng.uniform(0.85, 1.12)
    texture = Facade(
        x0=0.0, z0=0.0, dx=0.0, dz=0.0, height_m=height_m,
        floor_m=rng.uniform(3.1, 4.0),
        bay_m=rng.uniform(1.6, 2.2) if tower else rng.uniform(2.2, 3.6),
        window_width=0.82 if tower else rng.uniform(0.38, 0.6),
        window_height=0.72 if tower else rng.uniform(0.45, 0.62),
        shop=float(shop),
        seed=float(rng.integers(1, 1000)),
        wall=shade((0.42, 0.48, 0.54) if tower else wall, tint),
        trim=shade(wall, 1.25 if rng.random() < 0.6 else 0.7),
        awning=AWNINGS[int(rng.integers(len(AWNINGS)))],
    )  # fmt: skip
    building(scene, s, outward, z0, z1, depth_m, height_m, texture)


def building(
    scene: Scene, s: float, outward: float, z0: float, z1: float, depth_m: float, height_m: float, texture: Facade
) -> None:
    """A block whose street front runs along s from z0 to z1 and which reaches `depth_m` away from the street."""
    street = scene.street
    inner0, inner1 = street.centre(z0) + s, street.centre(z1) + s
    corners = [(inner0, z0), (inner1, z1), (inner1 + outward * depth_m, z1), (inner0 + outward * depth_m, z0)]
    for start, end in ((1, 2), (2, 3), (0, 1), (3, 0)):
        wall(scene, corners[start], corners[end], corners, height_m, texture)
    scene.shadows.append([(x, y, z) for x, z in corners for y in (0.0, height_m)])


def wall(
    scene: Scene,
    start: tuple[float, float],
    end: tuple[float, float],
    corners: Sequence[tuple[float, float]],
    height_m: float,
    texture: Facade,
) -> None:
    (x0, z0), (x1, z1) = start, end
    length = math.hypot(x1 - x0, z1 - z0)
    dx, dz = (x1 - x0) / length, (z1 - z0) / length
    middle_x, middle_z = sum(c[0] for c in corners) / 4, sum(c[1] for c in corners) / 4
    outward = dz * (x0 - middle_x) - dx * (z0 - middle_z)  # the wall's normal is (dz, -dx), up to its sign
    if outward * (-dz * x0 + dx * z0) <= 0:
        return
    row = len(scene.facades)
    scene.facades.append(texture._replace(x0=x0, z0=z0, dx=dx, dz=dz, height_m=height_m))
    num_pieces = max(1, math.ceil(abs(z1 - z0) / max(3.0, 0.12 * z0)))
    for i in range(num_pieces):
        (xa, za), (xb, zb) = ((x0 + (x1 - x0) * t, z0 + (z1 - z0) * t) for t in (i / num_pieces, (i + 1) / num_pieces))
        points = [(xa, 0.0, za), (xb, 0.0, zb), (xb, height_m, zb), (xa, height_m, za)]
        key = distance((xa + xb) / 2, (za + zb) / 2)
        scene.faces.append(Face(points, Label.BUILDING, Material.FACADE, texture.wall, key, params=(float(row), 0.0)))


def fence(
    scene: Scene, s: float, z0: float, z1: float, low_m: float, high_m: float, bars_per_m: float, colour: Colour
) -> None:
    """A fence along the street, from `low_m` to `high_m` above the ground (a guard rail starts above it)."""
    z = z0
    while z < z1:
        end = min(z + max(3.0, 0.12 * z), z1)
        x0, x1 = scene.street.centre(z) + s, scene.street.centre(end) + s
        key = distance((x0 + x1) / 2, (z + end) / 2)
        points = [(x0, low_m, z), (x1, low_m, end), (x1, high_m, end), (x0, high_m, z)]
        if low_m > 0:
            leg = upright(x0 - 0.09, x0 + 0.09, 0.0, low_m + 0.05, z)
            scene.faces.append(Face(leg, Label.FENCE, Material.PLAIN, shade(colour, 0.7), key + 0.01))
        scene.faces.append(Face(points, Label.FENCE, Material.FENCE, colour, key, params=(bars_per_m, 0.0)))
        scene.shadows.append(list(points))
        z = end


def hedge(scene: Scene, s: float, outward: float, z0: float, z1: float, height_m: float, species: float) -> None:
    """A clipped hedge along the street."""
    z = z0
    while z < z1:
        end = min(z + max(3.0, 0.12 * z), z1)
        x0, x1 = scene.street.centre(z) + s, scene.street.centre(end) + s
        key = distance((x0 + x1) / 2, (z + end) / 2)
        side = [(x0, 0.0, z), (x1, 0.0, end), (x1, height_m, end), (x0, height_m, z)]
        top = [(x0, height_m, z), (x1, height_m, end), (x1 + outward, height_m, end), (x0 + outward, height_m, z)]
        for points, tone in ((top, 0.5), (side, -0.2)):
            face = Face(points, Label.VEGETATION, Material.FOLIAGE, (0.0, 0.0, 0.0), key, params=(species, tone))
            scene.faces.append(face)
        scene.shadows.append([*side, *top])
        z = end
