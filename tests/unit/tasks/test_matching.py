import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from methods.adaptformer import AdaptFormer
from methods.full import Full
from methods.linear import Linear
from methods.uniadapter import UniAdapter
from petl_bench.backbones.base import memory_of
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.inputs import Words
from petl_bench.method import Method
from petl_bench.nn.transformer import Memory
from petl_bench.storage.adapters import Adapter
from petl_bench.storage.spill import OnDisk
from petl_bench.tasks import matching, reranking
from petl_bench.tasks.base import present
from petl_bench.tasks.matching import MatchingRetrieval, _Encoders, _GlobalBatch
from petl_bench.tasks.momentum import MomentumCopy
from petl_bench.tasks.reranking import Reranking
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.samples import make_batch
from tests.inputs import with_frames


def build(kind: type[Method] = AdaptFormer, dropout: float = 0.0, **options: Any) -> Method:
    torch.manual_seed(0)
    task = MatchingRetrieval(**{"queue_size": 6, "momentum": 0.8, **options})
    return kind(backbone=BLIP("tiny", None, dropout=dropout), task=task).adapt()


def task_of(method: Method) -> MatchingRetrieval:
    assert isinstance(method.task, MatchingRetrieval)
    return method.task


def step(method: Method, batch: Batch, epochs: float = 1.0, seed: int = 0) -> float:
    """One training step as `Method` takes it, with plain gradient descent."""
    method.task.before_step(epochs, seed)
    method.zero_grad()
    loss, _ = method.task.loss(method.backbone, batch)
    loss.backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    method.task.after_step(method.backbone)
    return loss.item()


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AdaptFormer, UniAdapter, Linear])
def test_everything_trainable_gets_a_gradient(kind: type[Method]) -> None:
    method = build(kind)
    loss, _ = method.task.loss(method.backbone, make_batch(method.backbone))
    loss.backward()
    assert not [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not [name for name, p in method.named_parameters() if not p.requires_grad and p.grad is not None]


@pytest.mark.parametrize("kind", [AdaptFormer, UniAdapter])
def test_copies_of_what_is_trained_equal_a_full_momentum_model(kind: type[Method]) -> None:
    method = build(kind)
    batch, encoders = make_batch(method.backbone), _Encoders(method.backbone)
    full = MomentumCopy(dict(encoders.named_parameters()), 0.8)
    for seed in range(3):
        step(method, batch, seed=seed)
        full.update(encoders)
    copies = task_of(method).momentum
    assert 0 < len(copies.averages) < len(full.averages)
    online = encoders(batch)
    for ours, theirs, now in zip(copies.call(encoders, batch), full.call(encoders, batch), online, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert (ours - now).abs().max() > 1e-4


def test_double_ema_moves_only_what_the_method_added_twice() -> None:
    method = build(UniAdapter, double_ema=True)
    momentum = task_of(method).momentum
    for average in momentum.averages.values():
        average.zero_()
    task_of(method).after_step(method.backbone)
    parameters = dict(_Encoders(method.backbone).named_parameters())
    for name, average in momentum.averages.items():
        kept = 0.8 if "proj." in name and "stack" not in name else 0.8**2
        torch.testing.assert_close(average, (1 - kept) * parameters[name].detach())


def test_soft_targets_rise_over_the_first_epoch() -> None:
    method = build()
    method.eval()
    batch = make_batch(method.backbone)
    for epochs, share in ((0.0, 0.0), (0.25, 0.1), (1.0, 0.4), (3.0, 0.4)):
        method.task.before_step(epochs, 0)
        with torch.no_grad():
            _, logs = method.task.loss(method.backbone, batch)
        torch.testing.assert_close(logs["loss_itc"], contrastive(method, batch, share))


def contrastive(method: Method, batch: Batch, share: float) -> Tensor:
    """ITC of an untrained model, whose momentum features are its own."""
    task = task_of(method)
    with torch.no_grad():
        video, text = _Encoders(method.backbone)(batch)
        scale = present(method.backbone.joint).logit_scale.exp()
        total = torch.zeros(())
        for query, gallery in (
            (video, torch.cat([text, task.queue.text])),
            (text, torch.cat([video, task.queue.video])),
        ):
            logits = scale * query @ gallery.T
            targets = share * logits.softmax(1) + (1 - share) * torch.eye(*logits.shape)
            total -= (targets * logits.log_softmax(1)).sum(1).mean() / 2
    return total


def test_pairs_of_the_same_video_are_no_negatives() -> None:
    task = MatchingRetrieval(queue_size=4)
    features = torch.eye(4)
    same = torch.tensor([5, 2, 5, 5])
    words = torch.ones(4, 3, dtype=torch.bool)
    everyone = _GlobalBatch(features, features, features, features, Words(words.long(), words), words, same)
    found = set()
    for seed in range(20):
        task.before_step(1.0, seed)
        negatives = task._draw(everyone, torch.tensor(1.0), 4)
        assert negatives.videos[[0, 2, 3]].tolist() == negatives.texts[[0, 2, 3]].tolist() == [1, 1, 1]
        assert negatives.exist.all()
        found.add((int(negatives.videos[1]), int(negatives.texts[1])))
    assert {video for video, _ in found} == {text for _, text in found} == {0, 2, 3}
    assert any(video != text for video, text in found)  # drawn apart


def test_a_batch_of_one_video_has_no_negatives() -> None:
    method = build().eval()
    batch = make_batch(method.backbone)._replace(video_index=torch.full((4,), 3))
    loss, logs = method.task.loss(method.backbone, batch)
    assert loss.isfinite()
    memory = method.backbone.encode_video_tokens(batch.clips).memory
    logits = present(method.backbone.matching).match(batch.words, memory)
    expected = F.cross_entropy(logits, torch.ones(4, dtype=torch.long)) / 3  # a third of the pairs
    torch.testing.assert_close(logs["loss_itm"], expected.detach())


def test_the_same_step_draws_the_same() -> None:
    batch = make_batch(build().backbone)
    torch.manual_seed(1)
    first = [step(build(), batch, seed=seed) for seed in (3, 4, 5)]
    torch.manual_seed(2)
    assert [step(build(), batch, seed=seed) for seed in (3, 4, 5)] == first
    assert len(set(first)) > 1


def test_the_state_is_pushed_after_the_step_only() -> None:
    method = build()
    batch = make_batch(method.backbone)
    queue = task_of(method).queue
    task_of(method).loss(method.backbone, batch)
    task_of(method).loss(method.backbone, batch)
    assert queue.video_index.tolist() == [-100] * 6
    task_of(method).after_step(method.backbone)
    task_of(method).after_step(method.backbone)
    assert queue.video_index.tolist() == [0, 1, 2, 3, -100, -100]


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped() -> None:
    method = build()
    batch = make_batch(method.backbone)
    for seed in range(2):
        step(method, batch, seed=seed)
    checkpoint: dict[str, Any] = {}
    method.on_save_checkpoint(checkpoint)
    resumed = build()
    resumed.on_load_checkpoint(checkpoint)
    assert not resumed.load_state_dict(checkpoint["state_dict"], strict=False).unexpected_keys
    assert [step(resumed, batch, seed=s) for s in (2, 3)] == [step(method, batch, seed=s) for s in (2, 3)]


def test_queue_and_momentum_are_in_checkpoints_but_in_no_adapter() -> None:
    method = build()
    checkpoint: dict[str, Any] = {}
    method.on_save_checkpoint(checkpoint)
    state = checkpoint["state_dict"]
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert method.trained_state().keys() == trained
    assert {"task.queue.video", "task.queue.position"} < state.keys() - trained
    assert any(name.startswith("task.momentum.") for name in state)
    build().load_trained_state(Adapter(method.trained_state(), method.identity()), "adapter.safetensors")
    del state["task.queue.text"]
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        build().on_load_checkpoint(checkpoint)


def gradients(method: Method, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    method.task.before_step(1.0, 3)
    method.zero_grad()
    loss, _ = method.task.loss(method.backbone, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def rows_of_keys_and_values(method: Method) -> list[int]:
    """How many clips' keys and values each layer computes from now on."""
    counts: list[int] = []
    for block in method.backbone.towers["text"].blocks:
        key_value = present(block.cross_attention).key_value
        key_value.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


@pytest.mark.parametrize("kind", [AdaptFormer, UniAdapter, Full])
def test_keys_and_values_are_computed_once_for_each_clip(kind: type[Method], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients are those of a copy of the tokens for each pair."""
    method = build(kind).double()
    batch = make_batch(method.backbone, frames=3)
    batch = with_frames(batch, method.backbone.normalise(batch.clips.frames).double())
    layers = len(method.backbone.towers["text"].blocks)
    counts = rows_of_keys_and_values(method)
    loss, found = gradients(method, batch)
    assert counts == layers * [4]
    counts.clear()
    monkeypatch.setattr(matching, "_read_by", lambda tokens, mask, v, distinct: memory_of(tokens[v], mask[v]))
    expected_loss, expected = gradients(method, batch)
    assert counts == layers * [12]
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-12)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-12)


def test_of_the_clips_of_many_processes_only_those_that_are_read_have_keys_and_values() -> None:
    tokens, mask = torch.randn(9, 6, 2), torch.rand(9, 3) > 0.5
    videos = torch.tensor([4, 5, 0, 8, 4, 5])  # the own pairs, with negative videos, with negative texts
    read = matching._read_by(tokens, mask, videos, distinct=4)
    assert len(read.tokens) == 4
    assert read.rows is not None
    assert read.tokens[read.rows].equal(tokens[videos])
    assert read.mask.equal(memory_of(tokens[videos], mask[videos]).mask)


# --- evaluation ---------------------------------------------------------------------------------------------------


def evaluation_batch(method: Method, failed: int | None = None) -> Batch:
    """Four clips with one caption each, in another order than their indices."""
    order = torch.tensor([2, 0, 3, 1])
    decoded = torch.ones(4, dtype=torch.bool)
    if failed is not None:
        decoded[failed] = False
    return make_batch(method.backbone)._replace(video_index=order, text_index=order, text_video=order, decoded=decoded)


def evaluate(method: Method, batch: Batch) -> Any:
    method.eval()
    with torch.no_grad():
        method.task.reset()
        method.task.expect(4, 4)
        method.task.update(method.backbone, batch)
        method.task.finish(method.backbone)
        return method.task.compute()


@pytest.mark.parametrize("kind", [AdaptFormer, UniAdapter])
@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_ranks_follow_from_matching_pair_by_pair(kind: type[Method], beta: float) -> None:
    method = build(kind, reranking=Reranking(k=4, beta=beta))
    batch = evaluation_batch(method)
    for seed in range(3):
        step(method, batch, seed=seed)
    result = evaluate(method, batch)
    backbone = method.backbone
    scores = torch.empty(4, 4)  # captions x videos, by index
    with torch.no_grad():
        video, memory = backbone.encode_video_tokens(batch.clips)
        text = backbone.encode_text(batch.words)
        for t in range(4):
            for v in range(4):
                words, clip = slice(t, t + 1), slice(v, v + 1)
                one = memory.select(clip), text.pooled[words], video.by_frame()[clip], batch.clips.mask[clip]
                read = present(backbone.fusion).weigh_frames(*one)
                logit = present(backbone.matching).match(batch.words.select(words), read)[0, 1]
                place = int(batch.text_index[t]), int(batch.video_index[v])
                scores[place] = logit + beta * text.pooled[t] @ video.pooled[v]
    diagonal = scores.diagonal()
    assert result.ranks["t2v"].tolist() == (1 + (scores > diagonal[:, None]).sum(1)).tolist()
    assert result.ranks["v2t"].tolist() == (1 + (scores > diagonal).sum(0)).tolist()
    assert result.inference == {"rerank_k": 4, "rerank_beta": beta, "dual_softmax": False, "pooling": "mean"}


def test_tokens_on_disk_give_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scores = []
    for gigabytes in (16.0, 0.0):
        method = build(reranking=Reranking(k=4, tokens_in_memory=gigabytes))
        second = present(task_of(method).second)
        get, kinds = second._tokens.get, []

        def spy(kept: Tensor | OnDisk, get: Any = get, kinds: list[type] = kinds) -> Tensor:
            kinds.append(type(kept))
            return get(kept)

        monkeypatch.setattr(second._tokens, "get", spy)
        evaluate(method, evaluation_batch(method))
        assert kinds == 4 * [Tensor if gigabytes else OnDisk]
        scores.append(torch.cat(second.metric.pair_match))
    assert len(scores[0]) == 16
    assert scores[0].equal(scores[1])
    assert not list(tmp_path.iterdir())


def test_captions_of_like_length_are_matched_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranking, "_CHUNK", 2)
    method = build(reranking=Reranking(k=4))
    batch = evaluation_batch(method)
    lengths = torch.tensor([5, 3, 6, 3])
    mask = torch.arange(batch.words.mask.shape[1]) < lengths[:, None]
    batch = batch._replace(words=Words(batch.words.ids, mask))
    backbone, tokens = method.backbone, list[list[int]]()
    assert isinstance(backbone, BLIP)
    match = backbone.match

    def spy(words: Words, memory: Memory) -> Tensor:
        tokens.append(words.mask.sum(1).tolist())
        return match(words, memory)

    backbone.match = spy  # type: ignore[method-assign]  # a spy
    evaluate(method, batch)
    assert tokens == 4 * [[3, 3], [5, 6]]


def test_without_a_second_stage_it_is_retrieval_by_cosine() -> None:
    method = build(reranking=None)
    batch = evaluation_batch(method)
    plain = AdaptFormer(backbone=BLIP("tiny", None, dropout=0.0), task=Retrieval()).adapt()
    plain.load_state_dict({k: v for k, v in method.state_dict().items() if k.startswith("backbone.")})
    one_stage, expected = evaluate(method, batch), evaluate(plain, batch)
    assert one_stage.metrics == expected.metrics
    assert one_stage.inference == expected.inference


def test_a_failed_video_ranks_last() -> None:
    method = build(reranking=Reranking(k=2))
    batch = evaluation_batch(method, failed=1)  # the one with index 0
    result = evaluate(method, batch)
    assert result.ranks["t2v"][0] == result.ranks["v2t"][0] == 4
    assert result.ranks["t2v"][1:].max() <= 3


def test_nothing_of_an_evaluation_is_left_for_the_next() -> None:
    method = build(reranking=Reranking(k=2))
    batch = evaluation_batch(method)
    first = evaluate(method, batch)
    assert evaluate(method, batch).metrics == first.metrics
    second = task_of(method).second
    assert second is not None
    assert not second._clips


def test_match_logits_are_in_full_precision_under_autocast() -> None:
    method = build()
    batch = make_batch(method.backbone)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        memory = method.backbone.encode_video_tokens(batch.clips).memory
        logits = present(method.backbone.matching).match(batch.words, memory)
    assert logits.dtype == torch.float32


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_backbone_that_cannot_match_is_refused() -> None:
    with pytest.raises(UsageError, match=r"layers in which text reads video and a head .*: CLIP \(clip-tiny\)"):
        AdaptFormer(backbone=CLIP("tiny", None), task=MatchingRetrieval(queue_size=4)).adapt()
    with pytest.raises(UsageError, match=r"a joint space of video and text and a head .*: BLIPVQA \(blip-tiny\)"):
        AdaptFormer(backbone=BLIPVQA("tiny", None), task=MatchingRetrieval(queue_size=4)).adapt()
