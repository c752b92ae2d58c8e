"""A report is written where nothing else is, by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from petl_bench.commands import report
from petl_bench.errors import UsageError
from petl_bench.report.output import MARKER, require_own, writing_to
from petl_bench.runs.record import write_result
from tests.records import make_record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    (folder / "a").mkdir(parents=True)
    write_result(folder / "a" / "result.json", make_record())
    return folder


def main(*arguments: str | Path) -> int:
    return report.run([str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["index.html", "report.json", "notes.txt", "leaderboard.md", "tables/a.tex", ".cache/x"]
)
def test_files_of_others_stay(name: str, runs: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / name).parent.mkdir(parents=True)
    (mine / name).write_text("mine", encoding="utf-8")
    (mine / "README").write_text("mine", encoding="utf-8")
    before = files_of(mine)
    with pytest.raises(UsageError, match="this holds files and no report of petl-bench: name a new or an empty folder"):
        main(runs, "--output", mine)
    assert files_of(mine) == before


@pytest.mark.parametrize("where", [".", "runs", "runs/a", "link"])
def test_runs_and_pages_do_not_mix(where: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(runs)
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=f"--output {where}: "):
        main("runs", "--output", where)
    assert files_of(tmp_path) == before
    (tmp_path / MARKER).touch()  # a report once, to which somebody moved runs
    with pytest.raises(UsageError, match=r"would lie within the report: name a new folder"):
        require_own(Path(), [Path("runs")])


@pytest.mark.parametrize("where", ["report", "runs/report", "runs/a/report", "new/er/report"])
def test_a_report_is_written_again(where: str, runs: Path, tmp_path: Path) -> None:
    output = tmp_path / where
    for _ in range(2):
        assert main(runs, "--output", output) == 0
    assert (output / MARKER).is_file()
    (output / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(runs, "--output", output) == 0
    assert (output / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "names", [("leaderboard.md", "leaderboard.csv"), ("leaderboard.md", "plots/a.svg"), (".cache/a",)]
)
def test_a_report_of_an_earlier_version_is_taken(names: tuple[str, ...], runs: Path, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "report" / name).write_text("# Leaderboard\n\nof 2025\n", encoding="utf-8")
    assert main(runs, "--output", tmp_path / "report") == 0
    assert "of 2025" not in (tmp_path / "report" / "leaderboard.md").read_text(encoding="utf-8")


def test_one_process_at_a_time(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    assert main(runs, "--output", output) == 0
    before = files_of(output)
    write_result(runs / "a" / "result.json", make_record(model__method="Other"))
    command = [sys.executable, "-m", "petl_bench", "report", str(runs), f"--output={output}"]
    with writing_to(output):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"another process writes a report into {output}: wait for it, or set --output" in done.stderr
    after = files_of(output)
    assert {name: after[name] for name in before if not name.startswith(".cache")} == {
        name: content for name, content in before.items() if not name.startswith(".cache")
    }
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
