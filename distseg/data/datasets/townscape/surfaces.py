"""What surfaces look like before light falls on them: asphalt, paint, paving, grass, snow, walls, leaves, fences.

A `Surface` holds, for every sub-pixel of the picture (suffix _P, flat), the point seen and what light meets there; the
`paint_*` functions fill in its albedo for the sub-pixels of one material. Textures are functions of world coordinates.
Colours of sub-pixels are planar, (3, P): NumPy is several times faster when the long axis comes last.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distseg.data.datasets.townscape.scene import Colour, Facade, Ground, Label, Scene, Street
from distseg.data.datasets.townscape.weather import Weather

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

SNOW: Colour = (0.93, 0.95, 0.99)
ASPHALT: Colour = (0.36, 0.36, 0.37)
PAVING: Colour = (0.60, 0.58, 0.56)
KERBSTONE: Colour = (0.70, 0.69, 0.67)
NOISE_CELLS = 512


@dataclass
class Surface:
    """Everything about the sub-pixels of one picture, flat."""

    x_P: Floats
    y_P: Floats  # above the ground
    z_P: Floats
    albedo_3P: Floats  # linear
    emitted_3P: Floats  # linear
    sun_P: Floats  # share of the sunlight that arrives
    ambient_P: Floats  # share of the sky's light that arrives


def linear(colour: Colour) -> Floats:
    """A display colour as linear light (3, 1), to be spread over sub-pixels."""
    return np.square(np.array(colour, dtype=np.float32))[:, None]


@functools.cache
def noise_table() -> Floats:
    """Fractal noise of mean 0 within -1 … 1, which tiles; a constant."""
    white = np.random.default_rng(1).standard_normal((NOISE_CELLS, NOISE_CELLS))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_CELLS), np.fft.rfftfreq(NOISE_CELLS), indexing="ij"))
    shaped = np.fft.irfft2(np.fft.rfft2(white) / (frequency + 4.0 / NOISE_CELLS) ** 1.2, s=white.shape)
    table: Floats = np.clip((shaped - shaped.mean()) / (2.2 * shaped.std()), -1, 1).astype(np.float32)
    table.setflags(write=False)
    return table


@functools.cache
def grain_table() -> Floats:
    """White noise in 0 … 1; a constant."""
    table = np.random.default_rng(2).random((NOISE_CELLS, NOISE_CELLS), dtype=np.float32)
    table.setflags(write=False)
    return table


def look_up(table: Floats, a_P: Reals, b_P: Reals) -> Floats:
    """The table's cell at (a, b), wrapped around."""
    return _cell(table, a_P.astype(np.intp), b_P.astype(np.intp))


def look_up_smooth(table: Floats, a_P: Reals, b_P: Reals) -> Floats:
    """The table at (a, b), interpolated between the cells and wrapped around."""
    a0_P, b0_P = np.floor(a_P), np.floor(b_P)
    row_P, column_P = a0_P.astype(np.intp), b0_P.astype(np.intp)
    down_P, right_P = (a_P - a0_P).astype(np.float32), (b_P - b0_P).astype(np.float32)
    above_P, below_P = (
        _cell(table, i, column_P) * (1 - right_P) + _cell(table, i, column_P + 1) * right_P for i in (row_P, row_P + 1)
    )
    return above_P + (below_P - above_P) * down_P


def _cell(table: Floats, row_P: Indices, column_P: Indices) -> Floats:
    last = NOISE_CELLS - 1
    return np.take(table.ravel(), (row_P & last) * NOISE_CELLS + (column_P & last))


def smoothstep(low: float, high: float, value_P: Floats) -> Floats:
    t_P: Floats = np.clip((value_P - low) / (high - low), 0.0, 1.0)
    return t_P * t_P * (3.0 - 2.0 * t_P)


def blend(base_3P: Floats, over: Floats, share_P: Floats) -> Floats:
    return base_3P + (over - base_3P) * share_P


# --- Ground ----------------------------------------------------------------------------------------------------------


