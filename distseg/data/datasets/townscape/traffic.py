"""Who moves in a scene of `town`: pedestrians, cyclists and cars, each added at a place given in world metres.

Labels follow annotation practice: a wheel is labelled as a whole, with what is seen through it; a rider is a
pedestrian, his bicycle a bicycle.
"""

import math
from collections.abc import Sequence

import numpy as np

from distseg.data.datasets.townscape.scene import Colour, Face, Label, Material, Point, Scene, Street
from distseg.data.datasets.townscape.shapes import DARK, STEEL, ball, distance, is_too_far, ring, shade, upright

CAR_COLOURS: tuple[Colour, ...] = (
    (0.80, 0.81, 0.82), (0.12, 0.12, 0.14), (0.55, 0.57, 0.60), (0.62, 0.08, 0.08), (0.10, 0.20, 0.45),
    (0.85, 0.83, 0.78), (0.30, 0.33, 0.30), (0.25, 0.42, 0.58), (0.70, 0.42, 0.12), (0.09, 0.28, 0.22),
)  # fmt: skip
TAXI: Colour = (0.93, 0.70, 0.06)
CLOTHES: tuple[Colour, ...] = (
    (0.75, 0.15, 0.15), (0.15, 0.25, 0.55), (0.85, 0.80, 0.70), (0.12, 0.12, 0.15), (0.20, 0.45, 0.30),
    (0.90, 0.60, 0.15), (0.55, 0.25, 0.50), (0.45, 0.65, 0.80), (0.40, 0.30, 0.22), (0.92, 0.92, 0.94),
)  # fmt: skip
SKIN: tuple[Colour, ...] = ((0.87, 0.68, 0.55), (0.72, 0.52, 0.38), (0.45, 0.30, 0.21))

TRAFFIC_KINDS = ("sedan", "hatchback", "suv", "sedan", "hatchback", "suv", "sedan", "hatchback", "van", "truck")

# Car bodies seen from the side: (along the car, height) in metres from the front bumper over the roof to the rear one.
# Then the profile's points where a pane begins, and the side window's outline.
Profile = tuple[tuple[float, float], ...]
BODIES: dict[str, tuple[Profile, tuple[int, ...], Profile]] = {
    "sedan": (
        ((2.25, 0.3), (2.28, 0.78), (1.15, 0.98), (0.45, 1.46), (-1.0, 1.48), (-1.75, 1.05), (-2.25, 1.0), (-2.3, 0.3)),
        (2, 4),
        ((0.85, 1.02), (0.38, 1.38), (-0.95, 1.40), (-1.45, 1.06)),
    ),
    "hatchback": (
        ((1.95, 0.30), (2.0, 0.82), (1.15, 1.02), (0.55, 1.52), (-1.45, 1.55), (-1.9, 1.05), (-1.95, 0.3)),
        (2, 4),
        ((0.9, 1.06), (0.48, 1.44), (-1.35, 1.46), (-1.65, 1.08)),
    ),
    "suv": (
        ((2.3, 0.38), (2.32, 1.0), (1.2, 1.15), (0.7, 1.75), (-1.9, 1.8), (-2.25, 1.15), (-2.3, 0.38)),
        (2, 4),
        ((0.95, 1.2), (0.62, 1.66), (-1.85, 1.70), (-2.05, 1.22)),
    ),
    "van": (
        ((2.6, 0.35), (2.65, 1.05), (2.2, 1.25), (1.6, 2.25), (-2.6, 2.35), (-2.65, 0.35)),
        (2,),
        ((2.0, 1.3), (1.55, 2.05), (0.6, 2.08), (0.6, 1.3)),
    ),
    "truck": (
        ((3.6, 0.45), (3.6, 1.4), (3.45, 2.5), (2.1, 2.6), (2.0, 3.1), (-3.6, 3.1), (-3.6, 0.45)),
        (1,),
        ((3.4, 1.5), (3.3, 2.3), (2.4, 2.35), (2.4, 1.5)),
    ),
}


