"""Renders a scene of `town` under a weather: image, label map and depth map.

    render(scene, weather, (height, width), rng)
        -> image uint8 (H, W, 3), train ids uint8 (H, W), depth float32 (H, W) in metres

Deferred shading at twice the size: `townscape.raster` says which face each sub-pixel sees and where, then all are
shaded at once. Colours are squared ("linear") while light is added and rooted at the end. A pixel's label is the one of
most of its four sub-pixels, the nearest deciding ties, and its depth is the nearest of that label.

Axes as in `townscape.scene`; a suffix _P marks arrays over sub-pixels, flat, and _I over face numbers.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from distseg.data.datasets.townscape import surfaces
from distseg.data.datasets.townscape.raster import GROUND_ID, SKY_ID, Camera, View, see, shadow_mask
from distseg.data.datasets.townscape.scene import FAR_M, Colour, Label, Material, Scene
from distseg.data.datasets.townscape.surfaces import Floats, Indices, Surface
from distseg.data.datasets.townscape.weather import Weather

OVERSAMPLING = 2
FOCAL_LENGTH = 1.35  # of the image's height: 58 degrees across at 3:2


@dataclass(frozen=True)
class Light:
    """What one frame draws from its weather's ranges."""

    to_sun: tuple[float, float, float]
    haze_per_m: float
    exposure: float
    offsets: tuple[float, float, float, float]  # into the noise


def render(
    scene: Scene, weather: Weather, size: tuple[int, int], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Floats]:
    camera = _camera(scene, (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING))
    light = _draw_light(weather, rng)
    view, normals_F3 = see(scene, camera)
    ground_label_P, lit_3HW, glow_3HW = _shade(scene, weather, light, camera, view, normals_F3)
    label_HW = np.array([Label.SKY, Label.ROAD, *(face.label for face in scene.faces)], dtype=np.uint8)[view.face_HW]
    label_HW[view.face_HW == GROUND_ID] = ground_label_P
    image_HW3 = _develop(_average(lit_3HW), _average(glow_3HW), weather, light, rng)
    return image_HW3, *_vote(label_HW, view.depth_HW)


def _camera(scene: Scene, size: tuple[int, int]) -> Camera:
    height, width = size
    return Camera(size, FOCAL_LENGTH * height, width / 2, scene.horizon * height, scene.camera_height_m)


def _draw_light(weather: Weather, rng: np.random.Generator) -> Light:
    azimuth = math.radians(rng.uniform(*weather.sun_azimuth_deg))
    elevation = math.radians(rng.uniform(*weather.sun_elevation_deg))
    flat = math.cos(elevation)
    return Light(
        to_sun=(math.sin(azimuth) * flat, math.sin(elevation), math.cos(azimuth) * flat),
        haze_per_m=rng.uniform(*weather.haze_per_m),
        exposure=rng.uniform(*weather.exposure),
        offsets=tuple(rng.uniform(0, 512, 4).tolist()),
    )


# --- Light -----------------------------------------------------------------------------------------------------------

LAMP_RGB: Colour = (1.0, 0.72, 0.42)  # linear; sodium
HEADLIGHT_RGB: Colour = (1.0, 0.95, 0.85)


