"""Renders a scene of `town` under a weather: image, label map and depth map.

    render(scene, weather, (height, width), rng) -> image uint8 (H, W, 3), train ids uint8 (H, W), depth float32 (H, W) m

Deferred shading: faces are first drawn far to near into a buffer of face numbers, at twice the size; the point that
each pixel sees then follows from its face's plane, and all pixels are shaded at once. Colours are squared ("linear")
while light is added and rooted at the end. A pixel's label is the one of most of its four sub-pixels, the nearest
deciding ties, and its depth is the nearest of that label.

Axes as in `townscape.scene`; a suffix _P marks arrays over the sub-pixels at hand, flat.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from distseg.data.townscape import surfaces
from distseg.data.townscape.scene import FAR_M, Colour, Label, Material, Point, Scene
from distseg.data.townscape.surfaces import Floats, Indices, Surface
from distseg.data.townscape.weather import Weather

Ints = npt.NDArray[np.int32]

OVERSAMPLING = 2
FOCAL_LENGTH = 0.86  # of the image's height
NEAR_M = 0.6
SKY_ID, GROUND_ID, FIRST_FACE_ID = 0, 1, 2


@dataclass(frozen=True)
class Camera:
    """A pinhole `height_m` above the ground that looks along z."""

    size: tuple[int, int]
    focal_px: float
    centre_u: float
    horizon_v: float
    height_m: float

    def project(self, points_N3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """World points in front of the camera -> (u, v) in pixels."""
        scale = self.focal_px / points_N3[:, 2]
        u = self.centre_u + points_N3[:, 0] * scale
        v = self.horizon_v - (points_N3[:, 1] - self.height_m) * scale
        return np.stack([u, v], axis=1)


@dataclass(frozen=True)
class Light:
    """What one frame draws from its weather's ranges."""

    to_sun: tuple[float, float, float]
    haze_per_m: float
    exposure: float
    offsets: tuple[float, float, float, float]  # into the noise


@dataclass(frozen=True)
class View:
    """What the sub-pixels see."""

    face_HW: Ints
    ray_u_HW: Floats  # x of a ray of depth 1
    ray_v_HW: Floats  # y of it, relative to the camera
    depth_HW: Floats


def render(
    scene: Scene, weather: Weather, size: tuple[int, int], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Floats]:
    camera = _camera(scene, (size[0] * OVERSAMPLING, size[1] * OVERSAMPLING))
    light = _draw_light(weather, rng)
    view, normals_F3 = _see(scene, camera)
    ground_label_P, lit_HW3, glow_HW3 = _shade(scene, weather, light, camera, view, normals_F3)
    label_HW = np.array([Label.SKY, Label.ROAD, *(face.label for face in scene.faces)], dtype=np.uint8)[view.face_HW]
    label_HW[view.face_HW == GROUND_ID] = ground_label_P
    image_HW3 = _develop(_average(lit_HW3), _average(glow_HW3), weather, light, rng)
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


# --- Which face each sub-pixel sees, and how far away ----------------------------------------------------------------


def _see(scene: Scene, camera: Camera) -> tuple[View, npt.NDArray[np.float64]]:
    height, width = camera.size
    ray_u, ray_v = np.meshgrid(
        (np.arange(width, dtype=np.float32) + 0.5 - camera.centre_u) / camera.focal_px,
        (camera.horizon_v - np.arange(height, dtype=np.float32) - 0.5) / camera.focal_px,
    )
    soup_N3 = np.concatenate([np.asarray(face.points, dtype=np.float64) for face in scene.faces])
    counts = np.array([len(face.points) for face in scene.faces])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    face_HW = _draw_faces(scene, camera, soup_N3, starts, counts)
    normals_F3, offsets_F = _planes(soup_N3, starts, counts, camera.height_m)
    depth_HW = np.where(ray_v < -1e-6, camera.height_m / np.maximum(-ray_v, 1e-6), FAR_M).astype(np.float32)
    depth_HW = np.minimum(depth_HW, np.float32(FAR_M))
    solid = np.flatnonzero(face_HW >= FIRST_FACE_ID)
    if len(solid):
        face_P = face_HW.ravel()[solid] - FIRST_FACE_ID
        plane_F4 = np.column_stack([normals_F3, offsets_F]).astype(np.float32)
        nx, ny, nz, offset = plane_F4[face_P].T
        facing = nx * ray_u.ravel()[solid] + ny * ray_v.ravel()[solid] + nz
        near_F, far_F = (reduce.reduceat(soup_N3[:, 2], starts).astype(np.float32) for reduce in (np.minimum, np.maximum))
        depth_P = offset / np.where(np.abs(facing) < 1e-6, np.float32(1e-6), facing)
        depth_HW.ravel()[solid] = np.clip(depth_P, np.maximum(near_F[face_P], NEAR_M), np.maximum(far_F[face_P], NEAR_M))
    depth_HW[face_HW == SKY_ID] = FAR_M
    return View(face_HW, ray_u, ray_v, depth_HW), normals_F3