def pedestrian(scene: Scene, x: float, z: float, rng: np.random.Generator) -> None:
    """A walker, seen from the front or the side."""
    if is_too_far(x, z):
        return
    height, stride = rng.uniform(1.55, 1.92), rng.uniform(0.04, 0.24)
    coat, trousers = (CLOTHES[i] for i in rng.choice(len(CLOTHES), 2, replace=False))
    hip, neck = 0.48 * height, 0.84 * height
    figure(scene, x, z, hip, neck, height, coat, rng)
    lower = shade(trousers, 0.8)
    for side in (-1, 1):
        foot = x + side * (stride + 0.06)
        leg = [
            (x + side * 0.2, hip + 0.03, z),
            (x - side * 0.02, hip + 0.03, z),
            (foot - 0.10, 0.0, z),
            (foot + 0.10, 0.0, z),
        ]
        body_part(scene, leg, shade(lower, 0.85 if side > 0 else 1.1), x, z)
    scene.contacts.append([(x + dx, 0.0, z + dz) for dx, dz in ((-0.4, -0.2), (0.4, -0.2), (0.4, 0.3), (-0.4, 0.3))])
    scene.shadows.append(ball(x, height / 2, z, 0.32, height / 2))


def figure(
    scene: Scene, x: float, z: float, hip: float, neck: float, top: float, coat: Colour, rng: np.random.Generator
) -> None:
    """The upper half of a person."""
    mid, broad = (hip + neck) / 2, 0.27
    torso = [(x - 0.21, hip - 0.06, z), (x + 0.21, hip - 0.06, z), (x + broad, neck - 0.1, z), (x + 0.12, neck, z),
             (x - 0.12, neck, z), (x - broad, neck - 0.1, z)]  # fmt: skip
    for side in (-1, 1):
        hand = x + side * rng.uniform(0.28, 0.42)
        arm = [
            (x + side * broad, neck - 0.08, z),
            (x + side * 0.14, neck - 0.12, z),
            (hand - 0.06, hip, z),
            (hand + 0.06, hip, z),
        ]
        body_part(scene, arm, shade(coat, 0.8), x, z)
    body_part(scene, torso, coat, x, z)
    body_part(scene, [(x, hip - 0.06, z), (x + 0.21, hip - 0.06, z), (x + broad, neck - 0.1, z), (x + 0.04, mid, z)],
              shade(coat, 0.82), x, z)  # fmt: skip
    radius = (top - neck) * 0.56
    body_part(scene, ring(x, top - radius, z, radius, 9), SKIN[int(rng.integers(len(SKIN)))], x, z)
    hair = [p for p in ring(x, top - radius, z, radius * 1.08, 12) if p[1] > top - 1.15 * radius]
    body_part(scene, sorted(hair), shade((0.3, 0.22, 0.15), rng.uniform(0.3, 1.6)), x, z)


def body_part(scene: Scene, points: Sequence[Point], colour: Colour, x: float, z: float) -> None:
    scene.faces.append(Face(points, Label.PEDESTRIAN, Material.PLAIN, colour, distance(x, z)))