def paint_ground(
    surface: Surface, at: Indices, scene: Scene, weather: Weather, offsets: tuple[float, ...]
) -> npt.NDArray[np.uint8]:
    """Albedo of the ground's sub-pixels `at`; returns their labels."""
    street = scene.street
    z_P = surface.z_P[at]
    s_P = surface.x_P[at] - _centre(street, z_P)
    kind_P = np.array(street.kinds, dtype=np.uint8)[np.searchsorted(np.array(street.bounds, np.float32), s_P)]
    in_crossing_P = np.zeros(len(at), dtype=np.bool_)
    if street.crossing:
        in_crossing_P = (z_P > street.crossing[0]) & (z_P < street.crossing[1])
        kind_P[in_crossing_P] = Ground.ROAD
    white_P, yellow_P = _road_paint(street, s_P, z_P, in_crossing_P)
    on_road_P = kind_P == Ground.ROAD
    white_P &= on_road_P
    yellow_P &= on_road_P
    coarse_P = look_up_smooth(noise_table(), s_P * 3.0 + offsets[0], z_P * 3.0 + offsets[1])
    fine_P = look_up(grain_table(), s_P * 22.0 + offsets[1], z_P * 11.0 + offsets[0]) - 0.5
    fine_P *= 1.0 / (1.0 + z_P * 0.12)  # finer than a pixel far away
    albedo_3P = _bare_ground(weather, kind_P, s_P, z_P, coarse_P, fine_P, offsets)
    worn_P = np.clip(0.93 - 0.25 * coarse_P - 0.4 * fine_P, 0.55, 1.0)
    albedo_3P = blend(albedo_3P, linear((0.90, 0.90, 0.88)), worn_P * white_P)
    albedo_3P = blend(albedo_3P, linear((0.93, 0.70, 0.12)), worn_P * yellow_P)
    if weather.leaf_litter:
        litter_P = (fine_P + 0.35 * coarse_P > np.where(on_road_P, 0.52, 0.18)) & (z_P < 60)
        albedo_3P = blend(albedo_3P, linear(weather.leaves[0]), weather.leaf_litter * litter_P.astype(np.float32))
    if weather.snow:
        albedo_3P = _snow_on_ground(albedo_3P, street, kind_P, s_P, z_P, coarse_P, offsets)
    surface.albedo_3P[:, at] = albedo_3P
    labels = np.array([Label.ROAD, Label.SIDEWALK, Label.SIDEWALK, Label.VEGETATION], dtype=np.uint8)
    return np.where(white_P | yellow_P, np.uint8(Label.LANE_MARKING), labels[kind_P])


def _centre(street: Street, z_P: Floats) -> Floats:
    """`Street.centre` for many z."""
    bend_P: Floats = np.minimum(z_P, street.STRAIGHT_FROM_M)
    slope_P = bend_P * street.curvature + street.yaw
    return bend_P * (street.yaw + bend_P * (0.5 * street.curvature)) + slope_P * (z_P - bend_P)


def _road_paint(street: Street, s_P: Floats, z_P: Floats, in_crossing_P: Bools) -> tuple[Bools, Bools]:
    """Where the road is painted white and where yellow."""
    white_P, yellow_P = np.zeros(len(s_P), dtype=np.bool_), np.zeros(len(s_P), dtype=np.bool_)
    for line in street.lines:
        painted_P = np.abs(s_P - line.s) < 0.5 * line.width_m
        if line.period_m:
            painted_P &= np.mod(z_P + line.phase_m, line.period_m) < line.dash_m
        (yellow_P if line.yellow else white_P)[painted_P] = True
    bare_P = in_crossing_P.copy()
    for start in street.zebras:
        bare_P |= (z_P > start - 2.2) & (z_P < start + 4.0)
    white_P &= ~bare_P
    yellow_P &= ~bare_P
    on_carriageway_P = (s_P > street.road_from) & (s_P < street.road_to)
    for start in street.zebras:
        stripes_P = (z_P > start) & (z_P < start + 3.0) & (np.mod(s_P - street.road_from, 1.2) < 0.62)
        own_lanes_P = s_P > min(street.lanes_ahead) - 1.6
        stop_line_P = (z_P > start - 1.6) & (z_P < start - 1.0) & own_lanes_P
        white_P |= (stripes_P | stop_line_P) & on_carriageway_P
    if street.crossing:
        for near, far in (
            (street.road_to + 0.9, street.road_to + 3.6),
            (street.road_from - 3.6, street.road_from - 0.9),
        ):
            white_P |= in_crossing_P & (s_P > near) & (s_P < far) & (np.mod(z_P, 1.2) < 0.62)
    for s, z in street.arrows:
        side_P, along_P = np.abs(s_P - s), z_P - z
        shaft_P = (side_P < 0.13) & (along_P > 0) & (along_P < 2.4)
        white_P |= shaft_P | ((along_P >= 2.4) & (side_P < 0.5 * (3.8 - along_P) * 0.9))
    return white_P, yellow_P


