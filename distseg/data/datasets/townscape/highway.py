"""The highway of `town`: open, with few things beside it."""

import math

import numpy as np

from distseg.data.datasets.townscape import buildings, things, traffic
from distseg.data.datasets.townscape.scene import (
    END_M,
    SKYLINE_M,
    Face,
    Ground,
    Label,
    Line,
    Material,
    Scene,
    Street,
)
from distseg.data.datasets.townscape.shapes import SMALL_END_M, post


def highway(rng: np.random.Generator) -> Scene:
    scene = Scene(
        site="highway",
        street=_carriageways(rng),
        camera_height_m=rng.uniform(1.6, 2.2),
        horizon=rng.uniform(0.42, 0.50),
    )
    _hills(scene, rng)
    _barriers(scene, rng)
    _countryside(scene, rng)
    _roadside(scene, rng)
    traffic.drive(scene, 0.4, rng)
    _path_users(scene, rng)
    return scene


def _carriageways(rng: np.random.Generator) -> Street:
    lane, shoulder, gap = 3.6, rng.uniform(1.4, 2.6), 0.6
    num_lanes, own = int(rng.integers(2, 4)), int(rng.integers(0, 2))
    left = -lane * (own + 0.5)
    right = left + lane * num_lanes
    median = rng.uniform(2.4, 5.0)
    other_right = left - gap - median - gap
    other_left = other_right - 2 * lane
    dashes = {"width_m": 0.26, "period_m": 9.0, "dash_m": 4.5}
    lines = [Line(s=left + lane * i, phase_m=rng.uniform(0, 9), **dashes) for i in range(1, num_lanes)]
    lines += [Line(s=other_left + lane, **dashes)]
    lines += [Line(s=s, width_m=0.26) for s in (right, left, other_right, other_left)]
    road_from, road_to = left - gap, right + shoulder
    path = road_to + rng.uniform(1.4, 2.2)
    left_path = other_left - shoulder - rng.uniform(1.4, 2.2)
    return Street(
        yaw=rng.uniform(-0.04, 0.04),
        curvature=rng.uniform(-1, 1) / 450,
        bounds=(
            left_path - 2.6, left_path, other_left - shoulder, other_right + gap, road_from, road_to, path, path + 3.0,
        ),
        kinds=(
            Ground.GRASS, Ground.SIDEWALK if rng.random() < 0.5 else Ground.GRASS, Ground.GRASS, Ground.ROAD,
            Ground.GRASS, Ground.ROAD, Ground.GRASS, Ground.SIDEWALK if rng.random() < 0.75 else Ground.GRASS,
            Ground.GRASS,
        ),
        lines=tuple(lines),
        road_from=road_from,
        road_to=road_to,
        lanes_ahead=tuple(left + lane * (i + 0.5) for i in range(num_lanes)),
        lanes_against=tuple(other_left + lane * (i + 0.5) for i in range(2)),
        zebras=(rng.uniform(11.0, 24.0),) if rng.random() < 0.25 else (),
        arrows=((0.0, rng.uniform(7.0, 11.0)),) if rng.random() < 0.3 else (),
    )  # fmt: skip


def _hills(scene: Scene, rng: np.random.Generator) -> None:
    for z, high in ((SKYLINE_M, 34.0), (0.7 * SKYLINE_M, 15.0)):
        xs = np.linspace(-2.0 * z, 2.0 * z, 41)
        phases = rng.uniform(0, 2 * math.pi, 4)
        ys = high * (0.62 + sum(0.3 / (k + 1) * np.sin(xs * (k + 1) * 2.2 / z + p) for k, p in enumerate(phases)))
        ridge = [(x, max(y, 2.0), z) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)]
        points = [(-2.0 * z, 0.0, z), *ridge, (2.0 * z, 0.0, z)]
        params = (rng.random(), -0.4)
        scene.faces.append(Face(points, Label.VEGETATION, Material.FOLIAGE, (0.0, 0.0, 0.0), z, params=params))


