import csv
import io
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from petl_bench.commands import report
from petl_bench.errors import DataError
from petl_bench.report.cells import mean_and_deviation, state
from petl_bench.report.collect import Collection, Run, collect
from petl_bench.report.columns import MOST_TYPES
from petl_bench.report.details import Beside
from petl_bench.report.duplicates import settled
from petl_bench.report.leaderboard import rendered
from petl_bench.report.markdown import escape_markdown
from petl_bench.report.model import Column, Table
from petl_bench.report.page import Pages
from petl_bench.report.sheets import csv_cell
from petl_bench.report.tables import build_tables
from petl_bench.report.terminal import print_tables
from petl_bench.report.thumbnails import Clips
from petl_bench.report.verification import verified
from petl_bench.runs.record import write_result
from petl_bench.storage.files import FileError, file_sha256
from tests.answered import answers, retrieval
from tests.records import make_record
from tests.reports import report_of


def save(folder: Path, **overrides: Any) -> Path:
    folder.mkdir(parents=True)
    write_result(folder / "result.json", make_record(**overrides))
    return folder


def main(*arguments: str | Path) -> int:
    return report.run([str(argument) for argument in arguments])


def tables(*records: dict[str, Any]) -> list[Table]:
    return build_tables(Run(Path(f"{number}/result.json"), record) for number, record in enumerate(records))


def column(table: Table, title: str) -> Column:
    (found,) = (column for column in table.columns if column.title == title)
    return found


def cell(table: Table, row: int, title: str) -> str:
    return mean_and_deviation(table.rows[row].values[title], column(table, title))


def names(table: Table) -> list[str]:
    return [row.name for row in table.rows]


def states(table: Table) -> dict[str, str]:
    return {row.name: state(row) for row in table.rows}


def shown(table: Table, row: int = 0) -> dict[str, str]:
    return {column.title: cell(table, row, column.title) for column in table.columns}


def rejection(folder: Path, strict: bool = False) -> str:
    runs, rejected = collect([folder], strict=strict)
    assert runs == []
    assert len(rejected) == 1
    return rejected[0].reason


# --- which runs are left out


def test_half_written_and_foreign_files_are_rejected(tmp_path: Path) -> None:
    folder = save(tmp_path / "run")
    whole = (folder / "result.json").read_text()
    (folder / "result.json").write_text(whole[: len(whole) // 2])
    assert "cannot be read as JSON" in rejection(tmp_path)
    (folder / "result.json").write_text(whole.replace('"R1": 40.0', '"R1": NaN'))
    assert "eval.t2v.R1 is nan" in rejection(tmp_path)
    (folder / "result.json").write_text('{"schema": "peft/1"}')
    assert "schema is 'peft/1'" in rejection(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"status": "interrupted"}, "status is 'interrupted'"),
        ({"origin": "reported"}, "published"),
        ({"protocol__split_sha256": None}, "protocol.split_sha256 is unknown"),
        ({"model__weights_sha256": None}, "model.weights_sha256 is unknown"),
        ({"integrity__ranks_sha256": None}, "integrity.ranks_sha256 is unknown"),
    ],
)
def test_valid_but_useless_records_are_rejected(tmp_path: Path, overrides: dict, reason: str) -> None:
    save(tmp_path / "run", **overrides)
    assert reason in rejection(tmp_path)


