"""Question answering from the command line: fit, reload, predict, report, and what does not fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from petl_bench.main import main
from tests.integration.fixture_run import only_record, run


def test_fit_test_predict_report(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "fixtureqa_adaptformer.yaml", dataset, tmp_path) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("accuracy", "what", "which"))
    folder, record = only_record(tmp_path)
    found = record["eval"]
    assert (found["n"], found["n_per_type"]) == (16, {"what": 8, "which": 8})
    assert found["accuracy"] == pytest.approx((found["per_type"]["what"] + found["per_type"]["which"]) / 2)
    assert found["vocabulary"]["file"] == "train_qa.json"
    assert (record["protocol"]["id"], record["protocol"]["dataset"]) == ("msrvtt-qa/v1", "msrvttqa-fixture")
    assert (record["protocol"]["n_queries"], record["protocol"]["n_gallery"]) == (16, 4)
    assert record["protocol"]["metric_version"] == "qa-exact-match/1"
    assert record["train"]["steps"] == 7  # questions about 14 of 16 videos, 4 each, in batches of 8
    with np.load(folder / "ranks.npz") as file:
        first = dict(file)
    asked = json.loads((dataset / "test_qa.json").read_text(encoding="utf-8"))
    by_id = {str(one["id"]): one for one in asked}
    told = [first[name].tolist() for name in ("text_id", "words", "answers")]
    assert sorted(told[0]) == sorted(by_id)
    assert [(by_id[one]["question"], by_id[one]["answer"]) for one in told[0]] == list(zip(*told[1:], strict=True))
    videos = first["video_id"][first["text_video"]].tolist()
    assert videos == [f"video{by_id[one]['video_id']}" for one in told[0]]
    assert 100 * first["correct"].mean() == found["accuracy"]
    assert "task.head.layers.0.weight" in load_file(folder / "adapter.safetensors")

    adapter = f"--ckpt_path={folder / 'adapter.safetensors'}"
    assert main(["test", adapter]) == 0
    _, again = only_record(tmp_path, "test.json")
    assert {**again["eval"], "cost": None} == {**found, "cost": None}
    with np.load(folder / "test_ranks.npz") as second:
        assert all(np.array_equal(first[key], second[key]) for key in first)

    assert main(["predict", adapter]) == 0
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    questions = json.loads((dataset / "test_qa.json").read_text(encoding="utf-8"))
    assert [answer["question_id"] for answer in answers] == [question["id"] for question in questions]
    assert [answer["answer"] for answer in answers] == first["prediction"].tolist()

    assert main(["report", str(tmp_path), f"--output={tmp_path / 'report'}"]) == 0
    page = (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| Accuracy | Accuracy what | Accuracy which |" in page
    assert "16 questions; 4 videos" in page


def test_answers_of_an_earlier_configuration(dataset: Path, tmp_path: Path, own_folder: Path) -> None:
    """`config.yaml` of earlier versions names the answer list from the current folder."""
    (own_folder / "demo").symlink_to(dataset.parent)
    root, quick = own_folder.joinpath("demo", dataset.name).relative_to(own_folder), "--trainer.fast_dev_run=1"
    earlier = f"--model.init_args.task.init_args.answer_list={root / 'train_qa.json'}"
    with pytest.warns(UserWarning, match="from the current folder"):
        assert run("fit", "fixtureqa_full", root, tmp_path, quick, earlier) == 0


def test_training_lowers_the_loss(dataset: Path, tmp_path: Path) -> None:
    # The packaged rate is that of the pretrained backbone.
    more = ("--trainer.max_epochs=6", "--trainer.log_every_n_steps=1", "--model.init_args.optimizer.init_args.lr=3e-4")
    assert run("fit", "fixtureqa_full", dataset, tmp_path, *more, "--data.init_args.frames=2") == 0
    folder, _ = only_record(tmp_path)
    lines = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    place = lines[0].split(",").index("loss")
    losses = [float(value) for line in lines[1:] if (value := line.split(",")[place])]
    assert np.mean(losses[-7:]) < 0.7 * np.mean(losses[:7])


def test_best_on_val_and_low_precision(dataset: Path, tmp_path: Path) -> None:
    more = (
        "--best_on_val=true",
        "--trainer.precision=bf16-mixed",
        "--model.init_args.backbone.init_args.gradient_checkpointing=true",
    )
    assert run("fit", "fixtureqa_mvadapter", dataset, tmp_path, *more) == 0
    folder, record = only_record(tmp_path)
    assert record["protocol"]["selection"] == "best-val"
    assert (folder / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("config", "option", "told"),
    [
        (
            "fixtureqa_full",
            "--model.init_args.task=task/retrieval.yaml",
            "reads captions, but data msrvttqa has questions",
        ),
        (
            "fixture_full",
            "--model.init_args.task=task/qa_classifier_fixture.yaml",
            "reads questions, but data msrvtt has",
        ),
    ],
)
def test_what_does_not_belong_together(
    config: str, option: str, told: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", config, dataset, tmp_path, option) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unreadable_video_is_answered_wrongly(dataset: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(dataset, broken)
    (broken / "videos" / "video16.mp4").write_bytes(b"not a video")
    tolerant = "--data.init_args.bad_videos=tolerate"
    assert run("fit", "fixtureqa_full", broken, tmp_path / "runs", tolerant) == 0
    folder, record = only_record(tmp_path / "runs")
    assert record["eval"]["n"] == 16  # never shrunk
    with np.load(folder / "ranks.npz") as ranks:
        assert not ranks["correct"][:4].any()
        assert ranks["prediction"][:4].tolist() == [""] * 4
