"""The nine conditions of `town`: what light, air, leaves and snow each has. Only numbers; `render` applies them.

Colours of surfaces and of the sky are display RGB (0 … 1); light is linear RGB that multiplies a surface's linear
colour. Angles of the sun: azimuth from the view axis to the right, elevation above the horizon. Pairs are ranges from
which each frame draws.
"""

from dataclasses import dataclass

from distseg.data.datasets.townscape.scene import Colour

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Weather:
    sun: Colour  # linear
    sun_azimuth_deg: Range
    sun_elevation_deg: Range
    ambient: Colour  # linear
    zenith: Colour
    horizon: Colour  # also the colour of the haze
    cloud: Colour
    cloud_cover: float  # 0 … 1
    haze_per_m: Range
    leaves: tuple[Colour, Colour, Colour]
    grass: Colour
    leaf_litter: float = 0.0
    snow: float = 0.0
    dark: bool = False  # street lamps, headlights and windows are lit
    noise: float = 0.008  # sensor noise (standard deviation, display units)
    exposure: Range = (0.9, 1.12)


GREEN: tuple[Colour, Colour, Colour] = ((0.25, 0.40, 0.14), (0.33, 0.47, 0.17), (0.22, 0.36, 0.18))
AUTUMN: tuple[Colour, Colour, Colour] = ((0.78, 0.42, 0.10), (0.66, 0.22, 0.10), (0.80, 0.62, 0.16))
SPRING: tuple[Colour, Colour, Colour] = ((0.50, 0.64, 0.24), (0.90, 0.66, 0.74), (0.42, 0.58, 0.22))
FROSTED: tuple[Colour, Colour, Colour] = ((0.62, 0.60, 0.60), (0.54, 0.50, 0.49), (0.70, 0.70, 0.72))

WEATHERS: dict[str, Weather] = {
    "dawn": Weather(
        sun=(1.90, 1.12, 0.76), sun_azimuth_deg=(-80, 80), sun_elevation_deg=(10, 20), ambient=(0.36, 0.37, 0.48),
        zenith=(0.44, 0.56, 0.80), horizon=(0.96, 0.80, 0.74), cloud=(0.98, 0.78, 0.76), cloud_cover=0.45,
        haze_per_m=(0.003, 0.007), leaves=GREEN, grass=(0.36, 0.45, 0.20),
    ),
    "fall": Weather(
        sun=(0.50, 0.47, 0.40), sun_azimuth_deg=(-160, 160), sun_elevation_deg=(24, 36), ambient=(0.58, 0.58, 0.60),
        zenith=(0.62, 0.67, 0.74), horizon=(0.83, 0.84, 0.84), cloud=(0.88, 0.88, 0.88), cloud_cover=0.8,
        haze_per_m=(0.002, 0.004), leaves=AUTUMN, grass=(0.52, 0.46, 0.22), leaf_litter=0.6,
    ),
    "fog": Weather(
        sun=(0.0, 0.0, 0.0), sun_azimuth_deg=(-90, 90), sun_elevation_deg=(30, 40), ambient=(0.68, 0.70, 0.72),
        zenith=(0.74, 0.76, 0.78), horizon=(0.79, 0.81, 0.82), cloud=(0.79, 0.81, 0.82), cloud_cover=0.0,
        haze_per_m=(0.020, 0.042), leaves=GREEN, grass=(0.34, 0.42, 0.20),
    ),
    "night": Weather(
        sun=(0.035, 0.045, 0.075), sun_azimuth_deg=(-60, 60), sun_elevation_deg=(35, 50),
        ambient=(0.045, 0.052, 0.080), zenith=(0.03, 0.04, 0.09), horizon=(0.15, 0.14, 0.19),
        cloud=(0.12, 0.11, 0.14), cloud_cover=0.3, haze_per_m=(0.002, 0.005), leaves=GREEN,
        grass=(0.34, 0.44, 0.18), dark=True, noise=0.028,
    ),
    "spring": Weather(
        sun=(1.20, 1.15, 1.02), sun_azimuth_deg=(-150, 150), sun_elevation_deg=(38, 50), ambient=(0.42, 0.46, 0.54),
        zenith=(0.40, 0.62, 0.90), horizon=(0.80, 0.90, 0.97), cloud=(0.98, 0.98, 0.99), cloud_cover=0.55,
        haze_per_m=(0.0015, 0.003), leaves=SPRING, grass=(0.42, 0.60, 0.22),
    ),
    "summer": Weather(
        sun=(1.50, 1.42, 1.20), sun_azimuth_deg=(-160, 160), sun_elevation_deg=(50, 66), ambient=(0.34, 0.38, 0.46),
        zenith=(0.20, 0.47, 0.86), horizon=(0.70, 0.84, 0.95), cloud=(1.0, 1.0, 1.0), cloud_cover=0.3,
        haze_per_m=(0.001, 0.0025), leaves=GREEN, grass=(0.40, 0.52, 0.18),
    ),
    "sunset": Weather(
        sun=(2.40, 0.98, 0.30), sun_azimuth_deg=(-60, 60), sun_elevation_deg=(8, 14), ambient=(0.32, 0.27, 0.34),
        zenith=(0.32, 0.36, 0.60), horizon=(1.0, 0.62, 0.28), cloud=(0.96, 0.52, 0.34), cloud_cover=0.5,
        haze_per_m=(0.002, 0.0045), leaves=GREEN, grass=(0.42, 0.44, 0.18),
    ),
    "winter": Weather(
        sun=(0.34, 0.34, 0.34), sun_azimuth_deg=(-150, 150), sun_elevation_deg=(16, 26), ambient=(0.62, 0.65, 0.72),
        zenith=(0.70, 0.74, 0.79), horizon=(0.87, 0.89, 0.91), cloud=(0.84, 0.86, 0.88), cloud_cover=0.7,
        haze_per_m=(0.003, 0.007), leaves=FROSTED, grass=(0.55, 0.53, 0.46), snow=1.0,
    ),
    "winter-night": Weather(
        sun=(0.045, 0.055, 0.085), sun_azimuth_deg=(-60, 60), sun_elevation_deg=(35, 50),
        ambient=(0.045, 0.053, 0.082), zenith=(0.05, 0.06, 0.11), horizon=(0.20, 0.19, 0.24),
        cloud=(0.17, 0.16, 0.20), cloud_cover=0.6, haze_per_m=(0.004, 0.010), leaves=FROSTED,
        grass=(0.55, 0.53, 0.46), snow=1.0, dark=True, noise=0.028,
    ),
}  # fmt: skip
