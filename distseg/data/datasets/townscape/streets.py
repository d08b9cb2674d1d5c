"""The two streets of `town`: a highway (open, few things) and a New York avenue (dense, many small things)."""

import math

import numpy as np

from distseg.data.datasets.townscape import buildings, things, traffic
from distseg.data.datasets.townscape.scene import Colour, Facade, Face, Ground, Label, Line, Material, Scene, Street
from distseg.data.datasets.townscape.shapes import SMALL_END_M, post, shade

SITES = ("highway", "new-york")
NEAR_M = 4.5  # nothing stands closer to the camera
END_M = 150.0  # nor farther away, but for the skyline
SKYLINE_M = 420.0
TRAFFIC_KINDS = ("sedan", "hatchback", "suv", "sedan", "hatchback", "suv", "sedan", "hatchback", "van", "truck")
PARKING_M = 2.4
WALK_M = 4.4  # pavement of the avenue
PARKED_KINDS = ("sedan", "hatchback", "suv", "sedan", "hatchback", "suv", "sedan", "van")


def build_scene(site: str, rng: np.random.Generator) -> Scene:
    return highway(rng) if site == "highway" else new_york(rng)


# --- New York --------------------------------------------------------------------------------------------------------


def new_york(rng: np.random.Generator) -> Scene:
    scene = Scene(
        site="new-york",
        street=_avenue(rng),
        camera_height_m=rng.uniform(1.6, 2.1),
        horizon=rng.uniform(0.44, 0.52),
    )
    _skyline_of_towers(scene, rng)
    for outward in (-1.0, 1.0):
        _block_front(scene, outward, rng)
        _kerbside(scene, outward, rng)
    _signals_at_crossings(scene, rng)
    _traffic(scene, 0.55, rng)
    _people(scene, rng)
    return scene


def _avenue(rng: np.random.Generator) -> Street:
    lane, parking = 3.2, PARKING_M
    ahead, against = int(rng.integers(1, 3)), int(rng.integers(0, 3))
    right = 0.5 * lane + (ahead - 1) * lane * float(rng.integers(2))
    left = right - ahead * lane
    lines = [
        Line(s=left + lane * i, width_m=0.22, period_m=7.5, dash_m=3.2, phase_m=rng.uniform(0, 7))
        for i in range(1, ahead)
    ]
    if against:
        lines += [Line(s=left - d, width_m=0.18, yellow=1.0) for d in (-0.18, 0.18)]
        lines += [Line(s=left - lane * i, width_m=0.22, period_m=7.5, dash_m=3.2) for i in range(1, against)]
    road_from, road_to = left - against * lane - parking, right + parking
    lines += [Line(s=road_to - parking, width_m=0.2), Line(s=road_from + parking, width_m=0.2)]
    crossing_z = rng.uniform(11.0, 24.0)
    has_crossing = rng.random() < 0.7
    kerb = 0.3
    arrow_s = [left + lane * (i + 0.5) for i in range(ahead)]
    return Street(
        yaw=rng.uniform(-0.05, 0.05),
        curvature=rng.uniform(-1, 1) / 1500,
        bounds=(road_from - kerb, road_from, road_to, road_to + kerb),
        kinds=(Ground.SIDEWALK, Ground.KERB, Ground.ROAD, Ground.KERB, Ground.SIDEWALK),
        lines=tuple(lines),
        road_from=road_from,
        road_to=road_to,
        crossing=(crossing_z, crossing_z + rng.uniform(11.0, 15.0)) if has_crossing else None,
        zebras=(crossing_z - 4.0,),
        arrows=tuple((s, rng.uniform(6.5, 9.0)) for s in arrow_s) if rng.random() < 0.5 else (),
        lanes_ahead=tuple(arrow_s),
        lanes_against=tuple(left - lane * (i + 0.5) for i in range(against)),
    )


def _skyline_of_towers(scene: Scene, rng: np.random.Generator) -> None:
    x = -SKYLINE_M
    while x < SKYLINE_M:
        width = rng.uniform(25.0, 60.0)
        z, height = rng.uniform(0.6, 1.0) * SKYLINE_M, rng.uniform(15.0, 60.0)
        _block(scene, x, 1.0, z, z + 20.0, width, height, rng)
        x += width * 0.9