@pytest.mark.parametrize("name", ["ranks.npz", "adapter.safetensors", "config.yaml"])
def test_changed_file_is_rejected(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_bytes(b"original")
    key = f"integrity__{name.partition('.')[0]}_sha256"
    write_result(folder / "result.json", make_record(**{key: file_sha256(folder / name)}))
    assert len(collect([tmp_path]).runs) == 1
    (folder / name).write_bytes(b"0riginal")
    assert name in rejection(tmp_path)


def test_contradicting_duplicates_are_both_rejected(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b", eval__t2v__R1=41.0)
    save(tmp_path / "c", id__seed=1)
    runs, rejected = settled(collect([tmp_path]))
    assert [run.path.parent.name for run in runs] == ["c"]
    assert [item.path.parent.name for item in rejected] == ["a", "b"]
    assert "different metrics" in rejected[0].reason


def test_equal_duplicates_count_once_and_the_training_is_kept(tmp_path: Path) -> None:
    save(tmp_path / "a", kind="test", train=None)
    save(tmp_path / "b", eval__cost__clips_per_s=9.0)
    runs, rejected = settled(collect([tmp_path]))
    assert [run.path.parent.name for run in runs] == ["b"]
    (left_out,) = rejected
    assert left_out.path.parent.name == "a"
    assert left_out.reason == f"says the same as {tmp_path.as_posix()}/b/result.json, which is shown"


def test_of_equal_runs_that_with_ranks_is_kept(tmp_path: Path) -> None:
    retrieval(tmp_path / "z", [1, 2, 3], [1, 1, 2])
    (tmp_path / "a").mkdir()
    shutil.copy(tmp_path / "z" / "result.json", tmp_path / "a" / "result.json")
    runs, _ = settled(verified(collect([tmp_path]), None))
    assert [run.path.parent.name for run in runs] == ["z"]


def test_a_forged_copy_does_not_take_the_honest_run_with_it(tmp_path: Path) -> None:
    retrieval(tmp_path / "z", [1, 2, 3], [1, 1, 2])
    shutil.copytree(tmp_path / "z", tmp_path / "a")
    forged = json.loads((tmp_path / "a" / "result.json").read_text())
    forged["eval"]["t2v"]["R1"] = 99.0
    (tmp_path / "a" / "result.json").write_text(json.dumps(forged))
    runs, rejected = settled(verified(collect([tmp_path]), None))
    assert [run.path.parent.name for run in runs] == ["z"]
    assert ["forged" in item.reason for item in rejected] == [True]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model__method": "LoRA", "model__trainable_params": 5}, "have different method, trainable_params"),
        ({"model__backbone": "clip-vit-b-32"}, "have different backbone"),
    ],
)
def test_seeds_of_one_configuration_are_of_one_method(tmp_path: Path, other: dict[str, Any], told: str) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b", id__seed=1, **other)
    save(tmp_path / "c", id__config_hash="d" * 64)
    runs, rejected = settled(collect([tmp_path]))
    assert [run.path.parent.name for run in runs] == ["c"]
    assert [told in item.reason for item in rejected] == [True, True]


def test_accuracy_of_a_type_that_no_question_has_is_forged(tmp_path: Path) -> None:
    answers(tmp_path / "run", [1, 0, 1, 0], ["what", "who", "what", "who"], [0, 1, 2, 3])
    assert len(verified(collect([tmp_path]), None).runs) == 1
    path = tmp_path / "run" / "result.json"
    record = json.loads(path.read_text())
    record["eval"]["per_type"]["where"] = 100.0
    path.write_text(json.dumps(record))
    (rejected,) = verified(collect([tmp_path]), None).rejected
    assert rejected.reason == "per_type.where is 100, of which ranks.npz says nothing"


def test_overlapping_folders_count_once(tmp_path: Path) -> None:
    save(tmp_path / "a" / "valid")
    save(tmp_path / "a" / "failed", status="failed", eval=None)
    runs, rejected = collect([tmp_path, tmp_path / "a" / ".." / "a"])
    assert (len(runs), len(rejected)) == (1, 1)


# --- aggregation and grouping


def test_two_seeds_give_mean_and_sample_deviation() -> None:
    (table,) = tables(make_record(id__seed=0, eval__t2v__R1=40.0), make_record(id__seed=1, eval__t2v__R1=43.0))
    value = table.rows[0].values["t2v R@1"]
    assert value is not None
    assert value.mean == pytest.approx(41.5)
    assert value.sd == pytest.approx(statistics.stdev([40.0, 43.0]))
    assert value.n == 2
    assert cell(table, 0, "t2v R@1") == "41.5 ± 2.1"
    assert [run.record["id"]["seed"] for run in table.rows[0].runs] == [0, 1]
    assert cell(table, 0, "Trainable M") == "2.500"