def _draw_faces(
    scene: Scene, camera: Camera, soup_N3: npt.NDArray[np.float64], starts: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> Ints:  # fmt: skip
    height, width = camera.size
    canvas = Image.new("I", (width, height), SKY_ID)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([0, round(camera.horizon_v), width, height], fill=GROUND_ID)
    in_front_F = np.minimum.reduceat(soup_N3[:, 2], starts) >= NEAR_M
    safe_N3 = soup_N3.copy()
    safe_N3[:, 2] = np.maximum(safe_N3[:, 2], NEAR_M)
    corners_N2 = np.rint(camera.project(safe_N3) - 0.5)
    for i in sorted(range(len(scene.faces)), key=lambda i: -scene.faces[i].distance_m):
        first, last = starts[i], starts[i] + counts[i]
        corners = corners_N2[first:last] if in_front_F[i] else _clipped(soup_N3[first:last], camera)
        if len(corners) >= 3:
            draw.polygon(corners.ravel().tolist(), fill=FIRST_FACE_ID + i)
    return np.array(canvas, dtype=np.int32)


def _clipped(points_K3: npt.NDArray[np.float64], camera: Camera) -> npt.NDArray[np.float64]:
    """The picture of a polygon that reaches behind the camera (Sutherland-Hodgman at the near plane)."""
    kept: list[npt.NDArray[np.float64]] = []
    for p, q in zip(points_K3, np.roll(points_K3, -1, axis=0), strict=True):
        if p[2] >= NEAR_M:
            kept.append(p)
        if (p[2] >= NEAR_M) != (q[2] >= NEAR_M):
            kept.append(p + (q - p) * (NEAR_M - p[2]) / (q[2] - p[2]))
    return np.rint(camera.project(np.array(kept)) - 0.5) if len(kept) >= 3 else np.empty((0, 2))


def _planes(
    soup_N3: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], height_m: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Unit normals towards the camera (Newell's method) and offsets n·p, with the camera at the origin."""
    following = np.arange(len(soup_N3)) + 1
    following[starts + counts - 1] = starts
    nxt = soup_N3[following]
    x, y, z = (soup_N3 - nxt).T
    sx, sy, sz = (soup_N3 + nxt).T
    area_F3 = np.add.reduceat(np.stack([y * sz, z * sx, x * sy], axis=1), starts)
    normals = area_F3 / np.maximum(np.linalg.norm(area_F3, axis=1, keepdims=True), 1e-9)
    centres = np.add.reduceat(soup_N3, starts) / counts[:, None] - np.array([0.0, height_m, 0.0])
    offsets = (normals * centres).sum(axis=1)
    normals[offsets > 0] *= -1.0
    return normals, -np.abs(offsets)


# --- Light -----------------------------------------------------------------------------------------------------------

LAMP_RGB: Colour = (1.0, 0.72, 0.42)  # linear; sodium
HEADLIGHT_RGB: Colour = (1.0, 0.95, 0.85)
SHADOWS_WITHIN_M = 90.0


def _shade(
    scene: Scene, weather: Weather, light: Light, camera: Camera, view: View, normals_F3: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """-> labels of the ground's sub-pixels, linear light (H, W, 3), the part of it that things emit (H, W, 3)."""
    face_P = view.face_HW.ravel()
    z_P = view.depth_HW.ravel()
    x_P, y_P = view.ray_u_HW.ravel() * z_P, view.ray_v_HW.ravel() * z_P + np.float32(camera.height_m)
    looks = _Looks.of(scene, weather, light, normals_F3)
    material_P = looks.material_I[face_P]
    surface = Surface(
        x_P, y_P, z_P, looks.albedo_I3[face_P], looks.emitted_I3[face_P], looks.sun_I[face_P], looks.ambient_I[face_P]
    )

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
    lit_P3 = _add_light(surface, scene, weather, view)
    lit_HW3 = lit_P3.reshape(*camera.size, 3)
    sky_HW3 = _sky(view, weather, light)
    lit_HW3 = np.where((view.face_HW == SKY_ID)[..., None], sky_HW3, lit_HW3)
    lit_HW3 = _through_air(lit_HW3, weather, light, view)
    glow_P3 = surface.emitted_P3 * (material_P >= Material.LAMP)[:, None]
    return ground_label_P, lit_HW3, glow_P3.reshape(lit_HW3.shape)


@dataclass(frozen=True)
class _Looks:
    """Per face number (sky and ground included): material, colour and how its plane takes light."""

    material_I: npt.NDArray[np.uint8]
    params_I2: Floats
    albedo_I3: Floats
    emitted_I3: Floats
    sun_I: Floats
    ambient_I: Floats

    @staticmethod
    def of(scene: Scene, weather: Weather, light: Light, normals_F3: npt.NDArray[np.float64]) -> "_Looks":
        faces = scene.faces
        material_I = np.array([Material.SKY, Material.GROUND, *(f.material for f in faces)], dtype=np.uint8)
        params_I2 = np.array([(0.0, 0.0), (0.0, 0.0), *(f.params for f in faces)], dtype=np.float32)
        colour_I3 = np.square(np.array([(0.0,) * 3, (0.0,) * 3, *(f.colour for f in faces)], dtype=np.float32))
        up_I = np.concatenate([[0.0, 1.0], normals_F3[:, 1]])
        sun_I = np.concatenate([[0.0, 0.0], np.maximum(normals_F3 @ np.array(light.to_sun), 0.0)])
        leafy = material_I == Material.FOLIAGE
        sun_I[leafy] = 0.35 + 0.4 * sun_I[leafy]  # leaves turn every way and let light through
        if weather.snow:
            colour_I3[(up_I > 0.55) & (material_I != Material.GROUND)] = surfaces.linear(surfaces.SNOW)
        emitted_I3 = np.zeros_like(colour_I3)
        for material, strength in _shining(weather).items():
            emitted_I3[material_I == material] = strength * colour_I3[material_I == material]
        glass = material_I == Material.GLASS
        emitted_I3[glass] = (0.25 if not weather.dark else 0.10) * surfaces.linear(weather.horizon)
        return _Looks(
            material_I, params_I2, colour_I3, emitted_I3, sun_I.astype(np.float32),
            (0.80 + 0.20 * up_I).astype(np.float32),
        )  # fmt: skip


def _shining(weather: Weather) -> dict[Material, float]:
    """How strongly things shine by themselves, in multiples of their colour."""
    if weather.dark:
        return {Material.LAMP: 6.0, Material.HEADLIGHT: 3.0, Material.TAILLIGHT: 2.4, Material.SIGNAL: 1.6}
    return {Material.SIGNAL: 1.0}


def _shade_ground(
    surface: Surface, at: Indices, scene: Scene, weather: Weather, light: Light, camera: Camera
) -> None:
    contact = _shadow_mask(scene.contacts, (0.0, 1.0, 0.0), camera)
    surface.ambient_P[at] = 1.0 - 0.62 * contact[at]
    if max(weather.sun) > 0 and not weather.dark:
        shadow = _shadow_mask(scene.shadows, light.to_sun, camera)
        surface.sun_P[at] = light.to_sun[1] * (1.0 - shadow[at])
    else:
        surface.sun_P[at] = light.to_sun[1]


def _shadow_mask(clouds: list[list[Point]], to_sun: tuple[float, float, float], camera: Camera) -> Floats:
    """How far (0 … 1) each sub-pixel of the ground lies in the shadow of the convex clouds; flat."""
    canvas = Image.new("L", camera.size[::-1], 0)
    draw = ImageDraw.Draw(canvas)
    per_height = (to_sun[0] / to_sun[1], to_sun[2] / to_sun[1])
    for cloud in clouds:
        if cloud[0][2] < SHADOWS_WITHIN_M:
            outline = _hull([(x - y * per_height[0], z - y * per_height[1]) for x, y, z in cloud])
            corners = _clipped(np.array([(x, 0.0, z) for x, z in outline]), camera)
            if len(corners) >= 3:
                draw.polygon(np.clip(corners, -1e5, 1e5).ravel().tolist(), fill=255)
    soft = canvas.filter(ImageFilter.BoxBlur(camera.size[0] / 200))
    return np.asarray(soft, dtype=np.float32).ravel() / np.float32(255.0)


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The convex hull (Andrew's monotone chain)."""
    ordered = sorted(points)

    def chain(sequence: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for p in sequence:
            while len(kept) >= 2 and _turn(kept[-2], kept[-1], p) <= 0:
                kept.pop()
            kept.append(p)
        return kept[:-1]

    return chain(ordered) + chain(ordered[::-1])


def _turn(o: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])


def _add_light(surface: Surface, scene: Scene, weather: Weather, view: View) -> Floats:
    arriving_P3 = surface.ambient_P[:, None] * np.array(weather.ambient, dtype=np.float32)
    arriving_P3 += surface.sun_P[:, None] * np.array(weather.sun, dtype=np.float32)
    if weather.dark:
        near = np.flatnonzero(surface.z_P < 130.0)
        arriving_P3[near] += _lamplight(surface, near, scene)[:, None] * np.array(LAMP_RGB, dtype=np.float32)
        arriving_P3 += _headlights(surface.z_P, view)[:, None] * np.array(HEADLIGHT_RGB, dtype=np.float32)
    return surface.albedo_P3 * arriving_P3 + surface.emitted_P3


def _lamplight(surface: Surface, at: Indices, scene: Scene) -> Floats:
    x_P, y_P, z_P = surface.x_P[at], surface.y_P[at], surface.z_P[at]
    total_P = np.zeros(len(at), dtype=np.float32)
    for lamp in scene.lamps:
        if lamp.z < 100:
            below_P = np.float32(lamp.y) - y_P
            square_P = (x_P - np.float32(lamp.x)) ** 2 + below_P**2 + (z_P - np.float32(lamp.z)) ** 2
            total_P += np.maximum(below_P + 1.5, 0.0) / (square_P + 6.0) ** 1.5 * np.float32(55.0)
    return total_P


def _headlights(z_P: Floats, view: View) -> Floats:
    """The camera car's own dipped beam."""
    wide_P = np.exp(-((view.ray_u_HW.ravel() / 0.42) ** 2))
    low_P = np.exp(-(((view.ray_v_HW.ravel() + 0.14) / 0.13) ** 2))
    return np.asarray(0.85 * wide_P * low_P / (1.0 + (z_P / 22.0) ** 2), dtype=np.float32)


# --- Sky, air, film --------------------------------------------------------------------------------------------------


def _sky(view: View, weather: Weather, light: Light) -> Floats:
    up = np.maximum(view.ray_v_HW, 0.0)
    mix = np.clip(up / 0.62, 0.0, 1.0) ** np.float32(0.75)
    sky = surfaces.linear(weather.horizon) * (1 - mix[..., None]) + surfaces.linear(weather.zenith) * mix[..., None]
    if weather.cloud_cover:
        scale = 46.0 / (up + 0.10)
        table = surfaces.noise_table()
        billow = surfaces.look_up(table, view.ray_u_HW * scale + light.offsets[0] + 256, scale + light.offsets[1])
        wisp = surfaces.look_up(table, view.ray_u_HW * scale * 0.4 + light.offsets[2] + 256, scale * 0.4 + light.offsets[3])
        low = 0.75 - 1.3 * weather.cloud_cover
        share = surfaces.smoothstep(low, low + 0.7, 0.75 * billow + 0.55 * wisp) * np.minimum(up * 9.0, 1.0) * 0.85
        tone = surfaces.linear(weather.cloud) * (0.86 + 0.14 * billow[..., None])
        sky += (tone - sky) * share[..., None]
    if weather.dark:
        stars = surfaces.look_up(surfaces.grain_table(), view.ray_u_HW * 420 + 300, view.ray_v_HW * 420 + light.offsets[0])
        sky += ((stars > 0.9985) * (up > 0.1) * 0.5)[..., None].astype(np.float32)
    elif max(weather.sun) > 0:
        sky += _sun_glow(view, weather, light)
    return np.asarray(sky, dtype=np.float32)


def _sun_glow(view: View, weather: Weather, light: Light) -> Floats:
    length = np.sqrt(1.0 + view.ray_u_HW**2 + view.ray_v_HW**2)
    x, y, z = light.to_sun
    cosine = np.maximum((view.ray_u_HW * x + view.ray_v_HW * y + z) / length, 0.0)
    clear = 1.0 - 0.9 * weather.cloud_cover
    glow = 0.30 * cosine**12 + 0.45 * cosine**90 + clear * 4.0 * (cosine > 0.9985)
    return np.asarray(glow[..., None] * np.array(weather.sun, dtype=np.float32), dtype=np.float32)


def _through_air(lit_HW3: Floats, weather: Weather, light: Light, view: View) -> Floats:
    """Haze: light is lost exponentially with the distance and replaced by the horizon's."""
    solid_HW = view.face_HW != SKY_ID
    passing_HW = np.exp(-light.haze_per_m * view.depth_HW) * solid_HW + ~solid_HW
    return lit_HW3 * passing_HW[..., None] + surfaces.linear(weather.horizon) * (1.0 - passing_HW)[..., None]


def _average(fine_HWC: Floats) -> Floats:
    """The mean of each pixel's sub-pixels."""
    height, width, channels = fine_HWC.shape
    k = OVERSAMPLING
    return np.asarray(fine_HWC.reshape(height // k, k, width // k, k, channels).mean(axis=(1, 3)), dtype=np.float32)


def _develop(
    lit_HW3: Floats, glow_HW3: Floats, weather: Weather, light: Light, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Bloom around lamps, exposure, vignette, gamma, sensor noise; to 8 bits."""
    height, width, _ = lit_HW3.shape
    bright = Image.fromarray((np.clip(glow_HW3, 0.0, 1.0) * 255).astype(np.uint8))
    for radius, gain in ((0.012, 0.6), (0.04, 0.9 if weather.dark else 0.0)):
        blurred = np.asarray(bright.filter(ImageFilter.GaussianBlur(radius * height)), dtype=np.float32) / 255.0
        lit_HW3 = lit_HW3 + gain * blurred
    v, u = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    vignette = light.exposure * (1.0 - 0.10 * (u[None, :] ** 2 + v[:, None] ** 2))
    display = np.sqrt(np.maximum(lit_HW3 * vignette[..., None], 0.0))
    display += weather.noise * rng.standard_normal(display.shape, dtype=np.float32)
    return (np.clip(display, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _vote(label_HW: npt.NDArray[np.uint8], depth_HW: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """One label and depth per pixel from its four sub-pixels."""
    k = OVERSAMPLING
    label_4HW = np.stack([label_HW[i::k, j::k] for i in range(k) for j in range(k)])
    depth_4HW = np.stack([depth_HW[i::k, j::k] for i in range(k) for j in range(k)])
    votes_4HW = (label_4HW[:, None] == label_4HW[None, :]).sum(axis=1)
    winner_HW = np.argmax(votes_4HW - depth_4HW / np.float32(2 * FAR_M), axis=0)[None]
    label = np.take_along_axis(label_4HW, winner_HW, axis=0)[0]
    return label, np.take_along_axis(depth_4HW, winner_HW, axis=0)[0]