def bicycle(scene: Scene, x: float, z: float, yaw: float, ridden: bool, rng: np.random.Generator) -> None:
    """A bicycle in the upright plane that makes the angle `yaw` with the picture's, and its rider."""
    if is_too_far(x, z):
        return
    key, cos, sin = distance(x, z), math.cos(yaw), math.sin(yaw)
    paint = CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]

    def add(outline: Sequence[tuple[float, float]], colour: Colour) -> None:
        points = [(x + along * cos, y, z + along * sin) for along, y in outline]
        scene.faces.append(Face(points, Label.BICYCLE, Material.PLAIN, colour, key))

    def wheel(along: float, radius: float) -> list[tuple[float, float]]:
        return [(along + px, 0.37 + py) for px, py, _ in ring(0.0, 0.0, 0.0, radius, 14)]

    for hub in (-0.56, 0.56):
        add(wheel(hub, 0.40), (0.06, 0.06, 0.07))
        add(wheel(hub, 0.29), (0.36, 0.37, 0.38))
        add(wheel(hub, 0.07), (0.06, 0.06, 0.07))
    add(
        [
            (-0.6, 0.33),
            (-0.2, 0.88),
            (-0.04, 0.88),
            (-0.08, 0.40),
            (0.42, 0.80),
            (0.50, 0.92),
            (-0.18, 0.92),
            (-0.5, 0.42),
        ],
        paint,
    )
    add([(0.36, 0.95), (0.46, 0.95), (0.62, 0.37), (0.52, 0.37)], shade(paint, 0.7))
    add([(-0.32, 0.90), (0.02, 0.90), (0.02, 1.0), (-0.32, 1.0)], DARK)
    add([(0.28, 1.0), (0.56, 1.02), (0.56, 1.1), (0.28, 1.1)], DARK)
    if abs(sin) > 0.8:  # seen from behind, luggage makes it wide enough to be seen
        bags = upright(x - 0.28, x + 0.28, 0.42, 0.85, z - 0.6)
        scene.faces.append(Face(bags, Label.BICYCLE, Material.PLAIN, paint, key))
    if ridden:
        rider(scene, x, z, rng)
    scene.contacts.append(
        [(x + a * cos + d, 0.0, z + a * sin) for a, d in ((-0.9, -0.15), (-0.9, 0.15), (0.9, 0.15), (0.9, -0.15))]
    )
    scene.shadows.append([(x + a * cos, y, z + a * sin) for a, y in ((-0.9, 0.0), (0.9, 0.0), (0.9, 0.8), (-0.9, 0.8))])


def rider(scene: Scene, x: float, z: float, rng: np.random.Generator) -> None:
    coat, trousers = (CLOTHES[i] for i in rng.choice(len(CLOTHES), 2, replace=False))
    front = z - 0.02
    for side in (-1, 1):
        leg = [
            (x + side * 0.20, 0.98, front),
            (x, 0.98, front),
            (x + side * 0.10, 0.42, front),
            (x + side * 0.24, 0.42, front),
        ]
        scene.faces.append(Face(leg, Label.PEDESTRIAN, Material.PLAIN, shade(trousers, 0.8), distance(x, z)))
    figure(scene, x, front, 0.95, 1.55, 1.86, coat, rng)
    scene.shadows.append(ball(x, 1.2, z, 0.3, 0.6))