def test_one_seed_has_no_deviation_and_cells_have_their_precision() -> None:
    (table,) = tables(make_record())
    assert shown(table) == {
        "t2v R@1": "40.0",
        "t2v R@5": "70.0",
        "t2v R@10": "80.0",
        "t2v MdR": "2.0",
        "t2v MnR": "12.5",
        "v2t R@1": "40.0",
        "v2t R@5": "70.0",
        "v2t R@10": "80.0",
        "v2t MdR": "2.0",
        "v2t MnR": "12.5",
        "Rsum": "380.0",
        "Trainable M": "2.500",
        "Trainable %": "1.667",
        "Adapter MB": "10.00",
        "GMACs": "213.4",
        "Peak GB": "8.00",
        "GPU-hours": "2.00",
        "Wall s": "3600",
        "clips/s train": "250.0",
        "clips/s infer": "300.0",
    }
    (row,) = table.rows
    assert (row.name, row.backbone, row.commit, state(row)) == ("MVAdapter", "clip-vit-b-16", "01234567", "ok")
    assert table.main == "t2v R@1"
    worse = {column.title for column in table.columns if column.higher_is_better is False}
    assert {"t2v MdR", "v2t MnR", "Trainable M", "Peak GB"} < worse
    assert not worse & {"t2v R@1", "Rsum", "clips/s train"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("origin", "fixture"),
        ("protocol__id", "msrvtt-full"),
        ("protocol__split_sha256", "a" * 64),
        ("protocol__metric_version", "2"),
        ("protocol__preprocess__frames", 8),
        ("protocol__inference__dual_softmax", True),
        ("protocol__inference__rerank_k", 16),
        ("protocol__selection", "best-test"),
        ("model__weights_sha256", "b" * 64),
    ],
)
def test_incomparable_runs_never_share_a_table(field: str, value: object) -> None:
    first, second = tables(make_record(), make_record(**{field: value}))
    assert len(first.rows) == len(second.rows) == 1
    for table in (first, second):
        (note,) = [note for note in table.notes if "Not comparable" in note]
        assert field.replace("__", ".") in note
        assert note.count("(here ") == 1  # nothing else differs


def test_tables_of_different_datasets_do_not_explain_each_other() -> None:
    both = tables(make_record(), make_record(protocol__dataset="msvd", protocol__id="msvd"))
    assert [table.title for table in both] == ["msrvtt, msrvtt-1ka", "msvd, msvd"]
    assert not any("Not comparable" in note for table in both for note in table.notes)


def test_references_are_pinned_and_the_rest_falls_by_recall() -> None:
    methods = {
        "LoRA": 44.0,
        "Linear": 10.0,
        "ZeroShot": 30.0,
        "Full": 20.0,
        "MVAdapter": 45.0,
        "BitFit": 41.0,
    }
    records = [
        make_record(model__method=method, eval__t2v__R1=score, id__config_hash=f"{number:064x}")
        for number, (method, score) in enumerate(methods.items())
    ]
    (table,) = tables(*records)
    assert names(table) == ["Full", "ZeroShot", "Linear", "MVAdapter", "LoRA", "BitFit"]


def test_rows_of_the_same_name_show_their_configuration() -> None:
    (table,) = tables(make_record(), make_record(id__config_hash="d" * 64))
    assert names(table) == ["MVAdapter (cccccccc)", "MVAdapter (dddddddd)"]


def test_training_that_was_not_the_recipe_is_marked() -> None:
    train = make_record()["train"]
    (table,) = tables(
        make_record(id__config_hash="a" * 64, model__method="Untrained", train=None),
        make_record(id__config_hash="b" * 64, model__method="Changed", train=train | {"changed": {"lr": ["1", "2"]}}),
        make_record(id__config_hash="d" * 64, model__method="Half", train=train | {"limits": {"max_time": "1"}}),
        make_record(id__config_hash="e" * 64, model__method="ZeroShot", model__trainable_params=0, train=None),
    )
    assert states(table) == {
        "Untrained": "untrained",
        "Changed": "changed on resuming",
        "Half": "max_time 1",
        "ZeroShot": "ok",
    }


RECIPE = {"name": "msrvtt_adaptformer", "max_epochs": 5}


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"epochs": 5.0}, "ok"),
        ({"epochs": 7.0}, "ok"),  # more is another recipe, and no cut
        ({"epochs": 1.0}, "1 of 5 epochs"),
        ({"epochs": 4.9999}, "4.99 of 5 epochs"),
        ({"epochs": 0.25, "limits": {"max_steps": "20"}}, "0.25 of 5 epochs, max_steps 20"),
        ({"epochs": 0.25, "recipe": None, "limits": {"max_steps": "20"}}, "max_steps 20"),
        ({"epochs": 1.0, "recipe": None}, "ok"),
        ({"epochs": 1.0, "changed": {"lr": ["1", "2"]}}, "1 of 5 epochs, changed on resuming"),
    ],
)
def test_a_training_that_was_cut_is_marked(train: dict[str, Any], told: str) -> None:
    found = make_record()["train"] | {"recipe": RECIPE} | train
    (table,) = tables(make_record(train=found))
    assert state(table.rows[0]) == told
    trained = {name: found[name] for name in ("epochs", "steps", "recipe", "changed", "limits") if name in found}
    (table,) = tables(make_record(kind="test", train=None, model__trained=trained))
    assert state(table.rows[0]) == told


