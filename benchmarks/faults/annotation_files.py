"""Annotation files and answer lists as people make them: read where there is no doubt, else refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.children import end_with
from benchmarks.faults.trials import HELD, PATIENCE, ROOT, Bench, Ended, Trial, completed, first_problem, refused
from petl_bench.main import main as petl_bench

_TINY = "--model.init_args.backbone=backbone/clip_tiny.yaml"


class Table(NamedTuple):
    """A file of test captions, and what `data describe` is to make of it.

    Attributes:
        content: of the file.
        told: what the refusal holds; empty if the file can be read.
        name: of the file.
        captions: how many are read.
    """

    content: str | bytes
    told: str = ""
    name: str = "test.csv"
    captions: int = 2


def ended(bench: Bench, arguments: list[str]) -> Ended:
    """One command in a fork of this process, which has imported everything."""
    output, started = bench.new("output") / "output.txt", time.monotonic()
    child = os.fork()
    if not child:
        end_with(partial(_run, bench, arguments), output)
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - started > PATIENCE:
            os.kill(child, 9)
        time.sleep(0.05)
    return Ended(os.waitstatus_to_exitcode(done[1]), output.read_text(errors="replace"), time.monotonic() - started)


def _run(bench: Bench, arguments: list[str]) -> int:
    os.chdir(bench.folder)
    return petl_bench(arguments)


def described(tables: list[Table], bench: Bench) -> str:
    """`HELD` if `data describe` reads, or refuses, each file of test captions as it should."""
    return first_problem(*(_described(table, bench) for table in tables))


def _described(table: Table, bench: Bench) -> str:
    root = bench.new("custom")
    content = table.content.encode() if isinstance(table.content, str) else table.content
    (root / table.name).write_bytes(content)
    (root / "train.csv").write_text("video,caption\nvideo0,a red circle\n")
    options = [f"--data.root={root}", f"--data.test_file={table.name}"]
    result = ended(bench, ["data", "describe", "--config=data/custom.yaml", *options])
    if table.told:
        found = first_problem(refused(result, 4, table.name), refused(result, 4, table.told))
        # The other split is described all the same.
        return found or ("" if '"videos": 1' in result.text else f"the training split is lost: {result.text[-300:]}")
    if result.code or result.messages:
        return f"{content[:40]!r}: {completed(result) or result.messages}"
    split = json.loads(result.text[result.text.index("{") :])["splits"]["test"]
    return HELD if split["captions"] == table.captions else f"{content[:40]!r}: {split}"


def evaluated(rows: list[dict[str, Any]], bench: Bench) -> str:
    """`HELD` if a model is tested on captions."""
    root = bench.new("custom")
    (root / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (root / "train.csv").write_text("video,caption\nvideo9,a red circle\n")
    (root / "videos").mkdir()
    for place, name in enumerate(dict.fromkeys(str(row["video"]) for row in rows)):
        os.link(bench.data / "videos" / f"video{place}.mp4", root / "videos" / f"{name}.mp4")
    options = ["--data=data/custom.yaml", "--data.init_args.test_file=test.jsonl", "--data.init_args.num_workers=0"]
    run = ["test", "--config=fixture_zeroshot", *options, _TINY, f"--data.init_args.root={root}"]
    return completed(ended(bench, [*run, f"--runs_dir={bench.new()}"]))


def _fit(bench: Bench, runs: Path, *more: str) -> Ended:
    options = [_TINY, f"--data.init_args.root={bench.data}", "--trainer.max_epochs=1", "--data.init_args.num_workers=0"]
    quiet = ["--trainer.enable_progress_bar=false", "--data.init_args.batch_size=8"]
    return ended(bench, ["fit", "--config=fixtureqa_full", *options, *quiet, f"--runs_dir={runs}", *more])


def _task(path: Path) -> str:
    return f"--model.init_args.task.init_args.answer_list={path}"


def answer_list(write: Callable[[list[str]], str], bench: Bench) -> str:
    """`HELD` if a list of the answers, written in some way, is read as it is meant."""
    rows = json.loads((bench.data / "train_qa.json").read_text())
    listed = sorted({row["answer"] for row in rows})
    folder, runs = bench.new("answers"), bench.new()
    (folder / "answers.txt").write_text(write(listed))
    result = _fit(bench, runs, _task(folder / "answers.txt"))
    if problem := completed(result):
        return problem
    vocabulary = json.loads(next(runs.rglob("result.json")).read_text())["eval"]["vocabulary"]
    if (vocabulary["size"], vocabulary["coverage"]) != (len(listed), 100):
        return f"{len(listed)} answers are read as {vocabulary}"
    return HELD if "answers.txt answers 100.0 %" in result.text else f"the coverage is not told: {result.text[:300]}"


def foreign_list(bench: Bench) -> str:
    """`HELD` if a list of other answers ends the run before it begins."""
    folder, runs = bench.new("answers"), bench.new()
    (folder / "answers.txt").write_text("nothing\nof this\n")
    result = _fit(bench, runs, _task(folder / "answers.txt"))
    return first_problem(refused(result, 4, "answers.txt answers 0.0 %"), _nothing_in(runs))


def asked_twice(bench: Bench) -> str:
    """`HELD` if two test questions of one id end the run before it begins."""
    root, runs = bench.new("questions"), bench.new()
    for name in ("train_qa.json", "val_qa.json", "test_qa.json", "videos"):
        (root / name).symlink_to(bench.data / name)
    rows = json.loads((bench.data / "test_qa.json").read_text())
    rows[2]["id"] = rows[0]["id"]
    (root / "test_qa.json").unlink()
    (root / "test_qa.json").write_text(json.dumps(rows))
    options = (f"--data.init_args.root={root}", "--data.init_args.partial=true", _task(bench.data / "train_qa.json"))
    result = _fit(bench, runs, *options)
    return first_problem(refused(result, 4, "test_qa.json, record 2: question id"), _nothing_in(runs))


def _nothing_in(runs: Path) -> str:
    return f"the run left {list(runs.rglob('*'))}" if list(runs.rglob("adapter.safetensors")) else HELD


def question_ids(bench: Bench) -> str:
    """`HELD` if ids that are no numbers are refused, and texts that are no numbers stay texts."""
    wrong = ["Infinity", "1e999", "NaN", "1.5", "true", "[1]"]
    return first_problem(*(_question_id(value, bench) for value in wrong), _question_id('"007"', bench, held=True))


def _question_id(value: str, bench: Bench, held: bool = False) -> str:
    root = bench.new("questions")
    row = f'{{"video": "video0", "question": "What?", "answer": "red", "id": {value}}}'
    for name in ("train.jsonl", "test.jsonl"):
        (root / name).write_text(row)
    files = ["--data.train_file=train.jsonl", "--data.test_file=test.jsonl"]
    result = ended(bench, ["data", "describe", "--config=data/custom_qa.yaml", f"--data.root={root}", *files])
    return completed(result) if held else refused(result, 4, "test.jsonl, line 1: 'id' is ")


def planted(bench: Bench) -> str:
    """`HELD` if a minute of fuzzing finds a fault behind five conditions."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--seconds", "60", f"--output={bench.new('fuzz')}", "planted"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return HELD if done.returncode == 1 and "KeyError" in done.stdout else f"{done.returncode}: {done.stdout[-300:]}"