def _bare_ground(
    weather: Weather,
    kind_P: npt.NDArray[np.uint8],
    s_P: Floats,
    z_P: Floats,
    coarse_P: Floats,
    fine_P: Floats,
    offsets: tuple[float, ...],
) -> Floats:
    colours_3K = np.hstack([linear(c) for c in (ASPHALT, PAVING, KERBSTONE, weather.grass)])
    tracks_P = look_up(noise_table(), s_P * 16.0 + offsets[2], z_P * 1.0 + offsets[3])
    tone_P = 1.0 + 0.25 * coarse_P + 0.5 * fine_P
    tone_P += np.where(kind_P == Ground.ROAD, 0.22 * tracks_P, 0.0)
    tone_P += np.where(kind_P == Ground.GRASS, 0.9 * fine_P + 0.3 * coarse_P, 0.0)
    joint_P = (np.mod(s_P, 1.5) < 0.07) | (np.mod(z_P, 1.5) < 0.10)
    tone_P -= np.where((kind_P == Ground.SIDEWALK) & joint_P, 0.28 / (1.0 + 0.05 * z_P), 0.0)
    slab_P = look_up(grain_table(), np.floor(s_P / 1.5) + 300.0, np.floor(z_P / 1.5) + offsets[1])
    tone_P += np.where(kind_P == Ground.SIDEWALK, 0.22 * (slab_P - 0.5), 0.0)
    return np.take(colours_3K, kind_P, axis=1) * np.maximum(tone_P, 0.2).astype(np.float32)


def _snow_on_ground(
    albedo_3P: Floats,
    street: Street,
    kind_P: npt.NDArray[np.uint8],
    s_P: Floats,
    z_P: Floats,
    coarse_P: Floats,
    offsets: tuple[float, ...],
) -> Floats:
    """Deep on grass and pavements, trodden paths on the latter; slush between the wheel tracks on the road."""
    drift_P = look_up_smooth(noise_table(), s_P * 5.0 + offsets[3], z_P * 1.2 + offsets[2])
    depth_K = np.array([0.30, 0.80, 0.80, 1.05], dtype=np.float32)
    cover_P = depth_K[kind_P] + 0.45 * drift_P + 0.25 * coarse_P
    lanes = street.lanes_ahead + street.lanes_against
    from_lane_P = functools.reduce(np.minimum, [np.abs(s_P - lane) for lane in lanes])
    track_P = np.maximum(1.0 - np.square((from_lane_P - 0.8) / 0.5), 0.0)
    cover_P += np.where(kind_P == Ground.ROAD, 0.15 - 0.5 * track_P, 0.0)
    share_P = smoothstep(0.25, 0.75, cover_P.astype(np.float32))
    share_P *= np.where(kind_P == Ground.ROAD, np.float32(0.72), np.float32(1.0))
    return blend(albedo_3P, linear(SNOW), share_P.astype(np.float32))


# --- Walls, leaves, fences -------------------------------------------------------------------------------------------


def paint_facades(surface: Surface, at: Indices, row_P: npt.NDArray[np.intp], scene: Scene, weather: Weather) -> None:
    """Windows, floors, shop fronts; panes reflect the sky by day, and some are lit in the dark."""
    if not len(at):
        return
    wall = FacadeColumns(scene.facades, row_P)
    z_P, height_P = surface.z_P[at], surface.y_P[at]
    along_P = (surface.x_P[at] - wall.x0) * wall.dx + (z_P - wall.z0) * wall.dz
    shop_P = (wall.shop > 0) & (height_P < 4.2)
    bay_P, floor_P = along_P / wall.bay_m, (height_P - 4.2) / wall.floor_m
    bay_P = np.where(shop_P, along_P / 4.5, bay_P)
    column_P, storey_P = np.floor(bay_P), np.floor(floor_P)
    across_P, up_P = bay_P - column_P, floor_P - storey_P
    top_P = wall.height_m - height_P
    pane_P = (np.abs(across_P - 0.5) < 0.5 * wall.window_width) & (np.abs(up_P - 0.52) < 0.5 * wall.window_height)
    pane_P &= (height_P > 1.0) & (top_P > 1.4)
    glass_front_P = (np.abs(across_P - 0.5) < 0.43) & (height_P > 0.6) & (height_P < 2.9)
    pane_P = np.where(shop_P, glass_front_P, pane_P)
    fine_P = look_up(grain_table(), along_P * 7.0, height_P * 14.0) - 0.5
    stain_P = look_up(noise_table(), along_P * 6.0 + wall.seed, height_P * 2.0)
    tone_P = 1.0 + 0.16 * stain_P + 0.28 * fine_P / (1.0 + 0.06 * z_P)
    albedo_3P = wall.planar_colours(0) * tone_P
    trim_P = (top_P < 0.9) | ((up_P < 0.09) & ~shop_P) | (height_P < 0.5)
    albedo_3P = np.where(trim_P, wall.planar_colours(1), albedo_3P)
    awning_P = shop_P & (height_P > 2.9) & (height_P < 3.8)
    albedo_3P = np.where(awning_P, wall.planar_colours(2), albedo_3P)
    if weather.snow:
        albedo_3P[:, (top_P < 0.6) | (awning_P & (height_P > 3.45))] = linear(SNOW)
    random_P = look_up(grain_table(), column_P + wall.seed * 7.0, storey_P * 3.0 + wall.seed + 64.0)
    surface.albedo_3P[:, at] = np.where(pane_P, 0.02 + 0.05 * random_P, albedo_3P)
    _light_panes(surface, at[pane_P], random_P[pane_P], shop_P[pane_P], weather)


