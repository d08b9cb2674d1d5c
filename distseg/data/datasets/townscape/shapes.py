"""The shapes that things in a scene of `town` are made of: polygons that face the camera, and shadow casters."""

import functools
import math

import numpy as np

from distseg.data.datasets.townscape.scene import Colour, Face, Label, Material, Point, Scene

DARK: Colour = (0.10, 0.10, 0.11)
STEEL: Colour = (0.52, 0.54, 0.56)
CONCRETE: Colour = (0.62, 0.60, 0.57)

BLOB_CORNERS = 13
SPHERE: tuple[Point, ...] = (
    (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1),
    (0.7, 0.7, 0), (-0.7, 0.7, 0), (0, 0.7, 0.7), (0, 0.7, -0.7), (0.7, -0.7, 0), (-0.7, -0.7, 0), (0, -0.7, 0.7),
    (0, -0.7, -0.7), (0.7, 0, 0.7), (-0.7, 0, 0.7), (0.7, 0, -0.7), (-0.7, 0, -0.7),
)  # fmt: skip


SMALL_END_M = 24.0
"""What is slim or small (posts, signs, lights, people, bicycles) stands no farther away than this: in 128 rows
it would be a pixel or two, which no network at output stride 8 can learn and no eye can check."""


def is_too_far(x: float, z: float) -> bool:
    return distance(x, z) > SMALL_END_M


def distance(x: float, z: float) -> float:
    return math.hypot(x, z)


def shade(colour: Colour, factor: float) -> Colour:
    return (min(colour[0] * factor, 1.0), min(colour[1] * factor, 1.0), min(colour[2] * factor, 1.0))


def upright(x0: float, x1: float, y0: float, y1: float, z: float) -> list[Point]:
    """A rectangle facing the camera."""
    return [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]


def post(scene: Scene, x: float, z: float, height_m: float, width_m: float, colour: Colour, label: Label) -> None:
    """A round post: two halves, as the light falls off around it."""
    key, half = distance(x, z), width_m / 2
    left, right = shade(colour, 1.15), shade(colour, 0.75)
    scene.faces.append(Face(upright(x - half, x, 0.0, height_m, z), label, Material.PLAIN, left, key))
    scene.faces.append(Face(upright(x, x + half, 0.0, height_m, z), label, Material.PLAIN, right, key))
    scene.shadows.append(upright(x - half, x + half, 0.0, height_m, z))


@functools.cache
def circle(corners: int, turn: float = 0.0) -> tuple[tuple[float, float], ...]:
    """The corners of a regular polygon of radius 1, clockwise from its top."""
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return tuple((math.sin(angle), math.cos(angle)) for angle in angles)


def ring(x: float, y: float, z: float, radius_m: float, corners: int, turn: float = 0.0) -> list[Point]:
    """A regular polygon facing the camera."""
    return [(x + radius_m * a, y + radius_m * b, z) for a, b in circle(corners, turn)]


def ball(x: float, y: float, z: float, rx: float, ry: float) -> list[Point]:
    """The corners of a solid that casts the shadow of an ellipsoid."""
    return [(x + rx * a, y + ry * b, z + rx * c) for a, b, c in SPHERE]


def blob(x: float, y: float, z: float, rx: float, ry: float, rng: np.random.Generator) -> list[Point]:
    """An irregular round outline."""
    outline = circle(BLOB_CORNERS)
    reach = (0.82 + 0.36 * rng.random(BLOB_CORNERS)).tolist()
    return [(x + rx * r * a, max(y + ry * r * b, 0.02), z) for r, (a, b) in zip(reach, outline, strict=True)]
