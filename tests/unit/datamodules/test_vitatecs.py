"""VITATECS: aspects and sources, which files are there, and what is wrong with a record."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datamodules.vitatecs import VITATECS
from petl_bench.data.describe import describe
from petl_bench.errors import DataError, MissingFileError
from petl_bench.fixture import WRITERS
from tests.unit.datamodules.test_msrvtt_qa import SPEC

OF_MSRVTT = {
    "src_dataset": "MSRVTT",
    "video_name": "video9770.mp4",
    "caption": " a person\nconnects something ",
    "counterfactual": "a person disconnects something",
    "aspect": "Direction",
}
OF_VATEX = OF_MSRVTT | {"src_dataset": "VATEX", "video_name": "-pQOH_a3eq8_000003_000013.mp4"}


def read(folder: Path, *records: dict[str, Any], **options: Any) -> VITATECS:
    (folder / "Direction.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return VITATECS(folder, **{"aspect": "direction", "partial": True, "spec": SPEC, "max_words": 12, **options})


def test_a_pair(tmp_path: Path) -> None:
    first, second = read(tmp_path, OF_MSRVTT, OF_VATEX, OF_MSRVTT).samples("test")
    assert (first.video, second.video) == ("video9770", "-pQOH_a3eq8_000003_000013")
    assert [question.id for question in first.questions] == ["direction_0", "direction_2"]
    question = first.questions[0]
    assert (question.type, question.correct) == ("direction", 0)
    assert question.options == ("a person connects something", "a person disconnects something")


def test_the_clips_of_one_source(tmp_path: Path) -> None:
    data = read(tmp_path, OF_VATEX, OF_MSRVTT, source="msrvtt")
    (sample,) = data.samples("test")
    assert (sample.video, sample.questions[0].id) == ("video9770", "direction_1")  # numbered as in the file
    assert data.protocol.id == "vitatecs-direction-msrvtt/v1"
    assert data.samples("train") == data.samples("val") == []


def test_protocols(tmp_path: Path) -> None:
    counts = {
        ("all", "all"): ("vitatecs/v1", 13_838),
        ("all", "msrvtt"): ("vitatecs-msrvtt/v1", 5_399),
        ("direction", "all"): ("vitatecs-direction/v1", 3_800),
        ("intensity", "all"): ("vitatecs-intensity/v1", 779),
        ("sequence", "all"): ("vitatecs-sequence/v1", 151),
        ("localization", "all"): ("vitatecs-localization/v1", 1_053),
        ("compositionality", "all"): ("vitatecs-compositionality/v1", 1_450),
        ("type", "all"): ("vitatecs-type/v1", 6_605),
    }
    for (aspect, source), expected in counts.items():
        protocol = VITATECS(tmp_path, aspect=aspect, source=source).protocol  # type: ignore[arg-type]
        assert (protocol.id, protocol.captions["test"]) == expected
    assert VITATECS(tmp_path, aspect="type", source="vatex").protocol.captions == {}  # nobody says how many
    with pytest.raises(DataError, match="vitatecs-direction/v1: test split has 1 videos, expected 2646"):
        read(tmp_path, OF_MSRVTT, partial=False).samples("test")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    missing = "no Intensity.jsonl, Sequence.jsonl, Localization.jsonl, Compositionality.jsonl, Type.jsonl in"
    whole = read(tmp_path, OF_MSRVTT, aspect="all", partial=False)
    with pytest.raises(MissingFileError, match=missing):
        whole.samples("test")
    described = describe(whole)["splits"]["test"]
    assert described["videos"] == 1
    assert missing in described["missing"]
    with pytest.warns(UserWarning, match=r"Intensity.jsonl.* not there, and left out"):
        assert len(read(tmp_path, OF_MSRVTT, aspect="all").samples("test")) == 1
    (tmp_path / "Direction.jsonl").unlink()
    with pytest.raises(MissingFileError, match=r"no Direction\.jsonl, Intensity\.jsonl"):
        VITATECS(tmp_path, partial=True).samples("test")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"aspect": "Type"}, "'aspect' is 'Type', not that of the file, Direction"),
        ({"aspect": None}, "'aspect' is"),
        ({"src_dataset": "MSVD"}, "'src_dataset' is 'MSVD', not one of MSRVTT, VATEX"),
        ({"counterfactual": "a person connects  something"}, "option 'a person connects something' is given twice"),
        ({"counterfactual": " "}, "'counterfactual' is blank"),
        ({"caption": 3}, "'caption' is 3"),
        ({"video_name": "video9770"}, "'video_name' is 'video9770', not the name of a video file"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_with_its_line(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"Direction.jsonl, line 2: .*{told}"):
        read(tmp_path, OF_MSRVTT, OF_MSRVTT | changed).samples("test")


def test_line_ends_and_encodings(tmp_path: Path) -> None:
    data = read(tmp_path)
    text = json.dumps(OF_MSRVTT | {"caption": "a café"}, ensure_ascii=False)
    path = tmp_path / "Direction.jsonl"
    path.write_bytes(f"\ufeff{text}\r\n".encode())
    assert data.samples("test")[0].questions[0].choices[0] == "a café"
    for encoding in ("latin-1", "utf-16"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match=r"Direction\.jsonl.*UTF-8"):
            data.checked("test")


def test_generated_data_lie_in_two_folders(tmp_path: Path) -> None:
    WRITERS["vitatecs"](tmp_path / "made", train_videos=4, test_videos=2, size=32, seconds=1)
    data = VITATECS(tmp_path / "made", partial=True, spec=SPEC, max_words=12, num_workers=0)
    data.setup("test")
    assert sorted(path.parent.name for path in (clip.path for clip in data.clips())) == ["msrvtt", "vatex"]
    assert Counter(q.type for s in data.samples("test") for q in s.questions) == dict.fromkeys(
        ["direction", "intensity", "sequence", "localization", "compositionality", "type"], 2
    )


def test_the_real_files(shared: Path) -> None:
    root = shared / "data/annotations_2/vitatecs"
    for aspect, counts in {"direction": (2646, 3800), "intensity": (692, 779), "sequence": (150, 151)}.items():
        for source in ("all", "msrvtt", "vatex"):
            data = VITATECS(root, aspect=aspect, source=source, spec=SPEC, max_words=12)  # type: ignore[arg-type]
            samples = data.samples("test")  # counts are asserted
            if source == "all":
                assert (len(samples), sum(len(s.questions) for s in samples)) == counts
    with pytest.warns(UserWarning, match="Localization.jsonl, Compositionality.jsonl, Type.jsonl not there"):
        assert len(VITATECS(root, partial=True).samples("test")) == 3156
