"""What `pretrain-fixture` writes: open_clip and transformers read it as we do, and what it refuses is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.inputs import Words
from petl_bench.main import main
from petl_bench.pretraining import folder as folders
from petl_bench.pretraining.recipe import as_clips
from tests.shared import REPOSITORY

TEXTS = ["a small red star above a big blue ring", "is there a moon?"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of both backbones after two steps, by their names."""
    root = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "_EXAMINED", 8)
        for name in folders.SMALL:
            assert main(["pretrain-fixture", name, str(root / name), "--steps=2", "--stills=16", "--batch=8"]) == 0
    return root


def pictures() -> Tensor:
    """Normalised (2, 3, 64, 64)."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def starting_with(token: int, ids: Tensor) -> Tensor:
    """Ids whose first one is another; transformers leaves that to who calls it."""
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], 1)


@torch.no_grad()
def test_open_clip_reads_the_clip_as_we_do(written: Path) -> None:
    import open_clip

    ours = CLIP("small", str(written / "clip_small")).eval()
    theirs: Any = open_clip.create_model(f"local-dir:{written / 'clip_small'}").eval()
    ids, words, _ = ours.spec.tokenize(TEXTS, 20)
    padded = torch.nn.functional.pad(ids, (0, theirs.context_length - ids.shape[1]))
    found = ours.encode_text(Words(ids, words)).pooled
    torch.testing.assert_close(found, unit(theirs.encode_text(padded)), atol=1e-5, rtol=1e-4)
    frames = pictures()
    video = ours.encode_video(as_clips(frames)).pooled
    torch.testing.assert_close(unit(video), unit(theirs.encode_image(frames)), atol=1e-5, rtol=1e-4)
    assert torch.equal(ours.logit_scale, theirs.logit_scale)


@torch.no_grad()
def test_transformers_reads_the_blip_for_retrieval_as_we_do(written: Path) -> None:
    from transformers import BlipForImageTextRetrieval

    ours = BLIP("small", str(written / "blip_small")).eval()
    theirs: Any = BlipForImageTextRetrieval.from_pretrained(written / "blip_small", dtype=torch.float32).eval()
    ids, words, _ = ours.spec.tokenize(TEXTS, 20)
    frames = pictures()
    video, memory = ours.encode_video_tokens(as_clips(frames))
    found = ours.match(Words(ids, words), memory)
    matched = theirs(starting_with(ours.enc_token, ids), frames, True, words.long()).itm_score
    torch.testing.assert_close(found, matched, atol=1e-4, rtol=1e-4)
    cosines = unit(video.pooled) @ unit(ours.encode_text(Words(ids, words)).pooled).T
    torch.testing.assert_close(cosines, theirs(ids, frames, False, words.long()).itm_score, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_transformers_reads_the_blip_for_answers_as_we_do(written: Path) -> None:
    from transformers import BlipForQuestionAnswering

    from petl_bench.nn.transformer import Memory

    ours = BLIPVQA("small", str(written / "blip_small")).eval()
    theirs: Any = BlipForQuestionAnswering.from_pretrained(written / "blip_small", dtype=torch.float32).eval()
    ids, words, _ = ours.spec.tokenize(TEXTS, 20)
    _, memory = ours.encode_video_tokens(as_clips(pictures()))
    fused = ours.fuse(Words(ids, words), memory)
    frames = theirs.vision_model(pixel_values=pictures())[0]
    asked = starting_with(ours.enc_token, ids)
    states = theirs.text_encoder(asked, words.long(), encoder_hidden_states=frames).last_hidden_state
    torch.testing.assert_close(fused[words], states[words], atol=1e-4, rtol=1e-4)
    answers = ours.answer_words(["red", "blue star"])
    found = ours.decode(answers, Memory(fused, torch.ones_like(words)))  # transformers drops that mask
    started = starting_with(ours.dec_token, answers.ids)
    decoded = theirs.text_decoder(started, answers.mask.long(), encoder_hidden_states=fused).logits
    torch.testing.assert_close(found[answers.mask], decoded[answers.mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", folders.SMALL)
def test_the_card_says_how_and_what(name: str, written: Path) -> None:
    card = json.loads((written / name / "card.json").read_text(encoding="utf-8"))
    assert card["recipe"] == {**folders.SMALL[name].recipe._asdict(), "steps": 2, "stills": 16, "batch": 8}
    assert card["held_out"]["stills"] == 8
    page = (written / name / "README.md").read_text(encoding="utf-8")
    assert all(f"| {what} | {value} |" in page for what, value in card["held_out"]["percent"].items())
    assert {path.name for path in (written / name).iterdir()} == {
        path.name for path in (REPOSITORY / "petl_bench" / "backbones" / "small" / name).iterdir()
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["clip_small", "full"], "full exists and is not an empty folder; choose another"),
        (["clip_small", "new", "--stills=15"], "--stills 15: give an even number, since stills come in twins"),
        (["clip_small", "new", "--batch=5"], "--batch 5: give an even number, since stills come in twins"),
        (["blip_small", "new", "--stills=90"], "--batch 96: there are 90 stills only; give more by --stills"),
    ],
)
def test_what_is_refused_is_one_line(
    arguments: list[str], told: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folder / "full").mkdir()
    (own_folder / "full" / "mine").touch()
    assert main(["pretrain-fixture", *arguments]) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert len(output.err.splitlines()) == 1
    assert not (own_folder / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["clip_smal", "new"], "invalid choice: 'clip_smal'"),
        (["clip_small", "new", "--steps=0"], "argument --steps: expected a whole number from 1"),
        (["clip_small", "new", "--lr=nan"], "argument --lr: expected "),
    ],
)
def test_arguments_that_are_none(
    arguments: list[str], told: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["pretrain-fixture", *arguments])
    assert told in capsys.readouterr().err
    assert not list(own_folder.iterdir())
