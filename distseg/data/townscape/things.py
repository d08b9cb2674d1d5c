"""The things that stand in a scene of `town`; each function adds one of them at a place given in world metres.

Sizes are a little above life for thin things (poles, signs, lights): at 128x192 pixels a pole 0.3 m wide is 2 to 4
pixels wide within 15 m, enough to be learnt. Labels follow annotation practice: a wheel or a fence is labelled as a
whole, with what is seen through it; a rider is a pedestrian, his bicycle a bicycle.
"""

import math
from collections.abc import Sequence

import numpy as np

from distseg.data.townscape.scene import Colour, Face, Facade, Label, Lamp, Material, Point, Scene

DARK: Colour = (0.10, 0.10, 0.11)
STEEL: Colour = (0.52, 0.54, 0.56)
CONCRETE: Colour = (0.62, 0.60, 0.57)
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
WALLS: tuple[Colour, ...] = (
    (0.55, 0.30, 0.23), (0.64, 0.42, 0.32), (0.45, 0.24, 0.20), (0.72, 0.66, 0.55), (0.62, 0.60, 0.56),
    (0.78, 0.72, 0.62), (0.50, 0.47, 0.44), (0.68, 0.55, 0.42), (0.58, 0.60, 0.64), (0.40, 0.36, 0.34),
)  # fmt: skip
AWNINGS: tuple[Colour, ...] = (
    (0.60, 0.12, 0.12), (0.12, 0.32, 0.22), (0.14, 0.20, 0.45), (0.80, 0.62, 0.20), (0.30, 0.30, 0.32),
)  # fmt: skip

