"""Matching retrieval equals the released training step and evaluation of BLIP and UniAdapter.

The released code draws negatives with `torch.multinomial`, which the cases replace by the most likely one: no noise.
Its evaluation gives -100 to what is no candidate; ours keeps the order of the first stage there, below all candidates.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.full import Full
from petl_bench.backbones.blip.model import BLIP
from petl_bench.data.batch import Batch
from petl_bench.inputs import Words
from petl_bench.metrics.reranking import RerankedRetrievalMetric
from petl_bench.metrics.scores import scores_of_features
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.momentum import MomentumCopy
from petl_bench.tasks.reranking import Reranking
from tests.golden.helpers import Case, assert_gradient, assert_output, golden_files
from tests.golden.official_blip import build_blip, gradients, our_tensors
from tests.golden.official_uniadapter import Adapted, build_uniadapter
from tests.inputs import clips_of


class Greedy(MatchingRetrieval):
    """Takes the most likely negatives and keeps what it took."""

    def _noise(self, count: int) -> Tensor:
        return torch.zeros(2, count, count)

    def _draw(self, everyone: Any, scale: Tensor, count: int) -> Any:
        self.drawn = super()._draw(everyone, scale, count)
        return self.drawn


def greedy(case: Case) -> Greedy:
    """The task with the options and the queue of a training case; `fill` has to follow."""
    options = {key: case.json[key] for key in ("alpha", "momentum", "queue_size")}
    return Greedy(negatives="all" if case.json["negative_all_rank"] else "rank", double_ema=True, **options)


def fill(task: MatchingRetrieval, case: Case) -> None:
    """Puts the queue of a case in."""
    task.queue.load_state_dict(
        {
            "video": case.tensors["param.image_queue"].T,
            "text": case.tensors["param.text_queue"].T,
            "video_index": case.tensors["param.idx_queue"][0],
            "position": case.tensors["param.ptr_queue"][0],
        }
    )


def make_batch(frames: Tensor, ids: Tensor, words: Tensor, video_index: Tensor, text_video: Tensor) -> Batch:
    """Images (B, 3, H, W) or clips (B, T, 3, H, W), and their captions."""
    frames = frames[:, None] if frames.ndim == 4 else frames
    return Batch(
        clips=clips_of(frames),
        words=Words(ids, words.bool()),
        video_index=video_index,
        text_index=torch.arange(len(ids)),
        text_video=text_video,
        decoded=torch.ones(len(frames), dtype=torch.bool),
    )


def step(case: Case, task: Greedy, blip: BLIP) -> None:
    """One training step up to the gradients, compared with the case."""
    inputs, logits = case.group("in"), []
    match = blip.match
    blip.match = lambda *args: logits.append(match(*args)) or logits[-1]  # pyright: ignore[reportAttributeAccessIssue]  # a spy
    image = inputs["image"].requires_grad_()
    batch = make_batch(image, inputs["input_ids"], inputs["attention_mask"], inputs["idx"], inputs["idx"])
    task.before_step(1.0, 0)
    loss, logs = task.loss(blip, batch)
    assert task.drawn.videos.equal(inputs["neg_image_for_text"])
    assert task.drawn.texts.equal(inputs["neg_text_for_image"])
    assert_output(logs["loss_itc"], case.tensors["out.loss_ita"], "loss_ita")
    assert_output(logits[0], case.tensors["out.itm_logits"], "itm_logits")
    assert_output(logs["loss_itm"], case.tensors["out.loss_itm"], "loss_itm")
    loss.backward()
    assert_gradient(image.grad, case.tensors["grad.in.image"], "image")


def assert_queue(task: MatchingRetrieval, case: Case) -> None:
    after = case.group("out.after")
    assert_output(task.queue.video.T, after["image_queue"], "image_queue")
    assert_output(task.queue.text.T, after["text_queue"], "text_queue")
    assert task.queue.video_index.equal(after["idx_queue"][0])
    assert task.queue.position.equal(after["ptr_queue"][0])


@pytest.mark.parametrize("path", golden_files("blip_retrieval__*"))
def test_full_fine_tuning_of_blip(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    task = greedy(case)
    blip = build_blip(case, tmp_path, "retrieval")
    Full(backbone=blip, task=task).adapt().eval()
    fill(task, case)
    step(case, task, blip)
    official = our_tensors({name: t for name, t in case.group("grad").items() if not name.startswith("in.")})
    assert official.keys() == gradients(blip).keys()
    for name, gradient in official.items():
        assert_gradient(gradients(blip)[name], gradient, name)
    task.after_step(blip)
    assert_queue(task, case)


@pytest.mark.parametrize("path", golden_files("uni_blip_retrieval__*"))
def test_uniadapter(path: Path, tmp_path: Path) -> None:
    """Momentum update (of the released code: adapters twice), losses, gradients, queue."""
    case = Case(path)
    task = greedy(case)
    adapted = build_uniadapter(case, tmp_path, "retrieval", task)
    fill(task, case)
    names = {id(p): f"backbone.{name}" for name, p in adapted.blip.named_parameters()}
    adapters = {names[id(p)] for name, p in adapted.added.items() if name.startswith("adapters.")}
    task.on_injected(adapted.blip, list(adapted.native.values()))
    # What we move twice is what the released code does, as far as the encoders read it.
    twice = {name for name, times in task._times.items() if times == 2}
    assert twice == adapters & task.momentum.averages.keys()

    # A copy of everything, since the case has momentum parameters of its own for frozen ones, too.
    start = {names[id(p)]: p.detach() for p in adapted.blip.parameters()}
    start |= {names[key]: tensor for key, tensor in momentum_tensors(adapted, case.group("param")).items()}
    task.momentum = MomentumCopy(start, case.json["momentum"])
    task.momentum.update(_Holder(adapted.blip), dict.fromkeys(adapters, 2))
    after = momentum_tensors(adapted, case.group("out.after"))
    assert bool(after) == any(name.startswith("out.after.adapters_m.") for name in case.tensors)
    for key, tensor in after.items():
        assert_output(task.momentum.averages[names[key]], tensor, names[key])

    step(case, task, adapted.blip)
    adapted.assert_gradients(case)
    task.after_step(adapted.blip)
    assert_queue(task, case)


class _Holder(nn.Module):
    def __init__(self, backbone: BLIP) -> None:
        super().__init__()
        self.backbone = backbone


def momentum_tensors(adapted: Adapted, official: dict[str, Tensor]) -> dict[int, Tensor]:
    """Tensors of the momentum encoder by the id of our online parameter."""
    found: dict[str, Tensor] = {}
    for name, tensor in official.items():
        first, _, rest = name.partition(".")
        if first.endswith("_m") and not rest.endswith("position_ids"):
            found[f"{first.removesuffix('_m')}.{rest}"] = tensor
    added = {id(adapted.added[name]): found.pop(name) for name in list(found) if name in adapted.added}
    return added | {id(adapted.native[name]): tensor for name, tensor in our_tensors(found).items()}


# --- evaluation ---------------------------------------------------------------------------------------------------


def evaluate(case: Case, task: MatchingRetrieval, blip: BLIP, video: str, text_video: Tensor, names: list[str]) -> None:
    """Re-ranks and compares the scores of both directions, `names` being (text to video, video to text)."""
    inputs = case.group("in")
    frames = inputs[video]
    index = torch.arange(len(frames))
    batch = make_batch(frames, inputs["input_ids"], inputs["attention_mask"], index, text_video)
    metric = task.metric
    assert isinstance(metric, RerankedRetrievalMetric)
    task.expect(len(frames), len(text_video))
    with torch.no_grad():
        task.update(blip, batch)
        task.finish(blip)
        first = scores_of_features(torch.cat(metric.text_features), torch.cat(metric.video_features), ~batch.decoded)
        both = metric.reranked(first)
        similarity, t2v = first.text_rows(0, first.texts), both.text_rows(0, first.texts)
        v2t = both.video_rows(0, len(frames))
    for ours, cosine, name in ((t2v, similarity, names[0]), (v2t, similarity.T, names[1])):
        official = case.tensors[f"out.{name}"]
        ranked = official > -100
        assert (ranked.sum(1) == case.json["k_test"]).all()
        assert_output(ours[ranked], official[ranked], name)
        assert ours[~ranked].max() < ours[ranked].min()
        for row, first, kept in zip(ours, cosine, ranked, strict=True):
            assert row[~kept].argsort().equal(first[~kept].argsort())
    # The released code ranks what is no candidate by chance, so only the first rank can be compared.
    metrics, official = task.compute().metrics, case.json["itm_eval"]
    assert metrics["t2v_R1"] == pytest.approx(official.get("img_r1", official.get("vid_r1")))
    assert metrics.get("v2t_captions_R1", metrics["v2t_R1"]) == pytest.approx(official["txt_r1"])


@pytest.mark.parametrize("path", golden_files("uni_blip_retrieval_eval__*"))
def test_reranking_with_uniadapter(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    case.json["bos_token_id"] = case.json["enc_token_id"] - 1  # which this kind of case does not name
    task = MatchingRetrieval(reranking=Reranking(case.json["k_test"], case.json["beta"]), queue_size=1)
    blip = build_uniadapter(case, tmp_path, "retrieval", task).blip
    texts = case.json["txt2img"]
    text_video = torch.tensor([texts[str(text)] for text in range(len(texts))])
    evaluate(case, task, blip, "images", text_video, ["score_t2i", "score_i2t"])


@pytest.mark.parametrize("path", golden_files("blip_video_retrieval_eval*"))
def test_reranking_with_blip(path: Path, tmp_path: Path) -> None:
    case = Case(path)
    task = MatchingRetrieval(reranking=Reranking(case.json["k_test"], beta=1.0), queue_size=1)
    blip = build_blip(case, tmp_path, "retrieval")
    text_video = torch.arange(len(case.tensors["in.videos"]))
    evaluate(case, task, blip, "videos", text_video, ["score_t2v", "score_v2t"])
