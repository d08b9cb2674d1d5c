"""The New York avenue of `town`: dense, with many small things."""

import math

import numpy as np

from distseg.data.datasets.townscape import buildings, things, traffic
from distseg.data.datasets.townscape.scene import (
    END_M,
    NEAR_M,
    SKYLINE_M,
    Ground,
    Line,
    Scene,
    Street,
)
from distseg.data.datasets.townscape.shapes import SMALL_END_M

PARKING_M = 2.4
WALK_M = 4.4  # pavement of the avenue
PARKED_KINDS = ("sedan", "hatchback", "suv", "sedan", "hatchback", "suv", "sedan", "van")


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
    traffic.drive(scene, 0.55, rng)
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
        buildings.block(scene, x, 1.0, z, z + 20.0, width, height, rng)
        x += width * 0.9


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
            buildings.block(
                scene, line + outward * setback, outward, z, z + width, 20.0, height, rng, rng.random() < 0.55
            )
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
    buildings.block(scene, line + outward * 14.0, outward, z0, z1, 12.0, rng.uniform(10.0, 20.0), rng)


def _kerbside(scene: Scene, outward: float, rng: np.random.Generator) -> None:
    """Trees, lamps, signs and bushes between road and pavement, and the cars parked along them."""
    street = scene.street
    edge = street.road_to if outward > 0 else street.road_from
    z, slot = NEAR_M + rng.uniform(0.0, 5.0), int(rng.integers(4))
    while z < 110:
        if not traffic.in_crossing(street, z, margin_m=1.5):
            s = edge + outward * rng.uniform(0.7, 1.0)
            _kerbside_thing(scene, street.centre(z) + s, z, outward, slot % 4 == 0, rng)
        z, slot = z + rng.uniform(4.0, 6.5), slot + 1
    z = NEAR_M + rng.uniform(0.0, 6.0)
    while z < 90:
        if rng.random() < 0.55 and not traffic.in_crossing(street, z, margin_m=7.0):
            s = edge - outward * (PARKING_M / 2)
            yaw = math.atan(street.slope(z)) + (0.0 if outward > 0 or not street.lanes_against else math.pi)
            kind = PARKED_KINDS[int(rng.integers(len(PARKED_KINDS)))]
            traffic.car(scene, street.centre(z) + s, z, yaw, kind, traffic.paint(scene, rng))
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


def _people(scene: Scene, rng: np.random.Generator) -> None:
    """Walkers on both pavements, cyclists beside the parked cars, and bicycles left at the kerb."""
    street = scene.street
    for outward, edge in ((-1.0, street.road_from), (1.0, street.road_to)):
        for z in rng.uniform(6.0, SMALL_END_M, int(rng.integers(4, 9))).tolist():
            if not traffic.in_crossing(street, z, margin_m=-1.0):
                s = edge + outward * rng.uniform(1.6, WALK_M - 1.0)
                traffic.pedestrian(scene, street.centre(z) + s, z, rng)
        for z in rng.uniform(6.5, 20.0, int(rng.integers(1, 4))).tolist():
            s = edge + outward * rng.uniform(1.2, 1.7)
            traffic.bicycle(scene, street.centre(z) + s, z, rng.uniform(-0.7, 0.7), False, rng)
        if rng.random() < 0.6:
            z, s = rng.uniform(6.5, 24.0), edge - outward * (PARKING_M + rng.uniform(0.4, 0.7))
            traffic.bicycle(scene, street.centre(z) + s, z, rng.uniform(0.9, 2.2), True, rng)
