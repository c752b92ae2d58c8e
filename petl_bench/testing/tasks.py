"""What every task must do: `check_task`."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from petl_bench.backbones.base import Backbone
from petl_bench.cli.tiny_parts import classes_of
from petl_bench.data.batch import Batch
from petl_bench.errors import PetlBenchError, UsageError
from petl_bench.method import Method
from petl_bench.registry import instantiate
from petl_bench.tasks.base import Evaluation, PredictionFile, Task
from petl_bench.tasks.questions import QuestionTask
from petl_bench.testing.requirements import Options, class_of, options_of, require, told_of
from petl_bench.testing.samples import QUESTIONS, asked, make_batch, rows_of, with_other_padding


class Everything(Method):
    """Trains all that there is, so that the checks of tasks and backbones need no method of anybody's."""

    def inject(self, backbone: Backbone) -> None:
        backbone.requires_grad_(True)


def check_task(task: type[Task] | str, options: Options | None = None) -> None:
    """Checks that a task keeps the promises that methods, backbones and reports rest on.

    It is tried on the tiny variant of every backbone there is, plug-ins included:

    - it has name, metric and version, and reads captions, questions, or questions with choices or counts
    - a backbone without the capabilities that it `needs` is refused with one line, and at least one has them
    - the loss is a finite number, its gradients are finite, and beside it stands what `logs` names
    - `compute` gives finite metrics, all of `metric_names` and `monitor` among them, and a record that JSON can hold
    - an evaluation does not depend on how it is cut into batches, on what is in padded frames, or on the one before
    - one that has seen a clip too few is refused
    - `predict` and `prediction_file` give a file with something in it
    - where it answers questions, `ranked` gives as many answers as are wanted at most, and the best one first

    Args:
        task: the class, its path, or its short name.
        options: arguments of its constructor, or a file with them; without, those of `tiny`.

    Raises:
        AssertionError: saying in one sentence what does not hold, and on which backbone.
    """
    kind = class_of("tasks", task)
    with told_of(kind.__name__):
        given = None if options is None else options_of(options, "task")
        _check_names(_made(kind, given))
        fitting = [backbone for backbone in classes_of("backbones").values() if _fits(_made(kind, given), backbone)]
        require(fitting, f"no backbone there is has all that it needs ({', '.join(kind.needs)})")
    for backbone in fitting:
        with told_of(f"{kind.__name__} on {backbone.__name__}"):
            torch.manual_seed(0)
            method = Everything(backbone.tiny(), _made(kind, given))
            method.adapt()
            _check_loss(method)
            _check_evaluation(method)
            if isinstance(method.task, QuestionTask):
                _check_ranked(method, method.task)


def _made(kind: type[Task], options: dict[str, Any] | None) -> Task:
    if options is None:
        return kind.tiny()
    return kind(**{key: instantiate(value) for key, value in options.items()})


def _check_names(task: Task) -> None:
    for attribute in ("name", "metric_version", "tie_rule", "monitor"):
        value = getattr(task, attribute, None)
        require(isinstance(value, str) and value, f"its attribute {attribute} is {value!r}: give a text")
    known = ("captions", "questions", "choice questions", "count questions")
    require(task.texts in known, f"texts is {task.texts!r}: {', '.join(known)} can be read")


def _fits(task: Task, backbone: type[Backbone]) -> bool:
    """Whether a backbone has what a task needs; one that has not must be refused in one line."""
    tiny = backbone.tiny()
    fits = not task.lacking(tiny)
    try:
        task.require_capabilities(tiny)
    except UsageError as error:
        require(not fits and "\n" not in str(error), f"it refuses {backbone.__name__}, which has all it needs: {error}")
        return False
    require(fits, f"it does not refuse {backbone.__name__}, which lacks some of {', '.join(task.needs)}")
    return fits


def _check_loss(method: Method) -> None:
    task, batch = method.task, asked(make_batch(method.backbone))
    method.train()
    task.before_step(1.0, 0)
    loss, logs = task.loss(method.backbone, batch)
    require(loss.dim() == 0 and torch.isfinite(loss), "the loss is no single finite number")
    require(logs.keys() == set(task.logs), f"loss logs {sorted(logs)}, and logs names {sorted(task.logs)}")
    loss.backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    require(gradients, "the loss depends on no parameter")
    require(all(gradient.isfinite().all() for gradient in gradients), "a gradient of the loss is not finite")
    task.after_step(method.backbone)


def _check_evaluation(method: Method) -> None:
    batch = asked(make_batch(method.backbone))
    whole = _evaluated(method, [batch])
    _check_metrics(method.task, whole)
    clips = list(range(len(batch.video_index)))
    for what, batches in {
        "repeating it": [batch],
        "cutting it into batches": [rows_of(batch, clips[:2]), rows_of(batch, clips[2:])],
        "what is in padded frames": [with_other_padding(batch)],
    }.items():
        again = _evaluated(method, batches)
        same = again.metrics.keys() == whole.metrics.keys() and all(
            math.isclose(again.metrics[name], value, rel_tol=1e-4, abs_tol=1e-4)
            for name, value in whole.metrics.items()
        )
        require(same, f"{what} changes the metrics of an evaluation from {whole.metrics} to {again.metrics}")
    require(_refuses_a_missing_clip(method, rows_of(batch, clips[1:])), "an evaluation without its first clip is taken")
    with torch.no_grad():
        file = method.task.prediction_file([method.predict_step(batch, 0)])
    require(isinstance(file, PredictionFile) and file.name and file.content, "prediction_file gives no file")


def _check_ranked(method: Method, task: QuestionTask) -> None:
    batch = asked(make_batch(method.backbone))
    with torch.no_grad():
        one, two = (task.ranked(method.backbone, batch, most) for most in (1, 2))
    require(len(one) == len(two) == len(batch.questions), "ranked does not answer each question")
    for best, more in zip(one, two, strict=True):
        require(len(best) == 1 and 1 <= len(more) <= 2, "ranked gives no answer, or more than are wanted")
        require(best[0].text == more[0].text, "the first answer depends on how many are wanted")
        require(more[0].score >= more[-1].score - 1e-4, "the first answer has not the best score")
        require(all(math.isfinite(answer.score) for answer in more), "a score of an answer is not finite")
    require(task.scored_by, "scored_by does not say what the scores are")


def _evaluated(method: Method, batches: list[Batch]) -> Evaluation:
    """What an evaluation of the four clips gives."""
    method.eval()
    method.task.reset()
    method.task.expect(len(QUESTIONS), len(QUESTIONS))
    with torch.no_grad():
        for batch in batches:
            method.task.update(method.backbone, batch)
        method.task.finish(method.backbone)
        evaluation = method.task.compute()
    method.task.reset()
    return evaluation


def _check_metrics(task: Task, evaluation: Evaluation) -> None:
    names = {task.monitor, *task.metric_names(False, {question.type for question in QUESTIONS})}
    missing = sorted(names - evaluation.metrics.keys())
    require(not missing, f"compute does not give {', '.join(missing)}, which metric_names or monitor names")
    odd = [name for name, value in evaluation.metrics.items() if not math.isfinite(value)]
    require(not odd, f"metrics are not finite: {', '.join(odd)}")
    try:
        json.dumps([evaluation.record, evaluation.inference, task.inference()])
    except (TypeError, ValueError) as error:
        raise AssertionError(f"record and inference must be what JSON can hold: {error}") from error


def _refuses_a_missing_clip(method: Method, batch: Batch) -> bool:
    try:
        _evaluated(method, [batch])
    except PetlBenchError:
        method.task.reset()
        return True
    return False
