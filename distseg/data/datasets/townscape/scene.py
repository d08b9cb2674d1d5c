"""What a scene of `town` consists of: a street, flat faces, shadow casters, lamps. Geometry and material, no weather.

`things`, `buildings` and `traffic` make what is seen, `highway` and `new_york` put it along a street, `weather` lists
the conditions, `raster`, `surfaces` and `render` make the picture.

World coordinates in metres: x right, y up, z ahead, the camera above the origin. Along the street, places are given as
(s, z) with s the distance to the right of the camera's line, which follows the bends: x = street.centre(z) + s.
Everything solid is a list of flat `Face`s, drawn far to near; long things (walls, fences) are cut into short faces so
that this order is right. Each thing also leaves a convex cloud of points, of which the renderer makes its shadow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

NEAR_M = 4.5  # nothing stands closer to the camera
END_M = 150.0  # nor farther away, but for the skyline
SKYLINE_M = 420.0
FAR_M = 1000.0  # the depth of the sky

Point = tuple[float, float, float]
Colour = tuple[float, float, float]  # display RGB, 0 … 1


class Label(IntEnum):
    """Train ids of `town.LABELS`."""

    SKY = 0
    BUILDING = 1
    ROAD = 2
    SIDEWALK = 3
    FENCE = 4
    VEGETATION = 5
    POLE = 6
    CAR = 7
    SIGN = 8
    PEDESTRIAN = 9
    BICYCLE = 10
    LANE_MARKING = 11
    TRAFFIC_LIGHT = 12


class Material(IntEnum):
    """How a face takes light. Those from LAMP on shine by themselves, the signal always and the others in the dark."""

    SKY = 0
    GROUND = 1
    PLAIN = 2
    FACADE = 3  # params: row of scene.facades
    FOLIAGE = 4  # params: species 0 … 1, shade -1 … 1
    FENCE = 5  # params: bars per metre
    GLASS = 6
    LAMP = 7
    HEADLIGHT = 8
    TAILLIGHT = 9
    SIGNAL = 10


class Ground(IntEnum):
    ROAD = 0
    SIDEWALK = 1
    KERB = 2
    GRASS = 3


class Face(NamedTuple):
    points: Sequence[Point]
    label: Label
    material: Material
    colour: Colour
    distance_m: float  # painter's key: of the thing the face belongs to
    params: tuple[float, float] = (0.0, 0.0)


class Facade(NamedTuple):
    """The texture of a wall; its origin and direction make the horizontal coordinate along it."""

    x0: float
    z0: float
    dx: float
    dz: float
    height_m: float
    floor_m: float
    bay_m: float
    window_width: float  # of a bay
    window_height: float  # of a floor
    shop: float  # 1: a shop front on the ground floor
    seed: float
    wall: Colour
    trim: Colour
    awning: Colour


class Line(NamedTuple):
    """A painted line along the street; period 0 is a solid one."""

    s: float
    width_m: float
    period_m: float = 0.0
    dash_m: float = 0.0
    phase_m: float = 0.0
    yellow: float = 0.0


class Lamp(NamedTuple):
    x: float
    y: float
    z: float


@dataclass(frozen=True, kw_only=True)
class Street:
    """The cross-section of the ground, and how the street bends."""

    yaw: float  # dx/dz at the camera
    curvature: float  # 1/m
    bounds: tuple[float, ...]  # s of the borders between kinds, ascending
    kinds: tuple[Ground, ...]  # one more than bounds
    lines: tuple[Line, ...]
    road_from: float
    road_to: float
    lanes_ahead: tuple[float, ...]  # s of the middle of each lane
    lanes_against: tuple[float, ...]
    crossing: tuple[float, float] | None = None  # z of a crossing street
    zebras: tuple[float, ...] = ()  # z where a crosswalk 3 m deep begins
    arrows: tuple[tuple[float, float], ...] = ()  # (s, z) of arrows on the road

    STRAIGHT_FROM_M = 140.0

    def centre(self, z: float) -> float:
        bend_z = min(z, self.STRAIGHT_FROM_M)
        slope = self.yaw + self.curvature * bend_z
        return self.yaw * bend_z + 0.5 * self.curvature * bend_z**2 + slope * (z - bend_z)

    def slope(self, z: float) -> float:
        return self.yaw + self.curvature * min(z, self.STRAIGHT_FROM_M)


@dataclass(kw_only=True)
class Scene:
    site: str
    street: Street
    camera_height_m: float
    horizon: float  # of the image's height
    faces: list[Face] = field(default_factory=list)
    facades: list[Facade] = field(default_factory=list)
    shadows: list[list[Point]] = field(default_factory=list)  # casters: a quadrangle, or a convex cloud of points
    contacts: list[list[Point]] = field(default_factory=list)  # the same, which darken the ground right under them
    lamps: list[Lamp] = field(default_factory=list)