def _block(
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
    tower = height_m > 35 and rng.random() < 0.5
    wall = buildings.WALLS[int(rng.integers(len(buildings.WALLS)))]
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
        awning=buildings.AWNINGS[int(rng.integers(len(buildings.AWNINGS)))],
    )  # fmt: skip
    buildings.building(scene, s, outward, z0, z1, depth_m, height_m, texture)


def _block_front(scene: Scene, outward: float, rng: np.random.Generator) -> None:
    """The houses along one side, with a little park now and then, and railings before some of them."""
    street = scene.street
    line = (street.road_to if outward > 0 else street.road_from) + outward * WALK_M
    z = 2.0
    while z < END_M:
        width = rng.uniform(8.0, 19.0)
        if street.crossing and z < street.crossing[1] + WALK_M and z + width > street.crossing[0] - WALK_M:
            if street.crossing[0] - WALK_M - z > 5.0:
                width = street.crossing[0] - WALK_M - z
            else:
                z = street.crossing[1] + WALK_M
                continue
        if rng.random() < 0.13:
            _park(scene, line, outward, z, z + width, rng)
        else:
            setback = rng.uniform(0.0, 0.8)
            height = rng.uniform(10.0, 28.0) if rng.random() < 0.6 else rng.uniform(28.0, 70.0)
            _block(scene, line + outward * setback, outward, z, z + width, 20.0, height, rng, rng.random() < 0.55)
            if rng.random() < 0.42 and z < 70:
                colour = (0.10, 0.12, 0.11) if rng.random() < 0.6 else (0.30, 0.34, 0.30)
                buildings.fence(scene, line - outward * 0.7, z + 0.5, z + width - 0.5, 0.0, 1.25, 3.0, colour)
        z += width + (rng.uniform(0.5, 3.0) if rng.random() < 0.2 else 0.0)


def _park(scene: Scene, line: float, outward: float, z0: float, z1: float, rng: np.random.Generator) -> None:
    buildings.fence(scene, line, z0, z1, 0.0, 1.5, 3.0, (0.12, 0.16, 0.13))
    buildings.hedge(scene, line + outward * 1.2, outward * 2.0, z0, z1, rng.uniform(1.8, 2.6), rng.random())
    for _ in range(3):
        z, s = rng.uniform(z0, z1), line + outward * rng.uniform(3.5, 9.0)
        things.tree(scene, scene.street.centre(z) + s, z, rng.uniform(7.0, 11.0), rng)
    _block(scene, line + outward * 14.0, outward, z0, z1, 12.0, rng.uniform(10.0, 20.0), rng)


def _kerbside(scene: Scene, outward: float, rng: np.random.Generator) -> None:
    """Trees, lamps, signs and bushes between road and pavement, and the cars parked along them."""
    street = scene.street
    edge = street.road_to if outward > 0 else street.road_from
    z, slot = NEAR_M + rng.uniform(0.0, 5.0), int(rng.integers(4))
    while z < 110:
        if not _in_crossing(street, z, margin_m=1.5):
            s = edge + outward * rng.uniform(0.7, 1.0)
            _kerbside_thing(scene, street.centre(z) + s, z, outward, slot % 4 == 0, rng)
        z, slot = z + rng.uniform(4.0, 6.5), slot + 1
    z = NEAR_M + rng.uniform(0.0, 6.0)
    while z < 90:
        if rng.random() < 0.55 and not _in_crossing(street, z, margin_m=7.0):
            s = edge - outward * (PARKING_M / 2)
            yaw = math.atan(street.slope(z)) + (0.0 if outward > 0 or not street.lanes_against else math.pi)
            kind = PARKED_KINDS[int(rng.integers(len(PARKED_KINDS)))]
            traffic.car(scene, street.centre(z) + s, z, yaw, kind, _paint(scene, rng))
        z += rng.uniform(5.6, 8.0)


