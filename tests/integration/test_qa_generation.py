"""Generated answers from the command line: fit, reload, both ways of answering, predict, memory savers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from petl_bench.main import main
from tests.integration.fixture_run import only_record, run

TASK = "--model.init_args.task.init_args"


def test_fit_test_predict(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "fixtureqa_blip_uniadapter", dataset, tmp_path) == 0
    assert "accuracy" in capsys.readouterr().out
    folder, record = only_record(tmp_path)
    assert record["model"]["method"] == "UniAdapter (r=64)"
    assert record["eval"]["n"] == 16
    assert "vocabulary" not in record["eval"]
    assert record["protocol"]["inference"]["answers"] == "generate, num_beams 1, max_length 10"
    with np.load(folder / "ranks.npz") as file:
        first = dict(file)
    assert 100 * first["correct"].mean() == record["eval"]["accuracy"]
    assert not [name for name in load_file(folder / "adapter.safetensors") if name.startswith("task.")]

    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert main(["test", adapter]) == 0
    _, again = only_record(tmp_path, "test.json")
    assert {**again["eval"], "cost": None} == {**record["eval"], "cost": None}
    with np.load(folder / "test_ranks.npz") as second:
        assert all(np.array_equal(first[key], second[key]) for key in first)

    assert main(["predict", adapter]) == 0
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    questions = json.loads((dataset / "test_qa.json").read_text(encoding="utf-8"))
    assert [answer["question_id"] for answer in answers] == [question["id"] for question in questions]
    assert [answer["answer"] for answer in answers] == first["prediction"].tolist()

    ranked = (f"{TASK}.inference=Rank", f"{TASK}.inference.answer_list=train_qa.json", f"{TASK}.inference.k=4")
    assert main(["test", adapter, *ranked]) == 0
    _, other = only_record(tmp_path, "test.json")
    listed = {question["answer"] for question in json.loads((dataset / "train_qa.json").read_text(encoding="utf-8"))}
    with np.load(folder / "test_ranks.npz") as file:
        assert set(file["prediction"].tolist()) <= listed
    assert other["protocol"]["inference"]["answers"] == f"rank, k_test 4 of {len(listed)}, label_smoothing 0.0"
    assert other["eval"]["vocabulary"]["size"] == len(listed)


@pytest.mark.parametrize("config", ["fixtureqa_blip_uniadapter", "fixtureqa_blip_adaptformer"])
def test_training_lowers_the_loss(config: str, dataset: Path, tmp_path: Path) -> None:
    # The packaged rate is that of the pretrained backbone.
    more = ("--trainer.max_epochs=6", "--trainer.log_every_n_steps=1", "--model.init_args.optimizer.init_args.lr=0.003")
    assert run("fit", config, dataset, tmp_path, *more, "--data.init_args.frames=2") == 0
    folder, _ = only_record(tmp_path)
    lines = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("loss")
    losses = [float(value) for line in lines[1:] if (value := line.split(",")[place])]
    assert np.mean(losses[-7:]) < 0.5 * np.mean(losses[:7])


def test_low_precision_and_checkpointing(dataset: Path, tmp_path: Path) -> None:
    more = (
        "--trainer.precision=bf16-mixed",
        "--model.init_args.backbone.init_args.gradient_checkpointing=true",
        "--best_on_val=true",
    )
    assert run("fit", "fixtureqa_blip_uniadapter", dataset, tmp_path, *more) == 0
    folder, record = only_record(tmp_path)
    assert record["train"]["precision"] == "bf16-mixed"
    assert (folder / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--model.init_args.backbone=backbone/clip_tiny.yaml",), "an answer decoder: CLIP (clip-tiny)"),
        ((f"{TASK}.inference=Rank",), "Rank needs answer_list"),
        (("--model.init_args.task=task/qa_classifier_fixture.yaml",), "a joint space of video and text: BLIPVQA"),
    ],
)
def test_what_does_not_go_together(
    options: tuple[str, ...], told: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "fixtureqa_blip_adaptformer", dataset, tmp_path, *options) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error
    assert not list(tmp_path.iterdir())


def test_a_test_split_without_answers(
    written: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """VQAv2's: the adapter is there, figures are EvalAI's to give."""
    parts = ("--data.init_args.train_on=train+val", "--data.init_args.test_on=test")
    root = written("vqav2")
    frames = ("--data.init_args.frames=1", "--data.init_args.frame_rate=null")
    assert run("fit", "vqav2_uniadapter", root, tmp_path, *frames, *parts) == 0
    assert not list(tmp_path.rglob("result.json"))
    (adapter,) = tmp_path.rglob("adapter.safetensors")
    assert f"petl-bench predict --ckpt_path {adapter} writes" in caplog.text
    assert main(["predict", f"--ckpt_path={adapter}"]) == 0
    answers = json.loads(adapter.with_name("answers.json").read_text(encoding="utf-8"))
    questions = json.loads((root / "v2_OpenEnded_mscoco_test2015_questions.json").read_text(encoding="utf-8"))
    assert [answer["question_id"] for answer in answers] == [asked["question_id"] for asked in questions["questions"]]
    assert main(["test", f"--ckpt_path={adapter}"]) == 4
