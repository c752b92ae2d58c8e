"""A site says nothing of the machine it was made on, and takes nobody's files away."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from petl_bench.errors import UsageError
from petl_bench.report import site as sites
from petl_bench.report.collect import Rejected
from petl_bench.report.document import render_document
from petl_bench.report.leaderboard import rendered
from petl_bench.report.model import Report
from petl_bench.report.site import MARKER, portable, publish
from petl_bench.storage import locks
from petl_bench.storage.files import FileError
from petl_bench.storage.locks import HeldError, passing_lock
from tests.made_up_reports import METHODS, make_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alice") / "runs"


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    whole = make_report(folder, seeds=1, methods=METHODS[:3], hostile=False)
    table = whole.tables[3]
    row = table.rows[0]
    row.runs[0].record["model"]["method_config"] = {"file": "/srv/users/alice/words.txt"}
    object.__setattr__(row, "command", f"petl-bench fit --config={folder}/x/config.yaml --data.root=/home/alice/data")
    rejected = Rejected(folder / "a" / "result.json", f"{folder}/a/ranks.npz is not what ~ or {Path.home()}/b says")
    return Report([table], [], [rejected])


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn by matplotlib they take seconds; what they show has been through the same hands."""
    monkeypatch.setattr("petl_bench.report.plots.drawn", lambda plot: {"svg": repr(plot).encode(), "png": b"png"})


def files_of(site: Path) -> set[str]:
    return {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}


def test_it_names_no_folder_of_this_machine(report: Report, folder: Path, tmp_path: Path) -> None:
    publish(report, tmp_path / "site", [folder], rendered)
    found = files_of(tmp_path / "site")
    assert {"index.html", "report.json", "leaderboard.csv", "wide.csv", ".nojekyll", MARKER} <= found
    assert any(name.startswith("plots/") for name in found)
    for name in found:
        content = (tmp_path / "site" / name).read_bytes()
        for trace in (str(folder), str(folder.parent), str(Path.home()), "/tmp/", "alice", "/home/"):
            assert trace.encode() not in content, (name, trace)
    assert b"runs/msrvtt-fixture" in (tmp_path / "site" / "index.html").read_bytes()
    assert b"\xe2\x80\xa6/data" in (tmp_path / "site" / "index.html").read_bytes()


def test_nothing_else_of_the_report_changes(report: Report, folder: Path) -> None:
    moved, places = portable(report, [folder])
    run, original = moved.tables[0].rows[0].runs[0], report.tables[0].rows[0].runs[0]
    assert run.path.parts[0] == "runs"
    assert places[run.path] == original.path
    assert run.record["eval"] == original.record["eval"]
    assert moved.tables[0].rows[0].values == report.tables[0].rows[0].values
    assert moved.tables[0].key == report.tables[0].key
    json.loads(render_document(moved))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("clips/s and 4/5", "clips/s and 4/5"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("--root=/data/sets/msrvtt --x", "--root=…/msrvtt --x"),
        ("'/data/my sets/msrvtt'", "'…/msrvtt'"),
        ("file:///home/bob/secret/x", "…/x"),
        ("/home/john doe/runs/x", "…/x"),
        ("see:/home/bob/x, -I/home/bob/include and C:\\Users\\bob\\runs", "see:…/x, -I…/include and …/runs"),
        ("/home/bob and '/Users/Bob Smith'", "~ and '~'"),
        ("PATH=/opt/a/bin:/home/bob/bin", "PATH=…/bin:…/bin"),
        ("s3://bucket/a/b and host:/srv/bob/x", "s3://bucket/a/b and host:…/x"),
        ("t2v/v2t, R@1 / R@5, ../a/b and …/a", "t2v/v2t, R@1 / R@5, ../a/b and …/a"),
        ("\\textbf{a} \\b", "\\textbf{a} \\b"),
        ("msrvtt-1kA-9k/v1", "msrvtt-1kA-9k/v1"),
        ("/tmp", "/tmp"),
    ],
)
def test_what_counts_as_a_path(text: str, shown: str) -> None:
    moved, _ = portable(Report([], [], [Rejected(Path("a"), text)]), [])
    assert moved.rejected[0].reason == shown


