"""Question answering on two processes: gradients of the whole batch, accuracy of the whole split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from methods.full import Full
from methods.uniadapter import UniAdapter
from petl_bench.backbones.base import Backbone
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.batch import Batch, Question
from petl_bench.errors import DistributedError
from petl_bench.method import Method
from petl_bench.metrics.choice import ChoiceMetric, ChoiceResult
from petl_bench.metrics.count import CountMetric, CountResult
from petl_bench.metrics.qa import AnswerMetric, AnswerResult, exact_match
from petl_bench.tasks.base import Task
from petl_bench.tasks.choice_generation import ChoiceGeneration
from petl_bench.tasks.choice_matching import ChoiceMatching
from petl_bench.tasks.qa_classifier import AnswerClassifier
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.testing.samples import asked, make_batch, rows_of
from tests.distributed.pool import Pool, pool
from tests.inputs import with_frames

__all__ = ["pool"]  # pytest finds the fixture by this name

ANSWERS = ["red", "blue", "left", "étouffée"]


def evaluate(shard: list[int], questions: int) -> AnswerResult | str:
    """The result over the questions of all processes, of which this one holds the given indices."""
    metric = AnswerMetric(exact_match, ANSWERS, questions)
    for rows in torch.tensor(shard, dtype=torch.long).split(2):
        if len(rows):
            given = [ANSWERS[row % 4] if row % 5 else None for row in rows.tolist()]
            truth = [(ANSWERS[row % 3],) for row in rows.tolist()]
            metric.update(rows, given, truth, ["what" if row % 2 else "how much" for row in rows.tolist()])
    try:
        return metric.compute()
    except DistributedError as error:
        return str(error)


def evaluate_shards(shards: list[list[int]], questions: int) -> AnswerResult | str:
    return evaluate(shards[dist.get_rank()], questions)


@pytest.mark.parametrize("shards", [[[0, 2, 4, 6], [1, 3, 5]], [[6], [5, 4, 3, 2, 1, 0]], [[], list(range(7))]])
def test_shards_give_the_result_of_one_process(pool: Pool, shards: list[list[int]]) -> None:
    expected = evaluate(list(range(7)), 7)
    assert isinstance(expected, AnswerResult)
    for actual in pool.run(evaluate_shards, shards, 7):
        assert (actual.accuracy, actual.per_type, actual.coverage) == (
            expected.accuracy,
            expected.per_type,
            expected.coverage,
        )
        for name in ("scores", "types", "predictions"):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))


def test_a_padding_sampler_is_refused_everywhere(pool: Pool) -> None:
    for message in pool.run(evaluate_shards, [[0, 2, 4, 6], [1, 3, 5, 0]], 7):
        assert message.startswith("question index 0 was evaluated more than once")


def gradients(answer_list: Path, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Of this process's rows of the batch, averaged over processes as DDP does."""
    torch.manual_seed(0)
    task = AnswerClassifier(answer_list, hidden_dim=8, dropout=0.0)
    method: Method = Full(backbone=CLIP("tiny", None), task=task).adapt().double()
    batch = make_batch(method.backbone)
    answers = ("red", "nowhere", "left", "blue")  # one is outside the vocabulary
    batch = batch._replace(questions=tuple(Question(n, "what", (answer,)) for n, answer in enumerate(answers)))
    rows = slice(rank * 4 // world, (rank + 1) * 4 // world)
    batch = rows_of(batch, rows)
    frames = method.backbone.normalise(batch.clips.frames).double()
    method.task.loss(method.backbone, with_frames(batch, frames))[0].backward()
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    if world > 1:
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= world
    return found


def gradients_on_rank(answer_list: Path) -> dict[str, Tensor]:
    return gradients(answer_list, dist.get_rank(), dist.get_world_size())


def test_gradients_do_not_depend_on_the_number_of_processes(pool: Pool, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(ANSWERS), encoding="utf-8")
    expected = gradients(path)
    for found in pool.run(gradients_on_rank, path):
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert torch.allclose(gradient, expected[name], rtol=1e-9, atol=1e-12), name


class Loss(nn.Module):
    """The loss of a method as a forward pass, as DDP needs it."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> Tensor:
        return self.method.task.loss(self.method.backbone, batch)[0]


#: what answers or chooses with BLIP
BLIP_TASKS: dict[str, tuple[type[Backbone], type[Task]]] = {
    "answers": (BLIPVQA, AnswerGeneration),
    "options by their logits": (BLIP, ChoiceMatching),
    "options by their log-probabilities": (BLIPVQA, ChoiceGeneration),
}


def train_blip(name: str, rank: int = 0, world: int = 1) -> tuple[list[float], dict[str, Tensor]]:
    """Mean losses of two steps, and the last gradients; the rows have different numbers of answers and of options."""
    torch.manual_seed(0)
    kind, task = BLIP_TASKS[name]
    backbone = kind("tiny", None, dropout=0.0)  # pyright: ignore[reportCallIssue]
    method = UniAdapter(backbone=backbone, task=task(), bottleneck_dim=8).adapt().double()
    answers = (("red", "blue", "left"), ("blue",), ("up", "a red circle"), ("down",))
    batch = asked(make_batch(backbone, frames=3))
    questions = zip(batch.questions, answers, strict=True)
    batch = batch._replace(questions=tuple(one._replace(answers=own, weight=0.5) for one, own in questions))
    rows = slice(rank * 4 // world, (rank + 1) * 4 // world)
    batch = rows_of(batch, rows)
    batch = with_frames(batch, backbone.normalise(batch.clips.frames).double())
    # DDP raises in the second step if a trained parameter has no gradient.
    module = nn.parallel.DistributedDataParallel(Loss(method)) if world > 1 else Loss(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = module(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if world > 1:
            dist.all_reduce(losses[-1])
            losses[-1] /= world
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return [float(loss) for loss in losses], gradients


def train_blip_on_rank(name: str) -> tuple[list[float], dict[str, Tensor]]:
    return train_blip(name, dist.get_rank(), dist.get_world_size())


@pytest.mark.parametrize("name", BLIP_TASKS)
def test_training_does_not_depend_on_the_number_of_processes(pool: Pool, name: str) -> None:
    losses, gradients = train_blip(name)
    for other_losses, other_gradients in pool.run(train_blip_on_rank, name):
        np.testing.assert_allclose(other_losses, losses, rtol=1e-10)
        assert other_gradients.keys() == gradients.keys()
        for own, gradient in gradients.items():
            torch.testing.assert_close(other_gradients[own], gradient, rtol=1e-7, atol=1e-10)


def choose(shard: list[int], questions: int) -> ChoiceResult:
    """What becomes of choices, of which this process holds the given indices."""
    metric = ChoiceMetric(questions)
    for rows in torch.tensor(shard, dtype=torch.long).split(2):
        if len(rows):
            places = rows.tolist()
            scores = [torch.tensor([0.15 * (row % 3), 0.2, 0.2][: 2 + row % 2]) if row % 5 else None for row in places]
            choices = [ANSWERS[: 2 + row % 2] for row in places]
            types, groups = [f"{row % 2}" for row in places], ["é" if row % 3 else "b" for row in places]
            metric.update(rows, scores, [row % 2 for row in places], choices, types, groups)
    return metric.compute()


def choose_shards(shards: list[list[int]], questions: int) -> ChoiceResult:
    return choose(shards[dist.get_rank()], questions)


@pytest.mark.parametrize("shards", [[[0, 2, 4, 6], [1, 3, 5]], [[], list(range(7))]])
def test_shards_of_choices_give_the_result_of_one_process(pool: Pool, shards: list[list[int]]) -> None:
    expected = choose(list(range(7)), 7)
    assert len(set(expected.scores.tolist())) > 2
    for actual in pool.run(choose_shards, shards, 7):
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(actual, name), values)


def count(shard: list[int], questions: int) -> CountResult:
    """What becomes of counts, of which this process holds the given indices."""
    metric = CountMetric(questions)
    for rows in torch.tensor(shard, dtype=torch.long).split(2):
        places = rows.tolist()
        if places:
            metric.update(rows, [row % 4 + 1 if row % 5 else None for row in places], [row % 3 for row in places])
    return metric.compute()


def count_shards(shards: list[list[int]], questions: int) -> CountResult:
    return count(shards[dist.get_rank()], questions)


@pytest.mark.parametrize("shards", [[[0, 2, 4, 6], [1, 3, 5]], [[], list(range(7))]])
def test_shards_of_counts_give_the_result_of_one_process(pool: Pool, shards: list[list[int]]) -> None:
    expected = count(list(range(7)), 7)
    for actual in pool.run(count_shards, shards, 7):
        for name in ("errors", "raw", "predictions"):
            np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