def _shade(
    scene: Scene, weather: Weather, light: Light, camera: Camera, view: View, normals_F3: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """-> labels of the ground's sub-pixels, linear light (3, H, W), the part of it that things emit (3, H, W)."""
    face_P = view.face_HW.ravel()
    looks = _Looks.of(scene, weather, light, normals_F3)
    material_P = looks.material_I[face_P]
    surface = _bare_surface(looks, face_P, view, camera)

    def of(material: Material) -> tuple[Indices, Floats, Floats]:
        """Sub-pixels of a material, and the two parameters of their faces."""
        at = np.flatnonzero(material_P == material)
        return at, *looks.params_I2[face_P[at]].T

    ground, *_ = of(Material.GROUND)
    ground_label_P = surfaces.paint_ground(surface, ground, scene, weather, light.offsets)
    _shade_ground(surface, ground, scene, weather, light, camera)
    surfaces.paint_foliage(surface, *of(Material.FOLIAGE), weather, light.offsets)
    walls, row_P, _ = of(Material.FACADE)
    surfaces.paint_facades(surface, walls, row_P.astype(np.intp), scene, weather)
    fences, bars_per_m_P, _ = of(Material.FENCE)
    surfaces.paint_fences(surface, fences, bars_per_m_P)
    lit_3P = _through_air(_add_light(surface, scene, weather, view), surface.z_P, weather, light)
    sky = np.flatnonzero(face_P == SKY_ID)
    lit_3P[:, sky] = _sky(*_rays(view, sky), weather, light)
    glow_3P = np.where(material_P >= Material.LAMP, surface.emitted_3P, np.float32(0.0))
    return ground_label_P, lit_3P.reshape(3, *camera.size), glow_3P.reshape(3, *camera.size)


@dataclass(frozen=True)
class _Looks:
    """Per face number (sky and ground included): material, colour and how its plane takes light."""

    material_I: npt.NDArray[np.uint8]
    params_I2: Floats
    albedo_3I: Floats
    emitted_3I: Floats
    sun_I: Floats
    ambient_I: Floats

    @staticmethod
    def of(scene: Scene, weather: Weather, light: Light, normals_F3: npt.NDArray[np.float64]) -> "_Looks":
        faces = scene.faces
        material_I = np.array([Material.SKY, Material.GROUND, *(f.material for f in faces)], dtype=np.uint8)
        params_I2 = np.array([(0.0, 0.0), (0.0, 0.0), *(f.params for f in faces)], dtype=np.float32)
        colour_3I = np.square(np.array([(0.0,) * 3, (0.0,) * 3, *(f.colour for f in faces)], dtype=np.float32).T)
        up_I = np.concatenate([[0.0, 1.0], normals_F3[:, 1]])
        sun_I = np.concatenate([[0.0, 0.0], np.maximum(normals_F3 @ np.array(light.to_sun), 0.0)])
        leafy_I = material_I == Material.FOLIAGE
        sun_I[leafy_I] = 0.35 + 0.4 * sun_I[leafy_I]  # leaves turn every way and let light through
        if weather.snow:
            colour_3I[:, (up_I > 0.55) & (material_I != Material.GROUND)] = surfaces.linear(surfaces.SNOW)
        emitted_3I = _emitted(weather, material_I, colour_3I)
        ambient_I = (0.80 + 0.20 * up_I).astype(np.float32)
        return _Looks(material_I, params_I2, colour_3I, emitted_3I, sun_I.astype(np.float32), ambient_I)


def _emitted(weather: Weather, material_I: npt.NDArray[np.uint8], colour_3I: Floats) -> Floats:
    """What faces shine by themselves, and the sky in window panes."""
    strength_I = np.zeros(len(material_I), dtype=np.float32)
    for material, strength in _shining(weather).items():
        strength_I[material_I == material] = strength
    reflected = (0.10 if weather.dark else 0.25) * surfaces.linear(weather.horizon)
    return np.where(material_I == Material.GLASS, reflected, strength_I * colour_3I)


def _shining(weather: Weather) -> dict[Material, float]:
    """How strongly things shine by themselves, in multiples of their colour."""
    if weather.dark:
        return {Material.LAMP: 6.0, Material.HEADLIGHT: 3.0, Material.TAILLIGHT: 2.4, Material.SIGNAL: 1.6}
    return {Material.SIGNAL: 1.0}


def _bare_surface(looks: _Looks, face_P: npt.NDArray[np.int32], view: View, camera: Camera) -> Surface:
    """The points seen, with the colours of their faces."""
    return Surface(
        x_P=(view.ray_u_W * view.depth_HW).ravel(),
        y_P=(view.ray_v_H[:, None] * view.depth_HW).ravel() + np.float32(camera.height_m),
        z_P=view.depth_HW.ravel(),
        albedo_3P=np.take(looks.albedo_3I, face_P, axis=1),
        emitted_3P=np.take(looks.emitted_3I, face_P, axis=1),
        sun_P=looks.sun_I[face_P],
        ambient_P=looks.ambient_I[face_P],
    )


def _shade_ground(surface: Surface, at: Indices, scene: Scene, weather: Weather, light: Light, camera: Camera) -> None:
    contact_P = shadow_mask(scene.contacts, (0.0, 1.0, 0.0), camera)
    surface.ambient_P[at] = 1.0 - 0.62 * contact_P[at]
    surface.sun_P[at] = light.to_sun[1]
    if max(weather.sun) > 0 and not weather.dark:
        surface.sun_P[at] *= 1.0 - shadow_mask(scene.shadows, light.to_sun, camera)[at]


def _add_light(surface: Surface, scene: Scene, weather: Weather, view: View) -> Floats:
    """Light that leaves each sub-pixel (3, P)."""
    arriving_3P = surface.ambient_P * _rgb(weather.ambient) + surface.sun_P * _rgb(weather.sun)
    if weather.dark:
        near = np.flatnonzero(surface.z_P < 130.0)
        arriving_3P[:, near] += _lamplight(surface, near, scene) * _rgb(LAMP_RGB)
        arriving_3P += _headlights(view) * _rgb(HEADLIGHT_RGB)
    arriving_3P *= surface.albedo_3P
    arriving_3P += surface.emitted_3P
    return arriving_3P


def _rgb(light: Colour) -> Floats:
    """Linear light as (3, 1)."""
    return np.array(light, dtype=np.float32)[:, None]


def _lamplight(surface: Surface, at: Indices, scene: Scene) -> Floats:
    x_P, y_P, z_P = surface.x_P[at], surface.y_P[at], surface.z_P[at]
    total_P = np.zeros(len(at), dtype=np.float32)
    for lamp in scene.lamps:
        if lamp.z < 100:
            below_P = np.float32(lamp.y) - y_P
            square_P = (x_P - np.float32(lamp.x)) ** 2 + below_P**2 + (z_P - np.float32(lamp.z)) ** 2 + np.float32(6.0)
            total_P += np.maximum(below_P + 1.5, 0.0) / (square_P * np.sqrt(square_P)) * np.float32(55.0)
    return total_P


def _headlights(view: View) -> Floats:
    """The camera car's own dipped beam."""
    wide_W = np.exp(-((view.ray_u_W / 0.42) ** 2))
    low_H = 0.85 * np.exp(-(((view.ray_v_H + 0.14) / 0.13) ** 2))
    beam_HW: Floats = low_H[:, None] * wide_W / (1.0 + (view.depth_HW / 22.0) ** 2)
    return beam_HW.ravel()


def _through_air(lit_3P: Floats, z_P: Floats, weather: Weather, light: Light) -> Floats:
    """Haze: light is lost exponentially with the distance and replaced by the horizon's. Changes `lit_3P`."""
    horizon = surfaces.linear(weather.horizon)
    lit_3P -= horizon
    lit_3P *= np.exp(-light.haze_per_m * z_P)
    lit_3P += horizon
    return lit_3P


# --- Sky, film -------------------------------------------------------------------------------------------------------


def _rays(view: View, at: Indices) -> tuple[Floats, Floats]:
    row_P, column_P = np.divmod(at, len(view.ray_u_W))
    return view.ray_u_W[column_P], view.ray_v_H[row_P]


def _sky(u_P: Floats, v_P: Floats, weather: Weather, light: Light) -> Floats:
    """The sky's light (3, P) along rays (u, v, 1)."""
    up_P = np.maximum(v_P, 0.0)
    mix_P: Floats = np.power(np.clip(up_P / 0.62, 0.0, 1.0), np.float32(0.75))
    sky_3P = surfaces.blend(surfaces.linear(weather.horizon), surfaces.linear(weather.zenith), mix_P)
    if weather.cloud_cover:
        sky_3P = _clouded(sky_3P, u_P, up_P, weather, light)
    if weather.dark:
        stars_P = surfaces.look_up(surfaces.grain_table(), u_P * 420 + 300, v_P * 420 + light.offsets[0])
        sky_3P += np.float32(0.5) * ((stars_P > 0.9985) & (up_P > 0.1))
    elif max(weather.sun) > 0:
        sky_3P += _sun_glow(u_P, v_P, weather, light) * _rgb(weather.sun)
    return sky_3P


def _clouded(sky_3P: Floats, u_P: Floats, up_P: Floats, weather: Weather, light: Light) -> Floats:
    scale_P = np.float32(46.0) / (up_P + np.float32(0.10))
    across_P, (a, b, c, d) = u_P * scale_P, light.offsets
    billow_P = surfaces.look_up(surfaces.noise_table(), across_P + a + 256, scale_P + b)
    wisp_P = surfaces.look_up(surfaces.noise_table(), across_P * 0.4 + c + 256, scale_P * 0.4 + d)
    low = 0.75 - 1.3 * weather.cloud_cover
    share_P = surfaces.smoothstep(low, low + 0.7, 0.75 * billow_P + 0.55 * wisp_P) * np.minimum(up_P * 9.0, 1.0)
    tone_3P = surfaces.linear(weather.cloud) * (0.86 + 0.14 * billow_P)
    return surfaces.blend(sky_3P, tone_3P, 0.85 * share_P)


def _sun_glow(u_P: Floats, v_P: Floats, weather: Weather, light: Light) -> Floats:
    """The sun's disc, unless clouds hide it, and the glow around it."""
    x, y, z = light.to_sun
    cosine_P = np.maximum((u_P * x + v_P * y + z) / np.sqrt(1.0 + u_P**2 + v_P**2), 0.0)
    clear = max(0.0, 1.0 - 1.3 * weather.cloud_cover)
    near_P = cosine_P**12
    glow_P: Floats = 0.20 * near_P + 0.30 * near_P**7 * np.sqrt(near_P) + clear * 4.0 * (cosine_P > 0.9985)
    return glow_P


def _quarters(fine: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The sub-pixels of each pixel: OVERSAMPLING² arrays (…, H, W) from one (…, kH, kW)."""
    k = OVERSAMPLING
    return [fine[..., i::k, j::k] for i in range(k) for j in range(k)]


def _average(fine_3HW: Floats) -> Floats:
    """The mean of each pixel's sub-pixels."""
    mean_3HW: Floats = functools.reduce(np.add, _quarters(fine_3HW)) * np.float32(1 / OVERSAMPLING**2)
    return mean_3HW


def _develop(
    lit_3HW: Floats, glow_3HW: Floats, weather: Weather, light: Light, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Bloom around lamps, exposure, vignette, gamma, sensor noise; to 8 bits (H, W, 3)."""
    _, height, width = lit_3HW.shape
    bright = Image.fromarray((np.clip(glow_3HW, 0.0, 1.0) * 255).astype(np.uint8).transpose(1, 2, 0).copy())
    for radius, gain in ((0.012, 0.6), (0.04, 0.9))[: 2 if weather.dark else 1]:
        blurred_HW3 = np.asarray(bright.filter(ImageFilter.GaussianBlur(radius * height)), dtype=np.float32)
        lit_3HW = lit_3HW + gain / 255.0 * blurred_HW3.transpose(2, 0, 1)
    v_H, u_W = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    vignette_HW = light.exposure * (1.0 - 0.10 * (u_W**2 + v_H[:, None] ** 2))
    display_3HW = np.sqrt(np.maximum(lit_3HW * vignette_HW, 0.0))
    display_3HW += weather.noise * rng.standard_normal(display_3HW.shape, dtype=np.float32)
    image_3HW = (np.clip(display_3HW, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image_3HW.transpose(1, 2, 0))


def _vote(label_HW: npt.NDArray[np.uint8], depth_HW: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """One label and depth per pixel from its four sub-pixels."""
    label_4HW, depth_4HW = np.stack(_quarters(label_HW)), np.stack(_quarters(depth_HW))
    label, depth = label_4HW[0].copy(), depth_4HW.min(axis=0)
    mixed = (label_4HW != label_4HW[0]).any(axis=0)
    label_4M, depth_4M = label_4HW[:, mixed], depth_4HW[:, mixed]
    votes_4M = (label_4M[:, None] == label_4M[None, :]).sum(axis=1)
    winner_1M = np.argmax(votes_4M - depth_4M / np.float32(2 * FAR_M), axis=0)[None]
    label[mixed] = np.take_along_axis(label_4M, winner_1M, axis=0)[0]
    depth[mixed] = np.take_along_axis(depth_4M, winner_1M, axis=0)[0]
    return label, depth
