"""open_clip models as one piece."""

import copy
import json
import pickle
from pathlib import Path

import open_clip
import pytest
import torch

from methods.adaptformer import AdaptFormer
from methods.full import Full
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.hub import answers
from petl_bench.inputs import Words
from petl_bench.storage.adapters import Adapter
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import features, make_batch, train
from tests.inputs import clips_of

RESNET = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
#: random weights are far from what the statistics are those of
RATE = 1e-4


@pytest.fixture
def backbone(tmp_path: Path) -> WholeCLIP:
    path = tmp_path / "tiny-resnet.json"
    path.write_text(json.dumps(RESNET), encoding="utf-8")
    return WholeCLIP(str(path), None)


def test_features_are_those_of_open_clip(backbone: WholeCLIP) -> None:
    backbone.eval()
    frames = torch.randn(1, 2, 3, 32, 32)
    captions = ["a red circle", "it"]
    ids, mask, _ = backbone.spec.tokenize(captions, 8)
    assert ids.shape == (2, 40)
    assert mask.sum(1).tolist() == [5, 3]
    with torch.no_grad():
        video = backbone.encode_video(clips_of(frames, torch.ones(1, 2, dtype=torch.bool)))
        text = backbone.encode_text(Words(ids, mask))
        images = backbone.model.encode_image(frames[0], normalize=True)
        words = backbone.model.encode_text(open_clip.tokenize(captions, 40), normalize=True)
    assert torch.allclose(video.pooled[0], torch.nn.functional.normalize(images.mean(0), dim=0), atol=1e-6)
    assert torch.allclose(text.pooled, words, atol=1e-6)


def test_everything_is_counted_once(backbone: WholeCLIP) -> None:
    method = Full(backbone=backbone, task=Retrieval()).adapt()
    counts = method.parameter_counts()
    assert counts["trainable"] == counts["total"] == sum(p.numel() for p in backbone.model.parameters())
    assert counts["other"] == 1, "the logit scale"


def test_full_fine_tuning_trains_it(backbone: WholeCLIP) -> None:
    method = Full(backbone=backbone, task=Retrieval()).adapt()
    batch = make_batch(backbone, frames=3)
    before = features(method, batch)[0]
    train(method, batch, 1, RATE)
    assert features(method, batch)[0].isfinite().all()
    assert not features(method, batch)[0].allclose(before)


def test_an_adapter_is_all_that_training_changes(backbone: WholeCLIP) -> None:
    """Statistics of batches are in no adapter, and would be those of one process."""
    other = copy.deepcopy(backbone)
    method = Full(backbone=backbone, task=Retrieval()).adapt()
    batch = make_batch(backbone, frames=3)
    train(method, batch, 1, RATE)
    again = Full(backbone=other, task=Retrieval()).adapt()
    again.load_trained_state(Adapter(method.trained_state(), method.identity()), "here")
    assert all(one.equal(two) for one, two in zip(features(method, batch), features(again, batch), strict=True))


def test_a_method_that_needs_blocks_is_refused(backbone: WholeCLIP) -> None:
    with pytest.raises(UsageError, match="only ZeroShot and Full"):
        AdaptFormer(backbone=backbone, task=Retrieval()).adapt()


def test_a_method_that_needs_projections_is_refused(backbone: WholeCLIP) -> None:
    with pytest.raises(UsageError, match="projections"):
        backbone.projections()


def test_the_tokeniser_travels_to_workers(backbone: WholeCLIP) -> None:
    spec = pickle.loads(pickle.dumps(backbone.spec))
    assert spec.tokenize(["it"], 8)[0].equal(backbone.spec.tokenize(["it"], 8)[0])


def test_a_tower_from_the_hub_needs_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", offline)
    monkeypatch.setattr(answers, "_require_answer", lambda repository: None)
    with pytest.raises(CheckpointError, match=r"roberta-base from the hub.*no network"):
        WholeCLIP("roberta-ViT-B-32", None)
