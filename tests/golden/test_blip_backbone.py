"""BLIP's towers equal the official code: features, matching, contrastive and language modelling losses, gradients.

Cases `uni_bert__*` and `uni_bert_lm` have adapters in every layer: here only their embeddings are compared, the rest
belongs to the method (tests/golden/test_uniadapter*.py).
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from petl_bench.backbones.blip.model import BLIP
from petl_bench.inputs import Words
from tests.golden.helpers import Case, assert_gradient, assert_output, golden_files
from tests.golden.official_blip import architecture, build_blip, create, gradients, our_tensors
from tests.inputs import clips_of, tokens_of

#: dimensions of the towers that a case has not, so that a whole model can be built
TEXT = {
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
VISION = {"img_size": 8, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}


def copy_in(model: BLIP, official: dict[str, Tensor]) -> None:
    """Copies official weights that are only a part of ours."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in our_tensors(official).items():
            own[name].copy_(tensor)


def assert_gradients(model: BLIP, official: dict[str, Tensor]) -> None:
    ours, expected = gradients(model), our_tensors(official)
    for name, gradient in expected.items():
        assert_gradient(ours[name], gradient, name)


def one_frame(image: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) as clips of one frame, and their mask."""
    return image[:, None], torch.ones(len(image), 1, dtype=torch.bool)


@pytest.mark.parametrize("path", golden_files("uni_vit__plain*"))
def test_vision_tower(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    model = create(architecture(case.json["kwargs"], TEXT, dec_token=10), tmp_path).eval()
    copy_in(model, {f"visual_encoder.{name}": tensor for name, tensor in case.group("param").items()})
    image = case.tensors["in.image"].requires_grad_()
    clips, mask = one_frame(image)
    tokens = tokens_of(model, clips_of(clips, mask))
    assert_output(tokens[:, 0], case.tensors["out.tokens"], "tokens")
    (tokens[:, 0] * case.tensors["cot.tokens"]).sum().backward()
    official = case.group("grad")
    assert_gradient(image.grad, official.pop("in.image"), "image")
    assert len(official) == len(case.group("param"))
    assert_gradients(model, {f"visual_encoder.{name}": tensor for name, tensor in official.items()})


@pytest.mark.parametrize("path", golden_files("uni_bert__*"))
def test_text_embeddings(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    model = create(architecture(VISION, case.json["bert_config"], dec_token=10), tmp_path).eval()
    embeddings = {k: v for k, v in case.group("param").items() if is_embedding(k)}
    copy_in(model, {f"text_encoder.{name}": tensor for name, tensor in embeddings.items()})
    assert_output(model.text.embed(case.tensors["in.input_ids"]), case.tensors["out.hidden_0"], "embeddings")


def is_embedding(name: str) -> bool:
    return name.startswith("embeddings.") and not name.endswith("position_ids")


@pytest.mark.parametrize("path", golden_files("blip_video_retrieval_eval*"))
def test_video_retrieval(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    model = build_blip(case, tmp_path, "retrieval")
    videos, ids = case.tensors["in.videos"], case.tensors["in.input_ids"]
    real, words = torch.ones(videos.shape[:2], dtype=torch.bool), case.tensors["in.attention_mask"].bool()
    with torch.no_grad():
        (video, memory), text = model.encode_video_tokens(clips_of(videos, real)), model.encode_text(Words(ids, words))
        columns = [model.match(Words(ids, words), memory.select(slice(v, v + 1))) for v in range(len(videos))]
    assert_output(video.pooled, case.tensors["out.video_embeds"], "video_embeds")
    assert_output(text.pooled, case.tensors["out.text_embeds"], "text_embeds")
    scores = torch.stack(columns, 1)[..., 1] + text.pooled @ video.pooled.T  # (texts, videos)
    for name, ours in (("score_t2v", scores), ("score_v2t", scores.T)):
        official = case.tensors[f"out.{name}"]
        ranked = official > -100  # what was among the first k by cosine
        assert (ranked.sum(1) == case.json["k_test"]).all()
        assert_output(ours[ranked], official[ranked], name)


@pytest.mark.parametrize("path", golden_files("blip_retrieval__*"))
def test_retrieval_losses(path: Path, tmp_path: Path) -> None:
    """Contrastive loss with momentum features (equal to the online ones) and queue, matching loss with negatives."""
    case = Case(path)
    model = build_blip(case, tmp_path, "retrieval")
    inputs, words = case.group("in"), case.tensors["in.attention_mask"].bool()
    clips, real = one_frame(inputs["image"].requires_grad_())
    video, memory = model.encode_video_tokens(clips_of(clips, real))
    text = model.encode_text(Words(inputs["input_ids"], words))

    ids_of_all = torch.cat([inputs["idx"], case.tensors["param.idx_queue"][0]])
    same = (inputs["idx"][:, None] == ids_of_all).float()
    targets = same / same.sum(1, keepdim=True)
    losses = []
    for query, key, queue in ((video, text, "text_queue"), (text, video, "image_queue")):
        keys = torch.cat([key.pooled.detach().T, case.tensors[f"param.{queue}"]], 1)
        logits = query.pooled @ keys * model.logit_scale.exp()
        soft = case.json["alpha"] * logits.detach().softmax(1) + (1 - case.json["alpha"]) * targets
        losses.append(F.cross_entropy(logits, soft))
    loss_ita = torch.stack(losses).mean()

    own, image, caption = torch.arange(len(clips)), inputs["neg_image_for_text"], inputs["neg_text_for_image"]
    t, v = torch.cat([own, own, caption]), torch.cat([own, image, own])
    logits = model.match(Words(inputs["input_ids"][t], words[t]), memory.select(v))
    loss_itm = F.cross_entropy(logits, (torch.arange(len(t)) < len(own)).long())

    assert_output(loss_ita, case.tensors["out.loss_ita"], "loss_ita")
    assert_output(logits, case.tensors["out.itm_logits"], "itm_logits")
    assert_output(loss_itm, case.tensors["out.loss_itm"], "loss_itm")
    (loss_ita + loss_itm).backward()
    official = case.group("grad")
    if "in.image" in official:
        assert_gradient(inputs["image"].grad, official.pop("in.image"), "image")
    assert our_tensors(official).keys() == gradients(model).keys() == dict(model.named_parameters()).keys()
    assert_gradients(model, official)