def _light_panes(surface: Surface, at: Indices, random_P: Floats, shop_P: Bools, weather: Weather) -> None:
    if weather.dark:
        lit_P = random_P > np.where(shop_P, 0.35, 0.68)
        warmth_P = np.mod(random_P * 37.0, 1.0).astype(np.float32)
        tint_3P = blend(linear((1.0, 0.80, 0.52)), linear((0.85, 0.92, 1.0)), 0.6 * warmth_P)
        surface.emitted_3P[:, at] = tint_3P * (lit_P * (0.25 + 0.45 * warmth_P))
    else:
        sky_P = 0.10 + 0.22 * random_P
        surface.emitted_3P[:, at] = linear(weather.zenith) * sky_P


class FacadeColumns:
    """The fields of each sub-pixel's facade."""

    def __init__(self, facades: list[Facade], row_P: npt.NDArray[np.intp]) -> None:
        numbers_KF = np.array([facade[:11] for facade in facades], dtype=np.float32).T
        (self.x0, self.z0, self.dx, self.dz, self.height_m, self.floor_m, self.bay_m,
         self.window_width, self.window_height, self.shop, self.seed) = np.take(numbers_KF, row_P, axis=1)  # fmt: skip
        self._row_P = row_P
        self._colours_F33 = np.square(np.array([[f.wall, f.trim, f.awning] for f in facades], dtype=np.float32))

    def planar_colours(self, which: int) -> Floats:
        """The wall's colour (0), its trim's (1) or its awning's (2)."""
        return np.take(self._colours_F33[:, which].T, self._row_P, axis=1)


def paint_foliage(
    surface: Surface, at: Indices, species_P: Floats, tone_P: Floats, weather: Weather, offsets: tuple[float, ...]
) -> None:
    """Leaves in the season's colours, lighter towards the top of a crown (`tone`)."""
    leaves_3K = np.hstack([linear(colour) for colour in weather.leaves])
    which_P = np.minimum((species_P * 3.0).astype(np.intp), 2)
    x_P, y_P, z_P = surface.x_P[at], surface.y_P[at], surface.z_P[at]
    leaf_m = z_P * np.float32(0.004) + np.float32(0.07)
    grain_P = look_up(grain_table(), (x_P + z_P) / leaf_m + offsets[0], y_P / leaf_m + offsets[1]) - 0.5
    clump_P = look_up(noise_table(), (x_P + z_P) * 9.0 + offsets[2], y_P * 9.0 + offsets[3])
    light_P = np.maximum(1.0 + 0.55 * tone_P + 0.75 * grain_P + 0.35 * clump_P, 0.15)
    albedo_3P = np.take(leaves_3K, which_P, axis=1) * light_P
    if weather.snow:
        share_P = smoothstep(0.1, 0.7, tone_P * 0.6 + grain_P * 0.9 + clump_P * 0.5)
        albedo_3P = blend(albedo_3P, linear(SNOW), 0.8 * share_P)
    surface.albedo_3P[:, at] = albedo_3P


def paint_fences(surface: Surface, at: Indices, bars_per_m_P: Floats) -> None:
    """Bars against what is behind them, or, without bars, horizontal grooves."""
    along_P = (surface.x_P[at] + surface.z_P[at]) * bars_per_m_P
    height_P = surface.y_P[at]
    gap_P = (np.mod(along_P, 1.0) > 0.5) & (bars_per_m_P > 1.0)
    rail_P = (np.mod(height_P * 2.2, 1.0) > 0.75) | ((bars_per_m_P > 0) & (np.mod(along_P, 1.0) < 0.04))
    tone_P = np.where(gap_P & ~rail_P, 0.35, np.where(rail_P, 0.8, 1.0))
    surface.albedo_3P[:, at] *= tone_P.astype(np.float32)