# Car bodies seen from the side: (along the car, height) in metres from the front bumper over the roof to the rear one.
# Then the profile's points where a pane begins, and the side window's outline.
Profile = tuple[tuple[float, float], ...]
BODIES: dict[str, tuple[Profile, tuple[int, ...], Profile]] = {
    "sedan": (
        ((2.25, 0.30), (2.28, 0.78), (1.15, 0.98), (0.45, 1.46), (-1.0, 1.48), (-1.75, 1.05), (-2.25, 1.0), (-2.3, 0.3)),
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
    scene.shadows.append([(x - half, 0.0, z), (x + half, 0.0, z), (x - half, height_m, z), (x + half, height_m, z)])


def ring(x: float, y: float, z: float, radius_m: float, corners: int, turn: float = 0.0) -> list[Point]:
    """A regular polygon facing the camera."""
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [(x + radius_m * math.sin(a), y + radius_m * math.cos(a), z) for a in angles]


def ball(x: float, y: float, z: float, rx: float, ry: float) -> list[Point]:
    """The corners of a solid that casts the shadow of an ellipsoid."""
    steps = [2 * math.pi * i / 8 for i in range(8)]
    belt = [(x + rx * math.cos(a), y, z + rx * math.sin(a)) for a in steps]
    rings = [(x + 0.7 * rx * math.cos(a), y + side * 0.7 * ry, z + 0.7 * rx * math.sin(a)) for side in (-1, 1) for a in steps]
    return [*belt, *rings, (x, y - ry, z), (x, y + ry, z)]


def blob(x: float, y: float, z: float, rx: float, ry: float, rng: np.random.Generator) -> list[Point]:
    """An irregular round outline."""
    corners = 13
    reach = 0.82 + 0.36 * rng.random(corners)
    turn = 2 * math.pi / corners
    return [
        (x + rx * r * math.cos(turn * i), max(y + ry * r * math.sin(turn * i), 0.02), z)
        for i, r in enumerate(reach.tolist())
    ]


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
    key = distance(x, z)
    post(scene, x, z, height_m, 0.30, STEEL, Label.POLE)
    tip = x + 1.9 * towards
    arm = [(x, height_m - 0.1, z), (x, height_m + 0.12, z), (tip, height_m + 0.32, z), (tip, height_m + 0.12, z)]
    scene.faces.append(Face(arm, Label.POLE, Material.PLAIN, shade(STEEL, 0.8), key))
    x0, x1 = sorted((tip, tip + 0.9 * towards))
    head = upright(x0, x1, height_m + 0.02, height_m + 0.34, z)
    scene.faces.append(Face(head, Label.POLE, Material.LAMP, (0.75, 0.75, 0.72), key))
    scene.lamps.append(Lamp(tip + 0.4 * towards, height_m, z))


def traffic_light(scene: Scene, x: float, z: float, arm_m: float, rng: np.random.Generator) -> None:
    """A mast with a light at eye height and, if `arm_m` is not 0, another one over the road."""
    key = distance(x, z)
    height = 5.6 if arm_m else 3.4
    post(scene, x, z, height, 0.32, (0.28, 0.32, 0.30), Label.POLE)
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
    key, y = distance(x, z), 2.2 + size_m / 2
    post(scene, x, z, y, 0.20, STEEL, Label.POLE)
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
        points = upright(x + left * half_width, x + right * half_width, y + low * half_height, y + high * half_height, z)
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


def pedestrian(scene: Scene, x: float, z: float, rng: np.random.Generator) -> None:
    """A walker, seen from the front or the side."""
    height, stride = rng.uniform(1.55, 1.92), rng.uniform(0.04, 0.24)
    coat, trousers = (CLOTHES[i] for i in rng.choice(len(CLOTHES), 2, replace=False))
    hip, neck = 0.48 * height, 0.84 * height
    figure(scene, x, z, hip, neck, height, coat, rng)
    lower = shade(trousers, 0.8)
    for side in (-1, 1):
        foot = x + side * (stride + 0.06)
        leg = [(x + side * 0.2, hip + 0.03, z), (x - side * 0.02, hip + 0.03, z), (foot - 0.10, 0.0, z), (foot + 0.10, 0.0, z)]
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
        arm = [(x + side * broad, neck - 0.08, z), (x + side * 0.14, neck - 0.12, z), (hand - 0.06, hip, z), (hand + 0.06, hip, z)]
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
    add([(-0.6, 0.33), (-0.2, 0.88), (-0.04, 0.88), (-0.08, 0.40), (0.42, 0.80), (0.50, 0.92), (-0.18, 0.92), (-0.5, 0.42)], paint)
    add([(0.36, 0.95), (0.46, 0.95), (0.62, 0.37), (0.52, 0.37)], shade(paint, 0.7))
    add([(-0.32, 0.90), (0.02, 0.90), (0.02, 1.0), (-0.32, 1.0)], DARK)
    add([(0.28, 1.0), (0.56, 1.02), (0.56, 1.1), (0.28, 1.1)], DARK)
    if abs(sin) > 0.8:  # seen from behind, luggage makes it wide enough to be seen
        bags = upright(x - 0.28, x + 0.28, 0.42, 0.85, z - 0.6)
        scene.faces.append(Face(bags, Label.BICYCLE, Material.PLAIN, paint, key))
    if ridden:
        rider(scene, x, z, rng)
    scene.contacts.append([(x + side * 0.9 * cos + d, 0.0, z + side * 0.9 * sin) for side in (-1, 1) for d in (-0.15, 0.15)])
    scene.shadows.append([(x + a * cos, y, z + a * sin) for a in (-0.9, 0.9) for y in (0.0, 0.8)])


def rider(scene: Scene, x: float, z: float, rng: np.random.Generator) -> None:
    coat, trousers = (CLOTHES[i] for i in rng.choice(len(CLOTHES), 2, replace=False))
    front = z - 0.02
    for side in (-1, 1):
        leg = [(x + side * 0.20, 0.98, front), (x, 0.98, front), (x + side * 0.10, 0.42, front), (x + side * 0.24, 0.42, front)]
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
    ends = (profile[0][0], profile[-1][0])
    scene.contacts.append([body.world(a, 0.0, side * 1.08 * half) for side in (-1, 1) for a in ends])


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