class Body:
    """A car's own axes: (along, up, across) from its middle on the ground to the world."""

    def __init__(self, x: float, z: float, yaw: float, camera_height_m: float) -> None:
        self.x, self.z, self.cos, self.sin, self.eye_y = x, z, math.cos(yaw), math.sin(yaw), camera_height_m

    def world(self, along: float, y: float, across: float) -> Point:
        return (
            self.x + across * self.cos + along * self.sin,
            y,
            self.z + along * self.cos - across * self.sin,
        )

    def shows(self, points: Sequence[Point]) -> bool:
        """Whether the outer side of a body panel looks at the camera."""
        (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = points[:3]
        ux, uy, uz, vx, vy, vz = x1 - x0, y1 - y0, z1 - z0, x2 - x0, y2 - y0, z2 - z0
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        outward = nx * (x0 - self.x) + ny * (y0 - 0.8) + nz * (z0 - self.z)
        to_camera = -nx * x0 + ny * (self.eye_y - y0) - nz * z0
        return outward * to_camera > 0


def car(scene: Scene, x: float, z: float, yaw: float, kind: str, paint: Colour) -> None:
    """A car whose front looks along `yaw` (0: away from the camera, pi: towards it)."""
    profile, glass, window = BODIES[kind]
    half = {"truck": 1.2, "van": 1.0}.get(kind, 0.92)
    body, key = Body(x, z, yaw, scene.camera_height_m), distance(x, z)

    def add(points: Sequence[Point], material: Material, colour: Colour) -> None:
        scene.faces.append(Face(points, Label.CAR, material, colour, key))

    outlines = [[body.world(a, y, side * half) for a, y in profile] for side in (-1.0, 1.0)]
    panels = [(Material.GLASS if i in glass else Material.PLAIN, [p, q, r, s]) for i, (p, q, r, s) in enumerate(
        zip(outlines[0], outlines[0][1:], outlines[1][1:], outlines[1], strict=False))]  # fmt: skip
    for material, panel_points in sorted(panels, key=lambda panel: -sum(math.hypot(p[0], p[2]) for p in panel[1])):
        if body.shows(panel_points):
            add(panel_points, material, DARK if material is Material.GLASS else paint)
    for side, outline in zip((-1.0, 1.0), outlines, strict=True):
        if body.shows(outline):
            add(outline, Material.PLAIN, shade(paint, 0.9))
            add([body.world(a, y, side * half) for a, y in window], Material.GLASS, DARK)
            for hub in (profile[0][0] - 0.85, profile[-1][0] + 0.8):
                for radius, tint in ((0.40, DARK), (0.22, STEEL)):
                    rim = ring(0.0, 0.0, 0.0, radius, 12)
                    add([body.world(hub + a, 0.38 + y, side * half) for a, y, _ in rim], Material.PLAIN, tint)
    car_end(scene, body, profile[0], profile[1], half, Material.HEADLIGHT, key)
    car_end(scene, body, profile[-1], profile[-2], half, Material.TAILLIGHT, key)
    scene.shadows.append(outlines[0] + outlines[1])
    wide, front, rear = 1.08 * half, profile[0][0], profile[-1][0]
    floor = ((front, -wide), (front, wide), (rear, wide), (rear, -wide))
    scene.contacts.append([body.world(along, 0.0, across) for along, across in floor])


def car_end(
    scene: Scene,
    body: Body,
    low: tuple[float, float],
    high: tuple[float, float],
    half: float,
    lights: Material,
    key: float,
) -> None:
    """Bumper, plate and the two lights on the panel between the profile's points `low` and `high`."""

    def patch(left: float, right: float, bottom: float, top: float) -> list[Point]:
        def at(across: float, up: float) -> Point:
            along = low[0] + up * (high[0] - low[0])
            return body.world(along * 1.004, low[1] + up * (high[1] - low[1]), across * half)

        return [at(left, bottom), at(right, bottom), at(right, top), at(left, top)]

    if not body.shows(patch(-1.0, 1.0, 0.0, 1.0)):
        return
    top = min(0.95, 0.6 / (high[1] - low[1]))
    tint: Colour = (0.95, 0.95, 0.88) if lights is Material.HEADLIGHT else (0.62, 0.05, 0.05)
    scene.faces.append(Face(patch(-1.0, 1.0, 0.0, 0.32 * top), Label.CAR, Material.PLAIN, DARK, key))
    scene.faces.append(Face(patch(-0.3, 0.3, 0.40 * top, 0.62 * top), Label.CAR, Material.PLAIN, (0.8, 0.8, 0.76), key))
    for left, right in ((-0.94, -0.58), (0.58, 0.94)):
        scene.faces.append(Face(patch(left, right, 0.55 * top, top), Label.CAR, lights, tint, key))


def drive(scene: Scene, density: float, rng: np.random.Generator) -> None:
    """Cars that drive: away from the camera in its own lanes, towards it in the others."""
    street = scene.street
    for lanes, turn in ((street.lanes_ahead, 0.0), (street.lanes_against, math.pi)):
        for s in lanes:
            z = (12.0 if abs(s) < 1.8 else 8.0) + rng.exponential(7.0 / density)
            while z < 110:
                kind = TRAFFIC_KINDS[int(rng.integers(len(TRAFFIC_KINDS) if z > 18 else 8))]
                if not in_crossing(street, z, margin_m=5.5):
                    x = street.centre(z) + s + rng.uniform(-0.3, 0.3)
                    car(scene, x, z, turn + math.atan(street.slope(z)), kind, paint(scene, rng))
                z += 8.0 + rng.exponential(9.0 / density)


def paint(scene: Scene, rng: np.random.Generator) -> Colour:
    if scene.site == "new-york" and rng.random() < 0.18:
        return TAXI
    return CAR_COLOURS[int(rng.integers(len(CAR_COLOURS)))]


def in_crossing(street: Street, z: float, margin_m: float) -> bool:
    if street.crossing:
        return street.crossing[0] - margin_m < z < street.crossing[1] + margin_m
    return any(start - margin_m < z < start + 3.0 + margin_m for start in street.zebras)
