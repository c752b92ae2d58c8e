"""When the frames of a video are shown, from the times that the frames themselves carry.

A container's header names one rate for all frames. That word is taken only where the frames' own times agree with it:
in Matroska, WebM, FLV, transport streams, ASF and GIF it is a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

#: seconds that a frame of a constant rate may be away from where the rate puts it (and never more than a frame)
_JITTER = 0.1
#: a step longer than this, in seconds and in usual steps, is a cut where the clock is that of a broadcast
_CUT_SECONDS, _CUT_STEPS = 10.0, 10.0


class Timing(NamedTuple):
    """When frames are shown.

    Attributes:
        fps: frames per second: the constant rate, or the mean one; 0 if the times are unknown.
        times: (n + 1,) seconds after the first frame at which each frame begins, and at which the last one ends; None
            where the rate is constant, so that frame i begins at i / fps, and where the times are unknown.
        problem: why they are unknown; empty if they are not.
    """

    fps: float
    times: np.ndarray | None = None
    problem: str = ""


def timing(
    begins: Sequence[int | None],
    last: int | None,
    time_base: Fraction | None,
    rate: Fraction | None,
    cuts: bool = False,
) -> Timing:
    """The timing of frames in the order in which they are shown.

    Args:
        begins: (n,) when each begins, in units of `time_base`.
        last: how long the last one is shown, in units of `time_base`; None or 0 if that is not known.
        time_base: seconds.
        rate: frames per second as the header says.
        cuts: whether a long step is a cut, because the clock is not the video's own.
    """
    missing = begins.count(None)
    if missing or not begins or not time_base:
        return Timing(0.0, problem=f"{missing} of {len(begins)} frames carry no time")
    seconds = _since_first(begins, time_base)
    steps = np.diff(seconds)
    if (steps < 0).any():
        return Timing(0.0, problem=f"the times of its frames go back after frame {int((steps < 0).argmax())}")
    if cuts and len(steps) and steps.max() > max(_CUT_SECONDS, _CUT_STEPS * float(np.median(steps))):
        jump, after = float(steps.max()), int(steps.argmax())
        return Timing(0.0, problem=f"the times of its frames jump by {jump:.0f} seconds after frame {after}")
    return constant(begins, time_base, rate) or _varying(seconds, (last or 0) * float(time_base), rate)


def constant(begins: Sequence[int | None], time_base: Fraction, rate: Fraction | None) -> Timing | None:
    """The timing of frames whose times are those of the rate; None if they are not. The arguments are `timing`'s."""
    if not rate:
        return None
    away = np.abs(_since_first(begins, time_base) - np.arange(len(begins)) / float(rate)).max()
    return Timing(float(rate)) if away <= min(1 / rate, _JITTER) else None


def evenly_continued(begins: Sequence[int], more: int) -> list[int]:
    """Times with so many more at the end, as far apart as most."""
    if not begins or not more:
        return [*begins]
    step = int(np.median(np.diff(begins))) if len(begins) > 1 else 1
    return [*begins, *(begins[-1] + step * place for place in range(1, more + 1))]


def _varying(seconds: np.ndarray, last: float, rate: Fraction | None) -> Timing:
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else float(1 / rate) if rate else 0.0
    times = np.append(seconds, seconds[-1] + (last or usual or 1.0))
    return Timing(len(seconds) / float(times[-1]), times)


def _since_first(begins: Sequence[int | None], time_base: Fraction) -> np.ndarray:
    first = begins[0] or 0
    return np.array([(begin or 0) - first for begin in begins], np.float64) * float(time_base)