def test_an_adapter_of_unknown_training_is_marked() -> None:
    (table,) = tables(make_record(kind="test", train=None, model__trained=None))
    assert state(table.rows[0]) == "training unknown"
    (table,) = tables(make_record(kind="test", train=None, model__trainable_params=0))
    assert state(table.rows[0]) == "ok"


def test_costs_of_small_models_are_no_zeros() -> None:
    train = make_record()["train"] | {"wall_s": 0.1234, "peak_allocated_bytes": [1_234_567], "clips_per_s": 0.04567}
    (table,) = tables(
        make_record(
            model__trainable_params=321,
            model__total_params=9_876_543,
            model__adapter_bytes=1234,
            model__gmacs_vision=0.0053724,
            train=train,
        )
    )
    costs = {
        name: cell(table, 0, name)
        for name in ("Trainable M", "Trainable %", "Adapter MB", "GMACs", "Peak GB", "Wall s")
    }
    assert costs == {
        "Trainable M": "0.000321",
        "Trainable %": "0.00325",
        "Adapter MB": "0.00123",
        "GMACs": "0.00537",
        "Peak GB": "0.00123",
        "Wall s": "0.123",
    }
    assert cell(table, 0, "clips/s train") == "0.0457"
    assert cell(table, 0, "t2v MnR") == "12.5"


def test_memory_of_a_cpu_is_labelled() -> None:
    on_cpu = make_record(env__gpu=None, env__gpu_count=None, id__config_hash="d" * 64)
    (table,) = tables(make_record(), on_cpu)
    assert any("Peak GB of a CPU: what training added" in note for note in table.notes)
    (table,) = tables(make_record())
    assert not any("of a CPU" in note for note in table.notes)


def test_a_csv_of_different_tasks(tmp_path: Path) -> None:
    """Each kind of table has settings that others lack."""
    save(tmp_path / "runs" / "a", protocol__dataset="a")
    inference = make_record()["protocol"]["inference"] | {"answers": "generate"}
    save(tmp_path / "runs" / "b", protocol__dataset="b", protocol__inference=inference)
    assert main(tmp_path / "runs", "--output", tmp_path / "report") == 0
    rows = list(csv.DictReader((tmp_path / "report" / "leaderboard.csv").open(encoding="utf-8")))
    assert {row["protocol.inference.answers"] for row in rows} == {"", "generate"}


def test_marks() -> None:
    (table,) = tables(
        make_record(id__seed=0),
        make_record(id__seed=1),
        make_record(id__config_hash="d" * 64, model__method="Partial", protocol__n_found=900),
        make_record(id__config_hash="e" * 64, model__method="Dirty", env__dirty=True),
        make_record(id__config_hash="f" * 64, model__method="ZeroShot", model__trainable_params=0, train=None),
    )
    assert states(table) == {
        "MVAdapter": "ok",
        "Partial": "partial 900/1000, fewer seeds",
        "Dirty": "dirty, fewer seeds",
        "ZeroShot": "ok",
    }
    assert cell(table, 0, "Wall s") == "-"


def test_costs_of_different_hardware_are_neither_averaged_nor_silently_compared() -> None:
    (table,) = tables(
        make_record(id__seed=0),
        make_record(id__seed=1, env__gpu="A100"),
        make_record(id__config_hash="d" * 64, model__method="Other", env__gpu="A100"),
    )
    mixed, other = (names(table).index(name) for name in ("MVAdapter", "Other"))
    assert cell(table, mixed, "Peak GB") == "-"
    assert states(table)["MVAdapter"] == "mixed hardware"
    assert cell(table, other, "Peak GB") == "8.00"
    assert "hardware 1" in states(table)["Other"]
    assert any("(1) 2 x A100; (2) 2 x H200" in note for note in table.notes)