def _kerbside_thing(scene: Scene, x: float, z: float, outward: float, lamp: bool, rng: np.random.Generator) -> None:
    choice = rng.random()
    if lamp:
        things.street_lamp(scene, x, z, -outward)
    elif choice < 0.18:
        things.tree(scene, x + outward * 0.4, z, rng.uniform(5.0, 8.0), rng)
    elif choice < 0.84:
        things.road_sign(scene, x, z, int(rng.integers(6)), rng.uniform(0.95, 1.3))
    elif choice < 0.92:
        things.bush(scene, x + outward * 0.4, z, rng.uniform(0.9, 1.4), rng)


def _in_crossing(street: Street, z: float, margin_m: float) -> bool:
    if street.crossing:
        return street.crossing[0] - margin_m < z < street.crossing[1] + margin_m
    return any(start - margin_m < z < start + 3.0 + margin_m for start in street.zebras)


def _signals_at_crossings(scene: Scene, rng: np.random.Generator) -> None:
    """Lights before each zebra and behind the crossing, and people who cross."""
    street = scene.street
    reach = rng.uniform(2.6, 4.2)
    places = [(start - 0.6, 1.0) for start in street.zebras]
    places += [(street.crossing[1] + 1.0, side) for side in (-1.0, 1.0)] if street.crossing else []
    places += [] if street.crossing else [(start + 3.6, -1.0) for start in street.zebras]
    for z, side in places:
        s = (street.road_to if side > 0 else street.road_from) + side * 0.7
        things.traffic_light(scene, street.centre(z) + s, z, -side * reach if rng.random() < 0.7 else 0.0, rng)
    for start in street.zebras:
        for _ in range(int(rng.integers(0, 4))):
            z, s = start + rng.uniform(0.4, 2.6), rng.uniform(street.road_from, street.road_to)
            traffic.pedestrian(scene, street.centre(z) + s, z, rng)


def _traffic(scene: Scene, density: float, rng: np.random.Generator) -> None:
    """Cars that drive: away from the camera in its own lanes, towards it in the others."""
    street = scene.street
    for lanes, turn in ((street.lanes_ahead, 0.0), (street.lanes_against, math.pi)):
        for s in lanes:
            z = (12.0 if abs(s) < 1.8 else 8.0) + rng.exponential(7.0 / density)
            while z < 110:
                kind = TRAFFIC_KINDS[int(rng.integers(len(TRAFFIC_KINDS) if z > 18 else 8))]
                if not _in_crossing(street, z, margin_m=5.5):
                    x = street.centre(z) + s + rng.uniform(-0.3, 0.3)
                    traffic.car(scene, x, z, turn + math.atan(street.slope(z)), kind, _paint(scene, rng))
                z += 8.0 + rng.exponential(9.0 / density)


def _paint(scene: Scene, rng: np.random.Generator) -> Colour:
    if scene.site == "new-york" and rng.random() < 0.18:
        return traffic.TAXI
    return traffic.CAR_COLOURS[int(rng.integers(len(traffic.CAR_COLOURS)))]


def _people(scene: Scene, rng: np.random.Generator) -> None:
    """Walkers on both pavements, cyclists beside the parked cars, and bicycles left at the kerb."""
    street = scene.street
    for outward, edge in ((-1.0, street.road_from), (1.0, street.road_to)):
        for z in rng.uniform(6.0, SMALL_END_M, int(rng.integers(4, 9))).tolist():
            if not _in_crossing(street, z, margin_m=-1.0):
                s = edge + outward * rng.uniform(1.6, WALK_M - 1.0)
                traffic.pedestrian(scene, street.centre(z) + s, z, rng)
        for z in rng.uniform(6.5, 20.0, int(rng.integers(1, 4))).tolist():
            s = edge + outward * rng.uniform(1.2, 1.7)
            traffic.bicycle(scene, street.centre(z) + s, z, rng.uniform(-0.7, 0.7), False, rng)
        if rng.random() < 0.6:
            z, s = rng.uniform(6.5, 24.0), edge - outward * (PARKING_M + rng.uniform(0.4, 0.7))
            traffic.bicycle(scene, street.centre(z) + s, z, rng.uniform(0.9, 2.2), True, rng)


# --- Highway ---------------------------------------------------------------------------------------------------------


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
    _traffic(scene, 0.4, rng)
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
            _block(scene, s, outward, z, z + width, rng.uniform(10.0, 22.0), height, rng)
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
