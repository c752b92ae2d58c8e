"""Trials of files that an earlier version wrote: read as what they are, or refused by name in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from benchmarks.faults.trials import HELD, ROOT, Bench, Ended, Trial, completed, first_problem, refused, resumed
from petl_bench.storage.checkpoints import LAST, SafeCheckpointIO

OLD = ROOT / "tests" / "files_of_3e531d0"
TRAINED = {
    "AdaptFormer": "msrvtt-fixture/adaptformer/clip-tiny/60d7b55a/seed0",
    "MV-Adapter": "msrvtt-fixture/mv-adapter-kronecker-frozen-biases/clip-tiny/acb3a4b9/seed0",
    "BLIP's answers": "msrvttqa-fixture/adaptformer/blip-tiny/48b084a5/seed0",
}
FIRST = TRAINED["AdaptFormer"]
#: runs several commands in one process, which spares the time to load torch; ends with the code of the last
_IN_TURN = """
import json, sys
from petl_bench.main import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    if code:
        break
sys.exit(code)
"""


def in_turn(bench: Bench, *commands: list[str]) -> Ended:
    """Commands of petl-bench one after the other, to the first that fails."""
    return bench.run([sys.executable, "-c", _IN_TURN, json.dumps(commands)])


def data(bench: Bench) -> Path:
    """What the old runs were trained on, generated when it is first asked for."""
    folder = bench.folder / "old-data"
    if not folder.is_dir():
        size = ["--train-videos=16", "--test-videos=8", "--captions-per-video=2"]
        ended = in_turn(bench, ["fixture", str(folder), *size])
        if ended.code:
            raise RuntimeError(ended.text[-300:])
    return folder


def copied(bench: Bench, part: str = "runs") -> Path:
    """The old folders of runs where a trial may write."""
    return Path(shutil.copytree(OLD / part, bench.new("old") / "runs"))


def repeated(bench: Bench, runs: Path, *more: str) -> list[str]:
    """The command that repeats the first of the old runs, or goes on with it."""
    config = OLD / "runs" / FIRST / "config.yaml"
    return ["fit", f"--config={config}", f"--runs_dir={runs}", f"--data.init_args.root={data(bench)}", *more]


def figures(path: Path) -> dict[str, object]:
    """What a record says was found, without its cost."""
    return {name: value for name, value in json.loads(path.read_text())["eval"].items() if name != "cost"}


def trained_alike(folder: Path) -> str:
    """`HELD` if a run has the weights of the first old one; other processors compute other last digits."""
    found, before = load_file(folder / "adapter.safetensors"), load_file(OLD / "runs" / FIRST / "adapter.safetensors")
    alike = found.keys() == before.keys() and all(
        np.allclose(found[name], tensor, rtol=1e-3, atol=1e-5) for name, tensor in before.items()
    )
    return HELD if alike else "the weights differ from those of the old run"


def _reported(bench: Bench) -> str:
    page = bench.new("report")
    ended = in_turn(bench, ["report", str(OLD / "runs"), "--strict", f"--output={page}"])
    text = (page / "leaderboard.md").read_text() if ended.code == 0 else ""
    rows = [
        text.count(f"| {state} |") for state in ("ok", "unpaired")
    ]  # old answers do not say whose clips they are of
    return first_problem(completed(ended), HELD if rows == [4, 1] else f"{sum(rows)} of 5 runs are in the report")


def _without_configuration(bench: Bench) -> str:
    runs, page = copied(bench), bench.new("report")
    (runs / TRAINED["BLIP's answers"] / "config.yaml").unlink()
    both = [str(runs / "msrvttqa-fixture"), str(OLD / "runs" / "msrvttqa-fixture")]
    ended = in_turn(bench, ["report", *both, f"--output={page}"])
    if ended.code:
        return completed(ended)
    text = (page / "leaderboard.md").read_text()
    apart = text.count("## FIXTURE") == 2 and text.count("the record does not say protocol.preprocess.text") == 1
    return HELD if apart else "a run whose words are unknown is compared with one whose words are known"


def _mixture(bench: Bench) -> str:
    """Whole, cut, foreign and later records in one folder."""
    runs, page = copied(bench), bench.new("report")
    record = runs / FIRST / "result.json"
    text = record.read_text()
    faulty = {
        "cut": (text[: len(text) // 2], "cannot be read as JSON"),
        "later": (text.replace("petl_bench.result/1", "petl_bench.result/99"), "schema is 'petl_bench.result/99'"),
        "unknown field": (text.replace('"qb_norm": false', '"qb_norm": true'), "qb_norm"),
        "no record": ("[]", "schema is None"),
    }
    for name, (content, _) in faulty.items():
        (runs / name).mkdir()
        (runs / name / "result.json").write_text(content)
    ended = in_turn(bench, ["report", str(runs), f"--output={page}"])
    unnamed = [
        name
        for name, (_, told) in faulty.items()
        if f"{name}/result.json: " not in ended.text or told not in ended.text
    ]
    return first_problem(completed(ended), f"left out without their reason: {unnamed}" if unnamed else HELD)


def _tested(bench: Bench) -> str:
    runs = copied(bench)
    adapters = [runs / folder / "adapter.safetensors" for folder in TRAINED.values()]
    where = f"--data.init_args.root={data(bench)}"
    ended = in_turn(bench, *(["test", f"--ckpt_path={adapter}", where] for adapter in adapters))
    if ended.code:
        return completed(ended)
    other = [name for name, folder in TRAINED.items() if _differs(runs / folder)]
    return f"other figures than in the record: {', '.join(other)}" if other else HELD


def _differs(folder: Path) -> bool:
    return figures(folder / "test.json") != figures(folder / "result.json")


def _trained_again(bench: Bench) -> str:
    runs = bench.new()
    ended = in_turn(bench, repeated(bench, runs))
    return first_problem(completed(ended), trained_alike(next(runs.rglob("result.json")).parent))


def _complete(bench: Bench) -> str:
    return refused(in_turn(bench, repeated(bench, copied(bench))), 2, "this run is complete")


def _goes_on(bench: Bench, renamed: bool) -> str:
    runs = copied(bench, "interrupted")
    if renamed:  # as if it had been hashed by another rule still
        folder = next(runs.rglob(LAST)).parents[1]
        folder.rename(folder.with_name("00000000"))
    ended = in_turn(bench, repeated(bench, runs))
    if ended.code:
        return completed(ended)
    (record,) = runs.rglob("result.json")  # in the folder that its configuration has by today's hash
    return first_problem(resumed(runs), trained_alike(record.parent))


def _changed(bench: Bench, change: Callable[[dict], object], code: int, told: str) -> str:
    """An interrupted run whose checkpoint was changed: refused, or started over with a word."""
    runs = copied(bench, "interrupted")
    path = next(runs.rglob(LAST))
    checkpoint = torch.load(path)
    change(checkpoint)
    SafeCheckpointIO().save_checkpoint(checkpoint, path)
    path.with_name("last-1.ckpt").unlink()
    ended = in_turn(bench, repeated(bench, runs))
    if code:
        return refused(ended, code, told)
    return first_problem(completed(ended), HELD if told in ended.text else f"nothing says '{told}'")


def _other_format(bench: Bench) -> str:
    adapter = copied(bench) / FIRST / "adapter.safetensors"
    described = json.dumps({"format": "petl_bench.adapter/1", "method": "methods.adaptformer.AdaptFormer"})
    save_file(load_file(adapter), adapter, {"petl_bench": described})
    ended = in_turn(bench, ["test", f"--ckpt_path={adapter}", f"--data.init_args.root={data(bench)}"])
    return refused(ended, 5, "(format 'petl_bench.adapter/1')")


def trials() -> list[Trial]:
    """All trials of this file."""
    gone = partial(_changed, change=lambda c: c["run"]["basis"].update({"data.init_args.gone": 3}), code=5)
    other = partial(_changed, change=lambda c: c["run"]["basis"].update(annotation_files="0" * 64), code=0)
    silent = partial(_changed, change=lambda c: c.pop("run"), code=0)
    return [
        Trial("F85", "old records are reported", _reported),
        Trial("F86", "an old record whose configuration is gone", _without_configuration),
        Trial("F87", "old, cut, later and foreign records in one folder", _mixture),
        Trial("F88", "old adapters give the figures of their records", _tested),
        Trial("F89", "an old config.yaml repeats its run", _trained_again),
        Trial("F90", "a complete old run is not trained again", _complete),
        Trial("F91", "an old interrupted run goes on", partial(_goes_on, renamed=False)),
        Trial("F91", "the same under a name of another rule of hashing", partial(_goes_on, renamed=True)),
        Trial("F92", "an option of an old run that is gone", partial(gone, told="data.init_args.gone was 3, is None")),
        Trial(
            "F92",
            "an old run on other annotation files",
            partial(other, told="it was on other annotation files"),
        ),
        Trial(
            "F93",
            "a checkpoint from before what it depends on",
            partial(silent, told="it does not say on which annotation files"),
        ),
        Trial("F94", "an adapter of another format", _other_format),
    ]
