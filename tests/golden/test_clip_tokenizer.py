"""CLIP's tokens equal those of CLIP4Clip and MV-Adapter."""

from pathlib import Path

import pytest
import torch

from petl_bench.bpe import clip_tokenize
from tests.golden.helpers import Case, golden_files


@pytest.mark.parametrize("path", golden_files("clip_tokenizer*"))
def test_ids_and_mask(path: Path) -> None:
    """Every caption at every length; the mask is CLIP4Clip's (a symbol of id 0 is a word, not padding)."""
    rows = Case(path).json["rows"]
    captions = [row["text"] for row in rows]
    lengths = sorted(rows[0]["ids"], key=int)
    assert lengths
    for length in lengths:
        ids, mask = clip_tokenize(captions, int(length))
        for place, row in enumerate(rows):
            expected = torch.tensor(row["ids"][length])
            padded = torch.nn.functional.pad(expected, (0, int(length) - len(expected)))
            assert torch.equal(ids[place], padded), (length, row["text"])
            real = torch.arange(int(length)) < row["mask_clip4clip"][length]
            assert torch.equal(mask[place], real), (length, row["text"])
