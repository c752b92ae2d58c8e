"""The tokeniser of BLIP: its ids, its special tokens, and its own small vocabulary."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from petl_bench.backbones.blip import wordpiece
from petl_bench.backbones.blip.wordpiece import WordPiece
from petl_bench.blip_words import pre_caption
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.fixture import scenes as drawn
from petl_bench.hub import answers
from tests.unit.backbones.blip_reference import VOCABULARY

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "man", "play", "##ing", "##s", "?", "a"]


#: ids of [SEP] and [PAD]
ENDS = (3, 0)


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tokenizer(vocabulary: Path) -> WordPiece:
    return WordPiece(str(vocabulary), partial(pre_caption, max_words=3), len(PIECES), *ENDS)


def test_ids_and_mask(tokenizer: WordPiece) -> None:
    ids, mask = tokenizer(["A man plays!", "", "a a a a a", "a dog"], 6)
    assert ids.tolist() == [[2, 10, 5, 6, 8, 3], [2, 3, 0, 0, 0, 0], [2, 10, 10, 10, 3, 0], [2, 10, 1, 3, 0, 0]]
    assert mask.equal(ids != 0)


def test_longer_texts_are_cut_before_their_end(tokenizer: WordPiece) -> None:
    assert tokenizer.encode(["playing a man"], 4)[0].tolist() == [[2, 6, 7, 3]]


def test_encode_does_not_clean(tokenizer: WordPiece) -> None:
    ids, _ = tokenizer.encode(["a a a a ! [DEC] [ENC]"], 9)
    assert ids.tolist() == [[2, 10, 10, 10, 10, 1, 11, 12, 3]]


def test_decode_leaves_special_tokens_out(tokenizer: WordPiece) -> None:
    ids, _ = tokenizer.encode(["[DEC] a man playing ?", "a"], 9)
    assert tokenizer.decode(ids) == ["a man playing?", "a"]


def test_decode_joins_apostrophes(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*PIECES, "'", "don", "t"]) + "\n", encoding="utf-8")
    tokenizer = WordPiece(str(path), str, len(PIECES) + 3, *ENDS)
    ids, _ = tokenizer.encode(["don't play"], 9)
    assert tokenizer.decode(ids) == ["don't play"]


def test_copies_for_other_processes(tokenizer: WordPiece) -> None:
    ids, mask = tokenizer(["a man"], 5)
    again = pickle.loads(pickle.dumps(tokenizer))(["a man"], 5)
    assert again[0].equal(ids)
    assert again[1].equal(mask)


def test_folder(tokenizer: WordPiece, vocabulary: Path) -> None:
    of_folder = WordPiece(str(vocabulary.parent), tokenizer.clean, tokenizer.dec_token, *ENDS)
    assert of_folder(["a man plays"], 8)[0].equal(tokenizer(["a man plays"], 8)[0])


def test_hub_name_is_looked_up_in_the_cache_first(
    tokenizer: WordPiece, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def download(name: str, file: str) -> str:
        asked.append((f"{name}/{file}", constants.HF_HUB_OFFLINE))
        if constants.HF_HUB_OFFLINE:
            raise LocalEntryNotFoundError("not cached")
        return str(vocabulary)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(answers, "_require_answer", lambda repository: None)
    of_hub = WordPiece("someone/bert", tokenizer.clean, tokenizer.dec_token, *ENDS)
    assert of_hub(["a man"], 5)[0].equal(tokenizer(["a man"], 5)[0])
    assert asked == [("someone/bert/vocab.txt", True), ("someone/bert/vocab.txt", False)]


def test_vocabulary_of_another_size(vocabulary: Path) -> None:
    with pytest.raises(UsageError, match=r"has 11 pieces before .* embeddings for 30522"):
        WordPiece(str(vocabulary), str, 30522, *ENDS)(["a"], 4)


@pytest.mark.parametrize(("ends", "told"), [((102, 0), "sep_token_id .* is 102, .* says 3"), ((3, 1), "pad_token_id")])
def test_vocabulary_with_another_end_or_padding(ends: tuple[int, int], told: str, vocabulary: Path) -> None:
    with pytest.raises(UsageError, match=told):
        WordPiece(str(vocabulary), str, len(PIECES), *ends)(["a"], 4)


@pytest.mark.parametrize("error", [OSError("no network\nat all"), ValueError("hub")])
def test_vocabulary_that_cannot_be_had(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Path:
        raise error

    monkeypatch.setattr(wordpiece, "_from_hub", fail)
    with pytest.raises(CheckpointError) as caught:
        WordPiece("nobody/none", str, 3, *ENDS)(["a"], 4)
    message = str(caught.value)
    assert "\n" not in message
    assert "'nobody/none'" in message
    assert "vocab.txt" in message


def test_vocabulary_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"vocab\.txt"):
        WordPiece(str(path), str, 3, *ENDS)(["a"], 4)


def test_tiny_vocabulary_has_the_words_of_the_fixture_and_spells_others() -> None:
    tokenizer = WordPiece(str(VOCABULARY), partial(pre_caption, max_words=30), 173, *ENDS)
    rng = np.random.default_rng(0)
    scenes = [drawn.Scene("purple", "triangle", first, second) for first, second in drawn._motions()]
    stills = [drawn.Still("white", "square", place) for place in drawn.PLACES]
    captions = [c for scene in scenes for c in drawn.captions_of(rng, scene, len(drawn.TEMPLATES))]
    captions += [c for still in stills for c in drawn.still_captions(rng, still, len(drawn.STILL_TEMPLATES))]
    ids, mask = tokenizer(captions, 32)
    words = [len(pre_caption(c, 30).replace(",", " ,").split()) for c in captions]
    assert (mask.sum(1) - 2).tolist() == words  # a colon is cleaned away, a comma is a token
    other, _ = tokenizer(["a zebra, 42 years old!"], 32)
    assert not (ids == 1).any()
    assert not (other == 1).any()
    assert tokenizer.decode(other) == ["a zebra, 42 years old"]