def _records(**values: str) -> Table:
    """A JSON file whose first record has values as they are written."""
    own = ", ".join(f'"{key}": {value}' for key, value in values.items())
    return Table(f'[{{"video": "x", "caption": "a", {own}}}]', "test.json, record 0: ", "test.json")


def trials() -> Iterator[Trial]:
    """One for each row about annotation files and answer lists."""
    head, two = "video,caption\n", "x,one\ny,two\n"
    both = head + two
    readable = {
        "A1 blank lines, CR CR LF": [
            Table(f"{both}\n"),
            Table(f"\n{head}\nx,one\n \n,\ny,two\n\n\n"),
            Table(both.replace("\n", "\r\r\n")),
            Table(both.replace("\n", "\r\n") + "\r\n\r\n"),
        ],
        "A2 other delimiters and headers": [
            Table(both.replace(",", ";")),
            Table(both.replace(",", "\t"), name="test.tsv"),
            Table(" Video , CAPTION \n" + two),
            Table('"Video";"Caption"\n"x";"one, two; three"\n"y";"two"\n'),
            Table("\tcaption\tVIDEO\t\n1\tone\tx\t\n2\ttwo\ty\t\n"),
            Table(two, "no column 'video' in its header (x, one)"),
            Table(f"clip,text\n{two}", "video, caption among them"),
        ],
        "A3 byte order mark, CR alone, other line ends in texts": [
            Table("\ufeff" + both.replace("\n", "\r\n")),
            Table(both.replace("\n", "\r")),
            Table('{"video":"x","caption":"one\u2028\x85"}\n{"video":"y","caption":"two"}\n', name="test.jsonl"),
            Table('{"video":"x","caption":"one"}\r{"video":"y","caption":"two"}\r', name="test.jsonl"),
            Table(both.encode("utf-16"), "UTF-16"),
            Table(f"{head}x,caf\xe9\n".encode("latin-1"), "not UTF-8 (line 2)"),
            Table(f"{head}x,o\0ne\n", "a zero byte in line 2"),
        ],
        "A5a commas and lines in captions": [
            Table(head + 'x,"one, ""two""\nthree"\ny,two\n'),
            Table(f"{both}z,three, four\n", "line 4: 3 fields, the header has 2"),
        ],
        "A5b text after a closing quote": [
            Table(head + 'x,"one" two\n', "line 2: text after a closing quote"),
            Table(head + 'x,"one\ny,two\n', "a quote is opened and never closed"),
        ],
        "A6 moments in JSON that are no seconds": [
            *(_records(end=value) for value in ("Infinity", "1e999", "NaN", "true", '"x"', "1" + "0" * 400)),
            *(_records(start=value) for value in ("-1", "-Infinity", "[1]", "{}")),
            *(_records(start="5", end=end) for end in ("5", "4", "0")),
            Table("[" * 100_000, "it nests too deeply", "test.json"),
            Table('[{"video": "x", "video": "y", "caption": "a"}]', "occurs twice", "test.json"),
        ],
        "A7b fractions in a table": [
            Table("video,caption,start,end\nx,one,1.9,5.9\nx,two,1.9,5.90\n"),
            Table("video,caption,start,end\nx,one,5.9,1.9\n", "line 2"),
            Table("video,caption,start,end\nx,one,1.0,5\nx,two,1,5.0\n"),
        ],
    }
    numbers = {"A1": 70, "A2": 71, "A3": 72, "A5a": 73, "A5b": 73, "A6": 74, "A7b": 74}
    for name, tables in readable.items():
        yield Trial(f"F{numbers[name.split()[0]]}", name, partial(described, tables))
    kept = [{"video": name, "caption": "a circle"} for name in ("007", "1e3", "12_34")]
    long = [{"video": "a", "caption": "😀 " * 3}, {"video": "b", "caption": "word " * 3000}]
    yield Trial("F75", "A8 emoji, captions of 3,000 words", partial(evaluated, long))
    yield Trial("F75", "A8b ids that look like numbers", partial(evaluated, kept))
    yield Trial("F75", "A9 half of a surrogate pair", partial(evaluated, [{"video": "a", "caption": "x \ud83d"}]))
    yield Trial(
        "F76", "A11 captions that are all the same", partial(evaluated, [row | {"caption": "a"} for row in kept])
    )
    yield Trial("F77", "Q2 question ids that are no numbers", question_ids)
    yield Trial("F77", "Q4 two questions with one id", asked_twice)
    spaces = partial(answer_list, lambda listed: "".join(f"{answer} \r\n" for answer in listed))
    blanks = partial(answer_list, lambda listed: "\n\n".join(listed) + "\n\n\n")
    yield Trial("F78", "Q5a answers that end in a space", spaces)
    yield Trial("F78", "Q5b blank lines in a list of answers", blanks)
    yield Trial("F78", "Q5 a list of other answers", foreign_list)
    yield Trial("F79", "a planted fault is found within a minute", planted)
