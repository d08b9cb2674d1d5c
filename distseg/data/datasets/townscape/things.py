"""What stands along a street of `town`: trees, lamps, signs, traffic lights; each is added at a place in world metres.

Sizes are a little above life for thin things (poles, signs, lights): at 128x192 pixels a pole 0.3 m wide is 2 to 4
pixels wide within 15 m, enough to be learnt.
"""

import math

import numpy as np

from distseg.data.datasets.townscape.scene import Colour, Face, Label, Lamp, Material, Point, Scene
from distseg.data.datasets.townscape.shapes import (
    DARK,
    STEEL,
    ball,
    blob,
    distance,
    is_too_far,
    post,
    ring,
    shade,
    upright,
)


def foliage(
    scene: Scene, x: float, y: float, z: float, rx: float, ry: float, species: float, rng: np.random.Generator
) -> None:
    """A cluster of leaves: a dark body, and lighter clumps towards the top and the front."""
    key = distance(x, z)

    def clump(points: list[Point], tone: float) -> None:
        scene.faces.append(
            Face(points, Label.VEGETATION, Material.FOLIAGE, (0.0, 0.0, 0.0), key, params=(species, tone))
        )

    clump(blob(x, y, z, rx, ry, rng), -0.55)
    num_clumps = 9 if key < 30 else 5 if key < 70 else 2
    for dx, dy, size, tone in rng.random((num_clumps, 4)).tolist():
        side, up = 1.3 * (dx - 0.5), 1.25 * (dy - 0.45)
        reach = 0.34 + 0.2 * size
        clump(blob(x + side * rx, y + up * ry, z, reach * rx, reach * ry, rng), 0.9 * up + 0.5 * (tone - 0.5))
    scene.shadows.append(ball(x, y, z, 0.9 * rx, 0.9 * ry))


def tree(scene: Scene, x: float, z: float, height_m: float, rng: np.random.Generator) -> None:
    trunk = 0.35 + 0.012 * height_m * rng.random()
    radius = height_m * rng.uniform(0.26, 0.36)
    bark: Colour = (0.30 + 0.08 * rng.random(), 0.24, 0.18)
    post(scene, x, z, height_m * 0.55, trunk, bark, Label.VEGETATION)
    foliage(scene, x, height_m - radius, z - 0.05, radius * rng.uniform(0.85, 1.1), radius, rng.random(), rng)


def bush(scene: Scene, x: float, z: float, size_m: float, rng: np.random.Generator) -> None:
    foliage(scene, x, 0.35 * size_m, z, size_m * rng.uniform(0.7, 1.2), 0.55 * size_m, rng.random(), rng)


def street_lamp(scene: Scene, x: float, z: float, towards: float, height_m: float = 8.0) -> None:
    """A lamp post whose arm reaches over the road; `towards` is -1 or 1."""
    if is_too_far(x, z):
        return
    key = distance(x, z)
    post(scene, x, z, height_m, 0.42, STEEL, Label.POLE)
    tip = x + 1.9 * towards
    arm = [(x, height_m - 0.1, z), (x, height_m + 0.12, z), (tip, height_m + 0.32, z), (tip, height_m + 0.12, z)]
    scene.faces.append(Face(arm, Label.POLE, Material.PLAIN, shade(STEEL, 0.8), key))
    x0, x1 = sorted((tip, tip + 0.9 * towards))
    head = upright(x0, x1, height_m + 0.02, height_m + 0.34, z)
    scene.faces.append(Face(head, Label.POLE, Material.LAMP, (0.75, 0.75, 0.72), key))
    scene.lamps.append(Lamp(tip + 0.4 * towards, height_m, z))


def traffic_light(scene: Scene, x: float, z: float, arm_m: float, rng: np.random.Generator) -> None:
    """A mast with a light at eye height and, if `arm_m` is not 0, another one over the road."""
    if is_too_far(x, z):
        return
    key = distance(x, z)
    height = 5.6 if arm_m else 3.4
    post(scene, x, z, height, 0.42, (0.28, 0.32, 0.30), Label.POLE)
    housing: Colour = (0.78, 0.58, 0.10) if rng.random() < 0.5 else (0.12, 0.14, 0.13)
    lit = int(rng.integers(3))
    signal_head(scene, x, 3.25 if arm_m else height, z - 0.1, lit, housing)
    if arm_m:
        low, high = height - 0.12, height + 0.12
        x0, x1 = sorted((x, x + arm_m))
        scene.faces.append(Face(upright(x0, x1, low, high, z), Label.POLE, Material.PLAIN, (0.3, 0.33, 0.32), key))
        signal_head(scene, x + arm_m, height - 0.25, z - 0.1, lit, housing)


