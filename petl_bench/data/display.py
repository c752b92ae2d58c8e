"""How a video is turned or mirrored for display, and its pictures as they are shown.

A display matrix maps the stored point (x, y) to (a x + c y, b x + d y), with y downwards (ISO/IEC 14496-12, 6.2.2; the
first two columns of FFmpeg's `AV_FRAME_DATA_DISPLAYMATRIX`). Eight of them keep pixels: turns by 0, 90, 180 and 270
degrees, each with and without a mirror. Lengths (pixel shape) and offsets change no pixel and are left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import av
import numpy as np

#: how far from a right angle a matrix may be, as a tangent: one degree, where FFmpeg's own rotation begins
_SLANT = math.tan(math.radians(1))


class Orientation(NamedTuple):
    """What is done to a stored picture: turned counterclockwise by 0, 90, 180 or 270 degrees, then mirrored.

    `mirrored` exchanges left and right.
    """

    turned: int = 0
    mirrored: bool = False

    def __str__(self) -> str:
        return _NAMES[self]

    def shown(self, picture: np.ndarray) -> np.ndarray:
        """The picture (H, W, C) as it is shown; a view."""
        turned = np.rot90(picture, self.turned // 90)
        return turned[:, ::-1] if self.mirrored else turned


_NAMES = {
    Orientation(0): "as stored",
    Orientation(90): "turned left by 90",
    Orientation(180): "turned by 180",
    Orientation(270): "turned right by 90",
    Orientation(0, True): "mirrored left to right",
    Orientation(180, True): "mirrored top to bottom",
    Orientation(270, True): "transposed",
    Orientation(90, True): "transposed and turned by 180",
}


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation that a decoded frame is to be shown in.

    Raises:
        ValueError: it is slanted or sheared, so that no pixel keeps its neighbours.
    """
    try:
        matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)  # type: ignore[literal-required]
    except KeyError:
        return Orientation()
    except ValueError:  # PyAV lists no side data if it does not know a kind of it (EXIF, views), but tells the angle
        return Orientation(round(frame.rotation / 90) * 90 % 360)
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    return orientation(a, b, c, d)


def orientation(a: int, b: int, c: int, d: int) -> Orientation:
    """The orientation that a display matrix stands for.

    Args:
        a: to the right per stored column.
        b: downwards per stored column.
        c: to the right per stored row.
        d: downwards per stored row.

    Raises:
        ValueError: the matrix is slanted, sheared, or maps the picture to a line.
    """
    if not (a or b or c or d):  # written by some muxers for "none"
        return Orientation()
    if a and d and max(abs(b), abs(c)) <= _SLANT * min(abs(a), abs(d)):
        if d > 0:
            return Orientation(0, a < 0)
        return Orientation(180, a > 0)
    if b and c and max(abs(a), abs(d)) <= _SLANT * min(abs(b), abs(c)):
        if b < 0:
            return Orientation(90, c < 0)
        return Orientation(270, c > 0)
    angle = round(math.degrees(math.atan2(b, a)))
    raise ValueError(
        f"its display matrix ({a} {b} {c} {d}, about {angle} degrees clockwise) is neither a quarter turn nor a mirror "
        "of one: re-encode the video with the turn applied"
    )
