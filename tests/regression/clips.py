"""The clips that recipes train on and are tested with: diagnostic ones, every second one cut."""

from __future__ import annotations

from pathlib import Path

from petl_bench.data.video import open_video
from petl_bench.fixture.diagnostic.layout import write_diagnostic
from petl_bench.fixture.scenes import encode

TRAINED_ON, TESTED_WITH = 48, 64
#: about each clip
QUESTIONS = 3
#: frames of every second clip: fewer than a recipe reads, so that its mask hides some
_FEW = 5


def write_clips(folder: Path) -> None:
    """Writes them with captions and questions.

    Of a test clip and its reverse, which follow each other, one is cut: were they the same frames, many ranks would
    follow from how sums are rounded.

    Args:
        folder: to create.
    """
    write_diagnostic(folder, train_videos=TRAINED_ON, test_videos=TESTED_WITH)
    for number in range(0, TRAINED_ON + TESTED_WITH, 2):
        _cut(folder / "videos" / f"video{number}.mp4")


def _cut(path: Path) -> None:
    with open_video(path) as video:
        frames = video.read(range(_FEW))
        fps = round(video.info.fps)
    path.unlink()
    encode(path, frames, fps)