def signal_head(scene: Scene, x: float, y: float, z: float, lit: int, housing: Colour) -> None:
    """Three lamps, `lit` of which shines (0 red, 1 amber, 2 green), in a housing 2 m high around y."""
    key = distance(x, z)
    plate, box = upright(x - 0.5, x + 0.5, y - 1.1, y + 1.1, z), upright(x - 0.36, x + 0.36, y - 0.96, y + 0.96, z)
    scene.faces.append(Face(plate, Label.TRAFFIC_LIGHT, Material.PLAIN, (0.06, 0.06, 0.06), key))
    scene.faces.append(Face(box, Label.TRAFFIC_LIGHT, Material.PLAIN, housing, key))
    colours: tuple[Colour, ...] = ((1.0, 0.10, 0.06), (1.0, 0.62, 0.08), (0.10, 1.0, 0.45))
    for i, colour in enumerate(colours):
        material = Material.SIGNAL if i == lit else Material.PLAIN
        tint = colour if i == lit else shade(colour, 0.22)
        scene.faces.append(Face(ring(x, y + 0.6 * (1 - i), z, 0.26, 8), Label.TRAFFIC_LIGHT, material, tint, key))


def road_sign(scene: Scene, x: float, z: float, kind: int, size_m: float) -> None:
    """A sign on a post: 0 prohibition, 1 warning, 2 stop, 3 blue information, 4 green name plate, 5 yellow diamond."""
    if is_too_far(x, z):
        return
    key, y = distance(x, z), 2.2 + size_m / 2
    post(scene, x, z, y, 0.30, STEEL, Label.POLE)
    red, white, blue, green = (0.75, 0.06, 0.08), (0.93, 0.93, 0.92), (0.08, 0.25, 0.62), (0.05, 0.38, 0.22)
    r = size_m / 2

    def plate(points: list[Point], colour: Colour) -> None:
        scene.faces.append(Face(points, Label.SIGN, Material.PLAIN, colour, key))

    front = z - 0.05
    if kind == 0:
        plate(ring(x, y, front, r, 14), red)
        plate(ring(x, y, front, 0.72 * r, 14), white)
        plate(upright(x - 0.14 * r, x + 0.14 * r, y - 0.4 * r, y + 0.4 * r, front), DARK)
    elif kind == 1:
        plate(ring(x, y, front, 1.2 * r, 3), red)
        plate(ring(x, y - 0.02, front, 0.75 * r, 3), white)
    elif kind == 2:
        plate(ring(x, y, front, 1.05 * r, 8, turn=math.pi / 8), red)
        plate(upright(x - 0.7 * r, x + 0.7 * r, y - 0.2 * r, y + 0.2 * r, front), white)
    elif kind == 3:
        plate(upright(x - r, x + r, y - r, y + r, front), blue)
        plate(upright(x - 0.45 * r, x + 0.45 * r, y - 0.6 * r, y + 0.55 * r, front), white)
    elif kind == 4:
        panel(scene, x, y, front, 1.9 * r, 0.8 * r, green)
    else:
        plate(ring(x, y, front, 1.25 * r, 4), (0.90, 0.66, 0.05))
        plate(upright(x - 0.12 * r, x + 0.12 * r, y - 0.5 * r, y + 0.5 * r, front), DARK)


def panel(scene: Scene, x: float, y: float, z: float, half_width: float, half_height: float, colour: Colour) -> None:
    """A direction sign: a coloured panel with a border and lines of text."""
    key = distance(x, z)

    def plate(left: float, right: float, low: float, high: float, tint: Colour) -> None:
        points = upright(
            x + left * half_width, x + right * half_width, y + low * half_height, y + high * half_height, z
        )
        scene.faces.append(Face(points, Label.SIGN, Material.PLAIN, tint, key))

    white = (0.92, 0.92, 0.92)
    plate(-1.0, 1.0, -1.0, 1.0, white)
    plate(-0.94, 0.94, -0.88, 0.88, colour)
    plate(-0.75, 0.45, 0.2, 0.5, white)
    plate(-0.75, 0.1, -0.5, -0.2, white)
    plate(0.6, 0.75, -0.5, 0.5, white)


def gantry(scene: Scene, left: float, right: float, z: float, rng: np.random.Generator) -> None:
    """A bridge over the carriageway that carries direction signs and lane signals."""
    key = distance(0.0, z)
    for x in (left, right):
        post(scene, x, z, 6.6, 0.45, STEEL, Label.POLE)
    scene.faces.append(Face(upright(left, right, 6.2, 6.6, z), Label.POLE, Material.PLAIN, shade(STEEL, 0.85), key))
    colour: Colour = (0.06, 0.26, 0.60) if rng.random() < 0.5 else (0.05, 0.38, 0.22)
    num_lanes = max(2, round((right - left) / 5.0))
    for i in range(num_lanes):
        x = left + (right - left) * (i + 0.5) / num_lanes
        if rng.random() < 0.6:
            panel(scene, x, 6.5, z - 0.2, 1.7, 1.15, colour)
        else:
            signal_head(scene, x, 6.1, z - 0.2, int(rng.choice([0, 2])), (0.12, 0.14, 0.13))