def test_places_of_this_machine_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "J. (von) Doe, jr"
    (home / "at work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "at work")
    text = f"in {home}/x/y.txt, {home}, {home}2/x -I{home}/include file://{home}/a {Path.cwd()}/b.yaml"
    moved, _ = portable(Report([], [], [Rejected(Path("a"), text)]), [home / "at work" / "runs", Path("/")])
    assert "Doe" not in moved.rejected[0].reason.replace("Doe, jr2/x", "")
    assert moved.rejected[0].reason.startswith("in …/y.txt, …, ")
    assert moved.rejected[0].reason.endswith("-I…/include …/a …/b.yaml")


def test_two_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "runs", tmp_path / "b" / "runs"]
    rejected = [Rejected(folder / "x" / "result.json", "cut") for folder in folders]
    moved, places = portable(Report([], [], rejected), folders)
    assert [item.path.as_posix() for item in moved.rejected] == ["runs/x/result.json", "runs-2/x/result.json"]
    assert len(places) == 2


def test_a_folder_of_others_is_refused_and_stays(report: Report, folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "thesis.tex").write_text("mine", encoding="utf-8")
    for marker in (None, "{", "[]", '{"files": ["../thesis.tex"]}', '{"files": "all"}'):
        if marker is not None:
            (site / MARKER).write_text(marker, encoding="utf-8")
        with pytest.raises(UsageError, match="was not made by petl-bench report"):
            publish(report, site, [folder], rendered)
    assert files_of(site) == {"thesis.tex", MARKER}
    with pytest.raises(UsageError):
        publish(report, site / "thesis.tex", [folder], rendered)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_site_is_replaced_and_what_others_keep_in_it_stays(report: Report, folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir(mode=0o750)
    publish(report, site, [folder], lambda report: {"old.json": "{}", "tables/a.tex": "old"})
    for name in ("CNAME", ".git/HEAD", ".git/refs/main", "plots/mine.txt"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("foreign", encoding="utf-8")
    before = files_of(site)
    publish(report, site, [folder], lambda report: {"new.json": "{}", "tables/a.tex": "new"})
    assert files_of(site) == before - {"old.json"} | {"new.json"}
    assert (site / ".git" / "HEAD").read_text(encoding="utf-8") == "foreign"
    assert (site / "tables" / "a.tex").read_text(encoding="utf-8") == "new"
    assert site.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["site"]

    (site / "late.json").write_text("foreign", encoding="utf-8")
    with pytest.raises(UsageError, match="in the way"):
        publish(report, site, [folder], lambda report: {"late.json": "{}"})
    assert (site / "late.json").read_text(encoding="utf-8") == "foreign"
    assert (site / "new.json").is_file()


def test_one_process_at_a_time(report: Report, folder: Path, tmp_path: Path) -> None:
    site, lock = tmp_path / "site", tmp_path / ".site.lock"
    code = "import sys, pathlib; from petl_bench.storage.locks import file_lock\n"
    code += "with file_lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(UsageError, match=r"another process writes the site .*: wait for it, or set --publish"):
            publish(report, site, [folder], rendered)
        assert not site.exists()
        other.kill()
    publish(report, site, [folder], rendered)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_lock_that_was_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    take = locks._take
    monkeypatch.setattr(locks, "_take", lambda *arguments: (path.unlink(), take(*arguments)))
    with pytest.raises(HeldError), passing_lock(path):
        pytest.fail("two would have it")


def test_a_failure_leaves_the_earlier_site(
    report: Report, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    publish(report, site, [folder], rendered)
    before = {name: (site / name).read_bytes() for name in files_of(site)}

    def fails(report: Report) -> dict[str, str]:
        raise FileError(site, "cannot be written: No space left on device")

    with pytest.raises(FileError):
        publish(report, site, [folder], fails)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        """Fails once, where the new site takes its place."""
        if target == site and not failed:
            failed.append(target)
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(self, target)

    failed: list[Path] = []
    monkeypatch.setattr(sites.Path, "rename", rename)
    with pytest.raises(FileError, match="busy"):
        publish(report, site, [folder], rendered)
    monkeypatch.undo()
    assert {name: (site / name).read_bytes() for name in files_of(site)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_same_report_gives_the_same_site(report: Report, folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        publish(report, tmp_path / name, [folder], rendered)
    found = [{name: (tmp_path / site / name).read_bytes() for name in files_of(tmp_path / site)} for site in "ab"]
    assert found[0] == found[1]
