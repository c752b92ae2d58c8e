"""`petl-bench ask`: what a trained adapter answers, by each way of answering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import petl_bench
from petl_bench.errors import DataError, UsageError
from petl_bench.main import main
from petl_bench.video_text_model import VideoTextModel
from tests.integration.fixture_run import run


def trained(config: str, dataset: Path, runs: Path, *more: str) -> Path:
    """The folder of a short run."""
    assert run("fit", config, dataset, runs, *more) == 0
    (adapter,) = runs.rglob("adapter.safetensors")
    return adapter.parent


def asked(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    """What the command prints as JSON."""
    capsys.readouterr()
    assert main(["ask", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("config", "scored_by", "more"),
    [
        ("fixtureqa_adaptformer", "probability", ()),
        ("fixtureqa_blip_adaptformer", "mean log-probability of a token", ()),
        (
            "fixtureqa_blip_adaptformer",
            "log-probability",
            (
                "--model.task.inference.class_path=petl_bench.tasks.answering.Rank",
                "--model.task.inference.init_args.answer_list={folder}/answers.json",
            ),
        ),
    ],
)
def test_the_first_answer_is_that_of_predict(
    config: str,
    scored_by: str,
    more: tuple[str, ...],
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "answers.json").write_text('["circle", "square", "red", "left"]', encoding="utf-8")
    folder = trained(config, dataset, tmp_path / "runs", *(option.format(folder=tmp_path) for option in more))
    assert main(["predict", f"--ckpt_path={folder / 'adapter.safetensors'}"]) == 0
    expected = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    questions = json.loads((dataset / "test_qa.json").read_text(encoding="utf-8"))
    for question, answer in list(zip(questions, expected, strict=True))[:3]:
        video = dataset / "videos" / f"video{str(question['video_id']).removeprefix('video')}.mp4"
        found = asked(capsys, "--adapter", folder, "--video", video, question["question"], "--top-k", 2)
        assert (found["question"], found["scored_by"]) == (question["question"], scored_by)
        answers, scores = ([one[key] for one in found["answers"]] for key in ("answer", "score"))
        assert answers[0] == answer["answer"]
        assert 1 <= len(set(answers)) == len(answers) <= 2
        assert scores == sorted(scores, reverse=True)
        assert all(score <= 0 for score in scores) or sum(scores) <= 1.0


def test_options_are_compared_by_what_was_trained(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained("fixture_adaptformer", dataset, tmp_path)
    video = next((dataset / "videos").glob("*.mp4"))
    options = ["a red circle", "a blue square", "nothing"]
    given = [part for option in options for part in ("--option", option)]
    found = asked(capsys, "--adapter", folder, "--video", video, *given)
    model = petl_bench.load(folder)
    cosines = model.similarity(model.encode_text(options), model.encode_video([video]))[:, 0]
    assert found["scored_by"] == "cosine"
    order = cosines.argsort(descending=True).tolist()
    assert [one["answer"] for one in found["answers"]] == [options[place] for place in order]
    assert torch.allclose(torch.tensor([one["score"] for one in found["answers"]]), cosines[order], atol=1e-5)

    told = model.ask(video, "what is it?", ["a circle", "a square"], top_k=1)
    (best,) = told.answers
    texts = model.encode_text(["what is it? a circle", "what is it? a square"])
    assert best.score == pytest.approx(float(model.similarity(texts, model.encode_video([video])).max()), abs=1e-5)


def test_a_decoder_and_a_matching_head_choose_too(dataset: Path, tmp_path: Path) -> None:
    video = next((dataset / "videos").glob("*.mp4"))
    options = ["circle", "square"]
    for config, scored_by in {
        "fixtureqa_blip_adaptformer": "log-probability",
        "fixture_blip_uniadapter": "matching logit",
    }.items():
        model = petl_bench.load(trained(config, dataset, tmp_path / config))
        found = model.ask(video, "what moves?", options)
        assert found.scored_by == scored_by
        assert {answer.text for answer in found.answers} == set(options)


def test_what_cannot_be_asked(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = next((dataset / "videos").glob("*.mp4"))
    retrieval = petl_bench.load("fixture_zeroshot")
    classifier = petl_bench.load(trained("fixtureqa_adaptformer", dataset, tmp_path))
    wrong: list[tuple[VideoTextModel, tuple[Any, ...], str]] = [
        (retrieval, ("what is it?",), "answers no questions without options"),
        (retrieval, ("", ["a", "b"], 0), "top_k is 0"),
        (retrieval, ("what?", ["a"]), "at least two texts"),
        (retrieval, ("what?", ["a", " "]), "at least two texts"),
        (retrieval, ("what?", "ab"), "give a list"),
        (retrieval, (3,), "takes a question"),
        (classifier, ("what?", ["a", "b"]), "cannot choose from options"),
        (classifier, (" ",), "takes a question"),
    ]
    for model, arguments, told in wrong:
        with pytest.raises(UsageError, match=told):
            model.ask(video, *arguments)
    with pytest.raises(DataError, match=r"gone\.mp4"):
        classifier.ask(dataset / "gone.mp4", "what?")

    assert main(["ask", "--adapter", str(tmp_path / "none"), "--video", str(video), "what?"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    folder = next(tmp_path.rglob("adapter.safetensors")).parent
    assert main(["ask", "--adapter", str(folder), "--video", str(dataset / "MSRVTT_data.json"), "what?"]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_printed(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = next((dataset / "videos").glob("*.mp4"))
    given = ["--option", "a [red] circle", "--option", "x" * 300]
    assert main(["ask", "--adapter", "fixture_zeroshot", "--video", str(video), *given]) == 0
    shown = capsys.readouterr().out
    assert "cosine" in shown
    assert "a [red] circle" in shown