def _barriers(scene: Scene, rng: np.random.Generator) -> None:
    """Guard rails beside both carriageways, or a wall; something in the median."""
    street = scene.street
    rail = (0.42, 0.86, 0.0, (0.66, 0.68, 0.70))
    outer = street.bounds[2]
    buildings.fence(scene, street.road_to + 0.5, 3.0, END_M, *rail)
    buildings.fence(scene, outer - 0.5, 6.0, END_M, *rail)
    middle = (street.bounds[3] + street.bounds[4]) / 2
    if rng.random() < 0.6:
        buildings.fence(scene, middle, 4.0, END_M, *rail)
    else:
        buildings.fence(scene, middle, 4.0, END_M, 0.0, 0.95, 0.0, (0.80, 0.79, 0.76))
    if rng.random() < 0.35:
        start = rng.uniform(5.0, 40.0)
        s = street.bounds[7] + 0.8
        buildings.fence(
            scene, s, start, start + rng.uniform(30.0, 80.0), 0.0, rng.uniform(2.2, 3.4), 0.5, (0.50, 0.46, 0.40)
        )


def _countryside(scene: Scene, rng: np.random.Generator) -> None:
    """Trees, bushes and a few houses beyond the road."""
    street = scene.street
    for outward, border in ((-1.0, street.bounds[0] - 3.0), (1.0, street.bounds[7] + 3.0)):
        for z in rng.uniform(8.0, END_M, int(rng.integers(8, 20))).tolist():
            s = border + outward * rng.exponential(9.0)
            things.tree(scene, street.centre(z) + s, z, rng.uniform(5.0, 11.0), rng)
        for z in rng.uniform(6.0, 70.0, int(rng.integers(4, 11))).tolist():
            s = border + outward * rng.exponential(3.0)
            things.bush(scene, street.centre(z) + s, z, rng.uniform(1.0, 2.4), rng)
        z = rng.uniform(22.0, 60.0)
        while z < END_M:
            width, height = rng.uniform(12.0, 28.0), rng.uniform(5.0, 14.0) if rng.random() < 0.75 else 30.0
            s = border + outward * rng.uniform(8.0, 22.0)
            buildings.block(scene, s, outward, z, z + width, rng.uniform(10.0, 22.0), height, rng)
            z += width + rng.uniform(8.0, 50.0)


def _roadside(scene: Scene, rng: np.random.Generator) -> None:
    """Lamps, signs, lights and a gantry."""
    street = scene.street
    right = street.road_to + 0.9
    if rng.random() < 0.7:
        for z in np.arange(rng.uniform(8.0, 24.0), END_M, 28.0).tolist():
            things.street_lamp(scene, street.centre(z) + right + 0.3, z, -1.0, 9.0)
    if rng.random() < 0.6:
        for z in np.arange(rng.uniform(8.0, 24.0), SMALL_END_M, 24.0).tolist():
            post(scene, street.centre(z) + street.bounds[2] - 1.2, z, 8.0, 0.32, (0.38, 0.30, 0.24), Label.POLE)
    for z in np.sort(rng.uniform(7.5, SMALL_END_M, int(rng.integers(2, 5)))).tolist():
        things.road_sign(
            scene, street.centre(z) + right + rng.uniform(0.0, 0.4), z, int(rng.integers(6)), rng.uniform(1.1, 1.5)
        )
    if rng.random() < 0.45:
        z = rng.uniform(18.0, 60.0)
        things.gantry(scene, street.centre(z) + street.road_from - 0.8, street.centre(z) + right, z, rng)
    for start in street.zebras or ((rng.uniform(9.0, 24.0),) if rng.random() < 0.35 else ()):
        for s in (right, street.road_from - 0.8):
            things.traffic_light(scene, street.centre(start) + s, start, 0.0, rng)


def _path_users(scene: Scene, rng: np.random.Generator) -> None:
    street = scene.street
    paths = [(street.bounds[i], street.bounds[i + 1]) for i in (0, 6) if street.kinds[i + 1] is Ground.SIDEWALK]
    for low, high in paths:
        for z in rng.uniform(8.5, 30.0, int(rng.integers(0, 4))).tolist():
            traffic.pedestrian(scene, street.centre(z) + rng.uniform(low + 0.5, high - 0.5), z, rng)
        for z in rng.uniform(8.5, 20.0, int(rng.integers(0, 3))).tolist():
            traffic.bicycle(
                scene, street.centre(z) + rng.uniform(low + 0.5, high - 0.5), z, rng.uniform(0.9, 2.2), True, rng
            )
    if rng.random() < 0.5:
        z = rng.uniform(8.0, 20.0)
        s = street.road_to - rng.uniform(0.5, 0.9)
        traffic.bicycle(scene, street.centre(z) + s, z, rng.uniform(0.9, 2.2), True, rng)
