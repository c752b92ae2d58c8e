"""What is printed: into a pipe that closes early, to a terminal that is not UTF-8, and to none."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from petl_bench.machine.output import console, make_printable
from petl_bench.main import main
from petl_bench.method import Method
from tests.integration.fixture_run import only_record, run

#: Chinese, an emoji, and a byte that is not UTF-8 as Python hands it on
NAME = "数据😀\udcff"


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    command = [sys.executable, "-m", "petl_bench", "list", "configs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


@pytest.mark.parametrize("options", [(), ("-u",)])
@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        ("| true", 141, ""),
        ("2>&1 | true", 141, ""),  # `head -c1` may be slower to leave than all is written
        ("> /dev/full", 5, "petl-bench: error: what was printed is cut (No space left on device)"),
        ("> /dev/full 2>&1", 5, ""),
        ("2> /dev/full | cat > /dev/null", 0, ""),
        ("2>&- | cat > /dev/null", 0, ""),
    ],
)
def test_output_that_nobody_takes(options: tuple[str, ...], redirection: str, code: int, told: str) -> None:
    command = shlex.join([sys.executable, *options, "-m", "petl_bench", "list", "configs"])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} {redirection}"],
        env={**os.environ, "LOCAL_RANK": "1"},  # left over from another job
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(told)
    assert done.stderr.count("\n") == bool(told)


@pytest.mark.parametrize(("arguments", "code"), [(["report", "--help"], 141), (["fti"], 2)])
def test_output_that_nobody_takes_of_help_and_errors(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "petl_bench", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        assert process.wait(60) == code


def test_a_pipe_that_is_full_is_waited_for() -> None:
    """Who else has it open may have made it one that refuses instead."""
    code = "import os, sys; os.set_blocking(1, False); sys.argv = ['', 'list', 'configs']\n"
    code += "import petl_bench.main as m, petl_bench.commands.list as l\n"
    code += "l._print_configs = lambda items: print('x' * 1_000_000); m.console()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        time.sleep(1)
        assert len(process.stdout.read()) == 1_000_001
        assert process.wait(60) == 0


class Gone(io.StringIO):
    """A stream that is no file, and whose reader has gone."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError


def test_tables_for_a_reader_that_is_no_file_and_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):  # and not rich's SystemExit(1)
        console().print("a table")
    assert main(["list", "methods"]) == 141


def test_streams_are_given_back(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False))) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["--version"]) == 0
        assert sys.stdout is stream
    assert capfd.readouterr().out.startswith("petl-bench ")


def test_commands_of_several_threads(capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    commands = [["list", "methods"], ["list", "configs"], ["fti"], ["--version"]]
    threads = [Thread(target=lambda c=command: codes.append(main(c))) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [0, 0, 0, 2]
    assert main(["--version"]) == 0
    assert asyncio.run(asyncio.to_thread(main, ["--version"])) == 0


class Terminal:
    """Streams of an encoding, in the place of the standard ones."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = encoding
        self.streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
        for name, stream in self.streams.items():
            monkeypatch.setattr(sys, name, stream)

    def shown(self) -> str:
        """All that was printed; decoding it fails if it is not of the encoding."""
        found = ""
        for stream in self.streams.values():
            stream.flush()
            found += stream.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]  # a BytesIO
        return found


@pytest.fixture(scope="module")
def foreign(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose folder, videos and captions are in letters that few encodings have."""
    root = tmp_path_factory.mktemp("foreign") / NAME
    (root / "videos").mkdir(parents=True)
    for split, numbers in (("train", (0, 1, 2, 3)), ("test", (16, 17))):
        rows = []
        for number in numbers:
            (root / "videos" / f"视频{number}.mp4").symlink_to(dataset / "videos" / f"video{number}.mp4")
            rows.append({"video": f"视频{number}", "caption": f"一个红色的圆 {number} 😀 \ud83d"})
        (root / f"captions_{split}.json").write_text(json.dumps(rows), encoding="ascii")
    return root


def custom(root: Path) -> tuple[str, ...]:
    files = (f"--data.init_args.{split}_file=captions_{split}.json" for split in ("train", "test"))
    return ("--data=data/custom.yaml", f"--data.init_args.root={root}", "--data.init_args.batch_size=2", *files)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_run_ends_well_on_any_terminal(
    encoding: str, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Method, "label", "方法\udcff")
    terminal, runs = Terminal(encoding, monkeypatch), tmp_path / NAME
    config = ("fixture_linear", foreign, runs, *custom(foreign))
    code = run("fit", *config)
    shown = terminal.shown()
    assert code == 0, shown
    assert "record: " in shown
    assert "\\udcff" in shown
    folder, record = only_record(runs)
    assert record["model"]["method"] == "方法\udcff"
    assert run("test", *config, f"--ckpt_path={folder / 'adapter.safetensors'}") == 0
    code = main(["test", f"--ckpt_path={folder / 'adapter.safetensors'}"])
    assert code == 0, terminal.shown()[-300:]
    assert run("fit", *config, "--trainer.max_epochs=a") == 2
    assert main(["report", str(runs), f"--output={runs / 'report'}"]) == 0
    around = ("--config=data/custom.yaml", *custom(foreign)[1:], "--data.init_args.partial=true")
    assert main(["data", "describe", *around]) == 0
    assert "视频" not in terminal.shown() or encoding == "utf-8"
    written = [
        path for path in (runs / "report").rglob("*") if path.suffix in (".csv", ".html", ".json", ".md", ".tex")
    ]
    for file in (*folder.glob("*.json"), *folder.glob("*.yaml"), *written):
        file.read_text(encoding="utf-8")
    assert "方法" in (runs / "report" / "leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_a_terminal(stream: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = None
    if stream == "closed":
        gone = io.StringIO()
        gone.close()
    monkeypatch.setattr(sys, "stdout", gone)
    monkeypatch.setattr(sys, "stderr", gone)
    assert main(["list", "methods"]) == 0
    assert main(["fti"]) == 2


def test_descriptors_that_were_closed_are_not_given_to_files(tmp_path: Path) -> None:
    """Else what a library prints would be written into the next file that is opened."""
    child = os.fork()
    if not child:
        for number in (0, 1, 2):
            os.close(number)
        make_printable()
        opened = os.open(tmp_path / "file", os.O_CREAT | os.O_WRONLY)
        os.write(1, b"printed")
        os._exit(0 if opened > 2 and not (tmp_path / "file").read_bytes() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
