"""The weights that the package carries: what their cards say, and that `pretrained` takes them by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import petl_bench.backbones
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.weights import packaged_weights
from petl_bench.cli.named_configs import find_config
from petl_bench.errors import UsageError
from petl_bench.pretraining import blip, clip
from petl_bench.pretraining.folder import SMALL
from petl_bench.pretraining.folder import _readme as page_of
from petl_bench.pretraining.stills import HELD_OUT, Stills, stills
from petl_bench.storage.files import file_sha256
from tests.shared import REPOSITORY

FOLDER = Path(petl_bench.backbones.__file__).parent / "small"
MOST_BYTES = 5_300_000


@pytest.fixture(scope="module")
def shown() -> Stills:
    """Stills that nothing was trained on."""
    return stills(100, 0, HELD_OUT)


def test_they_are_those_that_can_be_trained() -> None:
    assert packaged_weights() == tuple(sorted(SMALL))


@pytest.mark.parametrize("name", SMALL)
def test_card_and_page_agree_with_the_recipe(name: str) -> None:
    card = json.loads((FOLDER / name / "card.json").read_text(encoding="utf-8"))
    page = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert (card["name"], card["recipe"]) == (name, SMALL[name].recipe._asdict())
    assert page == page_of(SMALL[name], card)
    assert (FOLDER / name / SMALL[name].file).stat().st_size <= MOST_BYTES


def test_the_vocabulary_has_the_words_of_all_captions_and_questions(shown: Stills) -> None:
    pieces = (FOLDER / "blip_small" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    backbone = BLIP("small", None)
    assert Path(backbone.tokenizer.vocabulary).samefile(FOLDER / "blip_small" / "vocab.txt")
    assert backbone.config["text_config"]["bos_token_id"] == len(pieces) == len(set(pieces))
    texts = {text for own in shown.captions for text in own} | {one for own in shown.questions for one, _ in own}
    texts |= {answer for own in shown.questions for _, answer in own}
    words = {word.strip(",?") for text in texts for word in text.split()}
    assert not words - set(pieces), "none of them is spelt letter by letter"


def test_the_clip_knows_stills_that_it_has_not_seen(shown: Stills) -> None:
    backbone = CLIP("small", "clip_small").eval()
    path = FOLDER / "clip_small" / SMALL["clip_small"].file
    assert (backbone.weights["source"], backbone.weights["sha256"]) == ("clip_small", file_sha256(path))
    assert clip.examine(backbone, shown)["twins"] > 60


def test_the_blip_knows_stills_that_it_has_not_seen(shown: Stills) -> None:
    backbones = BLIP("small", "blip_small").eval(), BLIPVQA("small", "blip_small").eval()
    assert torch.equal(backbones[0].vision.ln_post.weight, backbones[1].vision.ln_post.weight)
    found = blip.examine(
        *backbones, Stills(shown.pixels[:40], shown.captions[:40], shown.questions[:40], shown.looks[:40])
    )
    assert found["twins"] > 60
    assert found["answers"] > 25


@pytest.mark.parametrize(("kind", "name"), [(CLIP, "clip_smal"), (BLIP, "blip_smal")])
def test_another_name_is_told_what_there_is(kind: type[CLIP] | type[BLIP], name: str) -> None:
    with pytest.raises(UsageError, match=f"pretrained '{name}'.*of the package .blip_small, clip_small.") as caught:
        kind("small", name)
    assert "\n" not in str(caught.value)


def test_a_file_of_that_name_in_the_folder_is_not_taken(own_folder: Path) -> None:
    """What the package carries has its name for itself, wherever one works; a path says `./clip_small`."""
    (own_folder / "clip_small").mkdir()
    assert np.isfinite(CLIP("small", "clip_small").logit_scale.item())


def test_the_readme_knows_them() -> None:
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert all(f"{name}.yaml" in page for name in ("backbone/clip_small", "blip_small", "blip_small_qa"))
    assert all(find_config(f"backbone/{name}") for name in ("clip_small", "blip_small", "blip_small_qa"))
