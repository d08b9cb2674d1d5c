"""Finds what each sub-pixel of a picture sees, and where shadows lie on the ground.

    see(scene, camera) -> View, normals of the faces (F, 3)
    shadow_mask(clouds, to_sun, camera) -> float32 (P,) in 0 … 1

Faces are drawn far to near into a buffer of face numbers; the depth of a sub-pixel then follows from its face's plane.
Axes as in `townscape.scene`; a suffix _F counts polygons, _N their corners, _P sub-pixels (flat, row by row).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from distseg.data.datasets.townscape.scene import FAR_M, Point, Scene

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Indices = npt.NDArray[np.intp]
Pixel = tuple[float, float]

NEAR_M = 0.6
SHADOWS_WITHIN_M = 90.0
FARTHEST_PX = 1e5  # of what is drawn: far outside, yet safe for the rasteriser
SKY_ID, GROUND_ID, FIRST_FACE_ID = 0, 1, 2


@dataclass(frozen=True)
class Camera:
    """A pinhole `height_m` above the ground that looks along z."""

    size: tuple[int, int]
    focal_px: float
    centre_u: float
    horizon_v: float
    height_m: float

    def project(self, points_N3: Doubles) -> Doubles:
        """World points in front of the camera -> corners (N, 2) = (u, v), in whole pixels."""
        scale = self.focal_px / points_N3[:, 2]
        u = self.centre_u + points_N3[:, 0] * scale
        v = self.horizon_v - (points_N3[:, 1] - self.height_m) * scale
        return np.rint(np.stack([u, v], axis=1) - 0.5)


@dataclass(frozen=True)
class View:
    """What the sub-pixels see; a ray of depth 1 runs by (ray_u, ray_v) to the right and up."""

    face_HW: Ints
    depth_HW: Floats
    ray_u_W: Floats
    ray_v_H: Floats


class Polygons(NamedTuple):
    """Many polygons, or clouds of points, one after the other."""

    points_N3: Doubles
    starts_F: Indices
    counts_F: Indices

    @staticmethod
    def of(polygons: Sequence[Sequence[Point]]) -> "Polygons":
        counts_F = np.array([len(polygon) for polygon in polygons], dtype=np.intp)
        points_N3 = np.array([point for polygon in polygons for point in polygon], dtype=np.float64)
        return Polygons(points_N3, np.cumsum(counts_F) - counts_F, counts_F)

    def nearest_z(self) -> Doubles:
        return np.minimum.reduceat(self.points_N3[:, 2], self.starts_F)

    def farthest_z(self) -> Doubles:
        return np.maximum.reduceat(self.points_N3[:, 2], self.starts_F)

    def polygon(self, i: int) -> slice:
        return slice(self.starts_F[i], self.starts_F[i] + self.counts_F[i])


def see(scene: Scene, camera: Camera) -> tuple[View, Doubles]:
    height, width = camera.size
    ray_u_W = (np.arange(width, dtype=np.float32) + np.float32(0.5 - camera.centre_u)) / np.float32(camera.focal_px)
    ray_v_H = (np.float32(camera.horizon_v - 0.5) - np.arange(height, dtype=np.float32)) / np.float32(camera.focal_px)
    faces = Polygons.of([face.points for face in scene.faces])
    face_HW = _draw_faces(scene, faces, camera)
    normals_F3, offsets_F = _planes(faces, camera.height_m)
    ground_H1 = np.minimum(np.float32(camera.height_m) / np.maximum(-ray_v_H, np.float32(1e-6)), np.float32(FAR_M))[
        :, None
    ]
    depth_HW = np.where(face_HW == SKY_ID, np.float32(FAR_M), ground_H1)
    row_P, column_P = np.nonzero(face_HW >= FIRST_FACE_ID)
    face_P = face_HW[row_P, column_P] - FIRST_FACE_ID
    plane_F4 = np.column_stack([normals_F3, offsets_F]).astype(np.float32)
    nx_P, ny_P, nz_P, offset_P = plane_F4.T[:, face_P]
    facing_P = nx_P * ray_u_W[column_P] + ny_P * ray_v_H[row_P] + nz_P
    facing_P[np.abs(facing_P) < 1e-6] = 1e-6
    low_F, high_F = (np.maximum(z_F, NEAR_M).astype(np.float32) for z_F in (faces.nearest_z(), faces.farthest_z()))
    depth_HW[row_P, column_P] = np.clip(offset_P / facing_P, low_F[face_P], high_F[face_P])
    return View(face_HW, depth_HW, ray_u_W, ray_v_H), normals_F3


def _draw_faces(scene: Scene, faces: Polygons, camera: Camera) -> Ints:
    height, width = camera.size
    canvas = Image.new("I", (width, height), SKY_ID)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([0, round(camera.horizon_v), width, height], fill=GROUND_ID)
    corners_N2, whole_F, shown_F = _place(faces, camera)
    for i in sorted(np.flatnonzero(shown_F).tolist(), key=lambda i: -scene.faces[i].distance_m):
        points = faces.polygon(i)
        corners_K2 = corners_N2[points] if whole_F[i] else _clipped(faces.points_N3[points], camera)
        if len(corners_K2) >= 3:
            draw.polygon(corners_K2.ravel().tolist(), fill=FIRST_FACE_ID + i)
    return np.array(canvas, dtype=np.int32)


def _place(polygons: Polygons, camera: Camera) -> tuple[Doubles, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """-> corners in pixels; which polygons lie wholly before the camera; which may be seen."""
    whole_F = polygons.nearest_z() >= NEAR_M
    before_N3 = polygons.points_N3.copy()
    before_N3[:, 2] = np.maximum(before_N3[:, 2], NEAR_M)
    corners_N2 = camera.project(before_N3)
    low_F2 = np.minimum.reduceat(corners_N2, polygons.starts_F)
    high_F2 = np.maximum.reduceat(corners_N2, polygons.starts_F)
    inside_F = (high_F2 >= 0).all(axis=1) & (low_F2 <= camera.size[::-1]).all(axis=1)
    return corners_N2, whole_F, np.where(whole_F, inside_F, polygons.farthest_z() > NEAR_M)


def _clipped(points_K3: Doubles, camera: Camera) -> Doubles:
    """The picture of a polygon that reaches behind the camera (Sutherland-Hodgman at the near plane)."""
    kept: list[Doubles] = []
    for p, q in zip(points_K3, np.roll(points_K3, -1, axis=0), strict=True):
        if p[2] >= NEAR_M:
            kept.append(p)
        if (p[2] >= NEAR_M) != (q[2] >= NEAR_M):
            kept.append(p + (q - p) * (NEAR_M - p[2]) / (q[2] - p[2]))
    return camera.project(np.array(kept)) if len(kept) >= 3 else np.empty((0, 2))


def _planes(faces: Polygons, height_m: float) -> tuple[Doubles, Doubles]:
    """Unit normals towards the camera (Newell's method) and offsets n·p, with the camera at the origin."""
    points_N3, starts_F, counts_F = faces
    following = np.arange(len(points_N3)) + 1
    following[starts_F + counts_F - 1] = starts_F
    next_N3 = points_N3[following]
    x, y, z = (points_N3 - next_N3).T
    sx, sy, sz = (points_N3 + next_N3).T
    area_F3 = np.add.reduceat(np.stack([y * sz, z * sx, x * sy], axis=1), starts_F)
    normals_F3 = area_F3 / np.maximum(np.linalg.norm(area_F3, axis=1, keepdims=True), 1e-9)
    centres_F3 = np.add.reduceat(points_N3, starts_F) / counts_F[:, None] - np.array([0.0, height_m, 0.0])
    offsets_F = (normals_F3 * centres_F3).sum(axis=1)
    normals_F3[offsets_F > 0] *= -1.0
    return normals_F3, -np.abs(offsets_F)


# --- Shadows on the ground --------------------------------------------------------------------------------------------


def shadow_mask(clouds: Sequence[Sequence[Point]], to_sun: tuple[float, float, float], camera: Camera) -> Floats:
    """How far (0 … 1) each sub-pixel of the ground lies in the shadow of the convex clouds; flat."""
    canvas = Image.new("L", camera.size[::-1], 0)
    near = [cloud for cloud in clouds if cloud[0][2] < SHADOWS_WITHIN_M]
    if near:
        _draw_shadows(ImageDraw.Draw(canvas), _cast(Polygons.of(near), to_sun), camera)
    soft = canvas.filter(ImageFilter.BoxBlur(camera.size[0] / 200))
    return np.asarray(soft, dtype=np.float32).ravel() / np.float32(255.0)


def _cast(clouds: Polygons, to_sun: tuple[float, float, float]) -> Polygons:
    """The clouds' points, moved along the light onto the ground."""
    x_N, y_N, z_N = clouds.points_N3.T
    x_N, z_N = x_N - y_N * (to_sun[0] / to_sun[1]), z_N - y_N * (to_sun[2] / to_sun[1])
    return clouds._replace(points_N3=np.stack([x_N, np.zeros_like(x_N), z_N], axis=1))


def _draw_shadows(draw: ImageDraw.ImageDraw, shadows: Polygons, camera: Camera) -> None:
    corners_N2, whole_F, shown_F = _place(shadows, camera)
    corners_N2 = np.clip(corners_N2, -FARTHEST_PX, FARTHEST_PX)
    for i in np.flatnonzero(shown_F).tolist():
        points = shadows.polygon(i)
        if whole_F[i]:
            outline = _around(corners_N2[points])
        else:
            on_ground = _around(shadows.points_N3[points][:, ::2])
            corners_K2 = _clipped(np.array([(x, 0.0, z) for x, z in on_ground]), camera)
            outline = np.clip(corners_K2, -FARTHEST_PX, FARTHEST_PX).tolist()
        if len(outline) >= 3:
            draw.polygon(outline, fill=255)


def _around(points_K2: Doubles) -> list[Pixel]:
    """The outline of a shadow. That of a flat quadrangle is one already: projections keep the order of its corners."""
    points: list[Pixel] = [(a, b) for a, b in points_K2.tolist()]
    return points if len(points) == 4 else hull(set(points))


def hull(points: set[Pixel]) -> list[Pixel]:
    """The convex hull (Andrew's monotone chain)."""
    ordered = sorted(points)
    return _chain(ordered) + _chain(ordered[::-1])


def _chain(points: list[Pixel]) -> list[Pixel]:
    """Half of the hull, without its last point."""
    kept: list[Pixel] = []
    for x, y in points:
        while len(kept) >= 2:
            (ox, oy), (ax, ay) = kept[-2], kept[-1]
            if (ax - ox) * (y - oy) > (ay - oy) * (x - ox):
                break
            kept.pop()
        kept.append((x, y))
    return kept[:-1]