def test_question_answering_has_an_accuracy_column() -> None:
    cost = {"clips_per_s": None}
    answers = {"accuracy": 41.25, "per_type": {"what": 33.0}, "n": 10, "cost": cost}
    (table,) = tables(make_record(eval=answers))
    assert cell(table, 0, "Accuracy") == "41.2"
    assert "t2v R@1" not in shown(table)


def test_questions_and_retrieval_share_no_table() -> None:
    cost = {"clips_per_s": None, "texts_per_s": None, "ms_per_query": None}
    answers = {"accuracy": 41.25, "per_type": {"what": 33.0}, "n": 10, "cost": cost}
    assert len(tables(make_record(), make_record(eval=answers, id__seed=1))) == 2


def test_question_answering_shows_types_and_what_can_be_answered() -> None:
    cost = {"clips_per_s": None}
    vocabulary = {"file": "train_qa.json", "sha256": "9" * 64, "size": 1500, "coverage": 93.04}
    answers = {"accuracy": 41.25, "per_type": {"what": 33.0, "who": 50.0}, "n": 10, "cost": cost}
    other = {**answers, "per_type": {"what": 34.0}, "vocabulary": {**vocabulary, "size": 1000}}
    (table,) = tables(
        make_record(eval={**answers, "vocabulary": vocabulary}),
        make_record(eval=other, id__config_hash="d" * 64, model__method="Other"),
    )
    row = names(table).index("Other")
    assert (cell(table, row, "Accuracy what"), cell(table, row, "Accuracy who")) == ("34.0", "-")
    assert (cell(table, 1 - row, "Accuracy what"), cell(table, 1 - row, "Accuracy who")) == ("33.0", "50.0")
    (note,) = (note for note in table.notes if note.startswith("Answers that can be given"))
    assert "1500 from train_qa.json (coverage 93.0 %)" in note
    assert "1000 from train_qa.json" in note
    assert any("1000 questions; 1000 videos" in note for note in table.notes)


def test_many_question_types_get_no_columns_where_there_is_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    cost = {"clips_per_s": None}
    types = {f"type {n}": 50.0 for n in range(MOST_TYPES + 1)}
    found = report_of(make_record(eval={"accuracy": 50.0, "per_type": types, "n": 10, "cost": cost}))
    texts = rendered(found)
    (page,) = (text for name, text in texts.items() if name.endswith(".md"))
    (paper,) = (text for name, text in texts.items() if name.endswith(".tex"))
    print_tables(found.tables)
    assert not [text for text in (page, paper, capsys.readouterr().out) if "type 1" in text]
    for text in (texts["wide.csv"], texts["report.json"], Pages(found, Beside(), Clips()).index()):
        assert "Accuracy type 8" in text


def test_types_that_have_no_room_beside_the_score_have_a_grid_of_their_own_in_markdown() -> None:
    cost = {"clips_per_s": None}
    for count, shown in ((3, False), (4, True), (MOST_TYPES, True)):
        types = {f"type {n}": 50.0 + n for n in range(count)}
        found = report_of(make_record(eval={"accuracy": 50.0, "per_type": types, "n": 10, "cost": cost}))
        (page,) = (text for name, text in rendered(found).items() if name.endswith(".md"))
        header = " | ".join(["| Method", *(f"Accuracy {name}" for name in types)])
        assert (f"{header} |" in page) == shown
        assert "Accuracy type 2" in page


# --- files and exit codes


def test_report_is_written_printed_and_deterministic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "runs" / "b", id__seed=1)
    save(tmp_path / "runs" / "a")
    save(tmp_path / "runs" / "c", protocol__id="msrvtt-full")
    save(tmp_path / "runs" / "d", status="failed", eval=None)
    (tmp_path / "elsewhere").mkdir()
    assert main(tmp_path / "runs", "--output", tmp_path / "one") == 0
    assert main(tmp_path / "elsewhere", tmp_path / "runs", "--output", tmp_path / "new" / "two") == 0
    assert "MVAdapter" in capsys.readouterr().out
    for name in ("leaderboard.md", "leaderboard.csv"):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "new" / "two" / name).read_bytes()

    page = (tmp_path / "one" / "leaderboard.md").read_text()
    assert page.count("| MVAdapter |") == 4, "quality and costs of two tables"
    assert page.count("## msrvtt, msrvtt-") == 2
    assert "## Rejected / not comparable" in page
    assert "status is 'failed'" in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.count("|") <= 10, line


def test_csv_has_one_line_per_run_and_metric(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "a", eval__t2v__R1=100 / 3)
    save(tmp_path / "runs" / "b", id__seed=1)
    main(tmp_path / "runs", "--output", tmp_path / "report")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "report" / "leaderboard.csv").read_text())))
    values = {(line["seed"], line["metric"]): line["value"] for line in lines}
    assert len(values) == len(lines)
    assert values["0", "eval.t2v.R1"] == str(100 / 3)
    assert values["1", "train.peak_allocated_bytes.1"] == "8000000000"
    assert {line["protocol.preprocess.frames"] for line in lines} == {"12"}


def test_fixtures_are_stamped_and_apart(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "a")
    save(tmp_path / "runs" / "b", origin="fixture", eval__t2v__R1=99.0)
    main(tmp_path / "runs", "--output", tmp_path / "report")
    page = (tmp_path / "report" / "leaderboard.md").read_text()
    assert page.count("## FIXTURE - not benchmark results: msrvtt, msrvtt-1ka") == 1
    assert page.index("## msrvtt, msrvtt-1ka") < page.index("## FIXTURE") < page.index("99.0")


def test_strict_fails_on_any_rejected_run(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "a")
    assert main(tmp_path / "runs", "--output", tmp_path / "report", "--strict") == 0
    save(tmp_path / "runs" / "b", id__seed=1, env__dirty=True)
    assert main(tmp_path / "runs", "--output", tmp_path / "report") == 0
    page = (tmp_path / "report" / "leaderboard.md").read_text()
    assert "| 2 | dirty, unpaired |" in page
    assert "Rejected" not in page
    assert main(tmp_path / "runs", "--output", tmp_path / "report", "--strict") == 4
    page = (tmp_path / "report" / "leaderboard.md").read_text()
    assert "| 1 | unpaired |" in page
    assert "b/result.json: dirty" in page


def test_no_valid_run_is_an_error_that_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "runs" / "a", status="interrupted")
    with pytest.raises(DataError, match=r"no valid run below .*runs \(1 rejected\)") as error:
        main(tmp_path / "runs", "--output", tmp_path / "report")
    assert error.value.exit_code == 4
    assert "status is 'interrupted'" in capsys.readouterr().out
    assert not (tmp_path / "report").exists()


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "a")
    with pytest.raises(DataError, match="typo: no such folder"):
        main(tmp_path / "runs", tmp_path / "typo")


def test_output_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "runs" / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file: cannot be looked into: Not a directory"):
        main(tmp_path / "runs", "--output", tmp_path / "file")


# --- foreign text


HOSTILE = "=1+1|`x`\n## [a](http://b) <img src=x> **b** \x1b[31m\u202e\\"


def test_hostile_names_stay_in_their_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "runs" / "a", model__method=HOSTILE, protocol__dataset=HOSTILE)
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "result.json").write_text(json.dumps({"schema": HOSTILE}))
    main(tmp_path / "runs", "--output", tmp_path / "report")
    page = (tmp_path / "report" / "leaderboard.md").read_text()
    assert "<img" not in page
    assert "[a](" not in page
    assert len([line for line in page.splitlines() if line.startswith("## ")]) == 3, "published figures are the last"
    assert "\x1b" not in page + capsys.readouterr().out
    assert "\u202e" not in page
    for line in (tmp_path / "report" / "leaderboard.csv").read_text().splitlines()[1:]:
        assert "'=1+1" in line
        assert ",=1" not in line


def test_hostile_keys_stay_in_their_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What decides pixels is open to later versions, so its names are foreign text, too."""
    preprocess = make_record()["protocol"]["preprocess"]
    hostile = {HOSTILE: HOSTILE, "nested": {HOSTILE: [1, {"a": HOSTILE}]}, "=2+5": 1}
    save(tmp_path / "runs" / "a", protocol__preprocess=preprocess | hostile)
    save(tmp_path / "runs" / "b")
    main(tmp_path / "runs", "--output", tmp_path / "report")
    page, out = (tmp_path / "report" / "leaderboard.md").read_text(), capsys.readouterr().out
    assert "<img" not in page
    assert len([line for line in page.splitlines() if line.startswith("## ")]) == 3, "published figures are the last"
    assert not {"\x1b", "\u202e"} & set(page + out)
    header = (tmp_path / "report" / "leaderboard.csv").read_text().splitlines()[0]
    assert "protocol.preprocess.=2+5" in header


def test_escape_markdown() -> None:
    assert escape_markdown("a_b|c*`[x]\\") == r"a\_b\|c\*\`\[x\]\\"
    assert escape_markdown("www.a.example WWW.b.example") == r"www\.a.example WWW\.b.example"
    assert escape_markdown("https://a.example ftp://b") == r"https\://a.example ftp\://b"
    assert escape_markdown("@user a@b.example, t2v R@1, 50@1.5") == "@<!-- -->user a@<!-- -->b.example, t2v R@1, 50@1.5"
    assert escape_markdown("<b>&#39;\n'") == "&lt;b&gt;&amp;#39; '"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "' =1"),
        ("-1.5e-3", "-1.5e-3"),
        (-1.5, "-1.5"),
        ("a=b", "a=b"),
        (True, "true"),
        (None, ""),
    ],
)
def test_csv_cell(value: object, shown: str) -> None:
    assert csv_cell(value) == shown


# --- many


def test_notes_of_many_tables_stay_short() -> None:
    many = tables(*(make_record(protocol__id=f"p{number}", id__config_hash=f"{number:064x}") for number in range(30)))
    notes = [note for table in many for note in table.notes if "Not comparable" in note]
    assert len(notes) == len(many) == 30
    assert all("the other 29 tables" in note and note.endswith(" or 24 more).") for note in notes)
    assert len({table.id for table in many}) == 30


def test_hashes_that_begin_alike_are_told_apart() -> None:
    (table,) = tables(*(make_record(id__config_hash="c" * 10 + digit * 54) for digit in "ab"))
    assert sorted(names(table)) == ["MVAdapter (cccccccccca)", "MVAdapter (ccccccccccb)"]


def test_no_runs_at_all_say_how_to_get_some(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for folder in ("runs", "typo"):
        with pytest.raises(DataError, match="`petl-bench fit` writes into runs, `petl-bench demo` makes some") as error:
            main(tmp_path / folder, "--output", tmp_path / "report")
        assert error.value.exit_code == 4
    assert not (tmp_path / "report").exists()


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "scratch" / "one" / "seed0")
    save(tmp_path / "runs" / "z" / "seed1", id__seed=1)
    for link, target in (
        *(("runs/linked", "scratch/one"), ("runs/a", "runs/z/seed1"), ("scratch/one/up", "runs")),
        *(("runs/z/circle", "runs/z"), ("runs/broken", "nothing"), ("runs/self", "runs/self")),
    ):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = collect([tmp_path / "runs"])
    paths = [run.path.relative_to(tmp_path).as_posix() for run in found.runs]
    assert paths == ["runs/linked/seed0/result.json", "runs/z/seed1/result.json"], "a folder's own name before a link's"
    assert not found.rejected
    (tmp_path / "whole").symlink_to(tmp_path / "runs")
    assert len(collect([tmp_path / "whole", tmp_path / "runs"]).runs) == 2


def test_files_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    out = tmp_path / "report"
    save(tmp_path / "runs" / "a")
    other = save(tmp_path / "runs" / "b", protocol__dataset="msvd")
    assert main(tmp_path / "runs", "--output", out) == 0
    (out / "tables" / "mine.tex").write_text("theirs", encoding="utf-8")
    before = {path.name for path in (out / "tables").glob("*.tex")}
    (other / "result.json").unlink()
    assert main(tmp_path / "runs", "--output", out) == 0
    after = {path.name for path in (out / "tables").glob("*.tex")}
    assert (len(before), len(after)) == (3, 2)
    assert "mine.tex" in after


def test_the_mean_of_types_has_a_column_where_a_record_says_it(tmp_path: Path) -> None:
    run = answers(tmp_path / "a", [1.0, 0.0, 1.0, 1.0], ["many", "many", "many", "few"], None)
    assert "Mean of types" not in [column.title for column in build_tables([run])[0].columns]
    run.record["eval"]["mean_of_types"] = 250 / 3
    (table,) = build_tables([run])
    assert cell(table, 0, "Mean of types") == "83.3"
    assert cell(table, 0, "Accuracy") == "75.0"
    run.record["eval"]["mean_of_types"] = 90.0
    (rejected,) = verified(Collection([run], []), None).rejected
    assert "mean_of_types is 90, but ranks.npz gives 83.3333" in rejected.reason
