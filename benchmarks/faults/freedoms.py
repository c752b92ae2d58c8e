"""F60 to F69: what Lightning lets a user set, values that options cannot take, terminals that cannot print.

What is refused is refused in one process, which imports everything once.
"""

import json
import os
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.faults import options
from benchmarks.faults.trials import HELD, ROOT, Bench, Ended, Trial, completed, first_problem, refused

#: ends what one command printed, with its exit code
_MARK = "=== exit code "
_MANY = f"""
import json, os, sys
from petl_bench.runs import freedoms
from petl_bench.main import main
freedoms.find_spec = lambda package: None  # whatever is installed here
for environment, arguments in json.loads(sys.argv[1]):
    os.environ.update(environment)
    code = main(arguments)
    for name in environment:
        del os.environ[name]
    sys.stderr.flush()
    print("{_MARK}" + str(code), flush=True)
"""
_HELD_OUT = ("--data.init_args.val_videos=8",)


class Refusal(NamedTuple):
    """A command that is refused before its run has a folder.

    Attributes:
        fault: its number.
        name: with the row of the bug reports.
        told: part of the message.
        options: beside those of a small run.
        code: exit code.
        environment: variables.
    """

    fault: str
    name: str
    told: str
    options: tuple[str, ...]
    code: int = 2
    environment: tuple[tuple[str, str], ...] = ()


def _callback(name: str, **arguments: str) -> tuple[str, ...]:
    return (f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{key}={value}" for key, value in arguments.items()))


_TENSORBOARD = ("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=logs")
_SLURM = (("SLURM_NTASKS", "4"), ("SLURM_JOB_NAME", "fit"))
REFUSALS = (
    Refusal("F60", "C5 seed -1", "seed_everything: expected", ("--seed_everything=-1",)),
    Refusal("F60", "C5 seed 2^32", "seed_everything: expected", ("--seed_everything=4294967296",)),
    Refusal("F61", "C7a a job of several tasks", "put `srun` before petl-bench", (), environment=_SLURM),
    Refusal("F61", "C7b devices -1 of a CPU", "trainer.devices is -1", ("--trainer.devices=-1",)),
    Refusal("F61", "C7b devices 0,1 of a CPU", "trainer.devices is 0,1", ("--trainer.devices=0,1",)),
    Refusal(
        "F63",
        "L1 TensorBoard is missing",
        "needs tensorboard",
        ("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=logs"),
    ),
    Refusal("F63", "L1 wandb is missing", "needs wandb", ("--trainer.logger=WandbLogger",)),
    Refusal("F64", "L2a early stopping on nothing", "monitors nope", _callback("EarlyStopping", monitor="nope")),
    Refusal("F64", "L2b learning rate finder", "LearningRateFinder is not", _callback("LearningRateFinder")),
    Refusal(
        "F64", "L2c validation every 1000 of 4 batches", "val_check_interval is", ("--trainer.val_check_interval=1000",)
    ),
    Refusal("F64", "L2d backbone finetuning", "BackboneFinetuning is not", _callback("BackboneFinetuning")),
    Refusal("F64", "L2d statistics without psutil", "needs psutil", _callback("DeviceStatsMonitor")),
    Refusal(
        "F65",
        "L3 accumulation by schedule",
        "set trainer.accumulate_grad_batches",
        _callback("GradientAccumulationScheduler", scheduling="{0: 2}"),
    ),
    Refusal(
        "F65", "L3 accumulation", "trainer.accumulate_grad_batches: retrieval", ("--trainer.accumulate_grad_batches=2",)
    ),
    Refusal("F65", "L7 pruning", "ModelPruning is not allowed", _callback("ModelPruning")),
    Refusal("F66", "L8 batches of one", "data.batch_size is 1", ("--data.init_args.batch_size=1",)),
    Refusal("F66", "L9 best of no validation", "best_on_val", ("--best_on_val=true",)),
    Refusal(
        "F66",
        "L9 best of validations that never come",
        "validation never",
        ("--best_on_val=true", *_HELD_OUT, "--trainer.check_val_every_n_epoch=7"),
    ),
    Refusal("F67", "R4 foreign checkpoint", "trained with method None", ("--ckpt_path=foreign.ckpt",), 5),
    Refusal("F67", "a pipe in place of a checkpoint", "not a regular file", ("--ckpt_path=pipe.ckpt",), 5),
)


def trials() -> Iterator[Trial]:
    """All of them."""
    for place, refusal in enumerate(REFUSALS):
        yield Trial(refusal.fault, refusal.name, partial(_refused, place))
    for encoding in ("ascii", "latin-1"):
        yield Trial("F62", f"C8a terminal of {encoding}, letters of others", partial(_printed, encoding))
    yield Trial("F68", "L2d Timer, L10 callbacks, logger, profiler", _watched)
    for option in ("max_epochs=0", "limit_train_batches=0", "max_time=00:00:00:00", "overfit_batches=1"):
        yield Trial("F68", f"L11 trainer.{option}", partial(_shortened, option))
    yield Trial("F68", "L12 a learning rate that ends in NaN", _not_finite)
    yield Trial("F69", "a part of all options, with values of every kind", _options)


@cache
def _all_refused(folder: Path, data: Path) -> list[Ended]:
    """How the commands ended, in their order."""
    folder.mkdir()
    bench = Bench(folder, data)
    os.mkfifo(bench.folder / "pipe.ckpt")
    torch.save({"state_dict": {}, "global_step": 3}, bench.folder / "foreign.ckpt")
    commands = []
    for refusal in REFUSALS:
        arguments = bench.fit(bench.folder / "refused", *refusal.options, method="methods.linear.Linear")[3:]
        commands.append((dict(refusal.environment), arguments))
    ended = bench.run([sys.executable, "-c", _MANY, json.dumps(commands)])
    parts = ended.text.split(_MARK)
    codes = [int(part.split("\n", 1)[0]) for part in parts[1:]]
    return [Ended(code, text, ended.seconds) for code, text in zip(codes, parts, strict=False)]


def _refused(place: int, bench: Bench) -> str:
    refusal, folder = REFUSALS[place], bench.folder / "refusals"
    problem = refused(_all_refused(folder, bench.data)[place], refusal.code, refusal.told)
    return problem or ("it has a folder" if (folder / "refused").exists() else HELD)


def _fit(bench: Bench, *more: str) -> Ended:
    return bench.run(bench.fit(bench.new(), *more, method="methods.linear.Linear"))


def _printed(encoding: str, bench: Bench) -> str:
    runs = bench.new("跑步")
    ended = bench.run(bench.fit(runs, "--trainer.max_epochs=1"), PYTHONIOENCODING=encoding)
    return first_problem(completed(ended), HELD if list(runs.rglob("result.json")) else "no record")


def _watched(bench: Bench) -> str:
    runs = bench.new()
    given = (
        *_HELD_OUT,
        *_callback("EarlyStopping", monitor="val_rsum", mode="max"),
        *_callback("LearningRateMonitor"),
        *_callback("RichProgressBar"),
        *_callback("ModelCheckpoint", monitor="val_rsum"),
        *_callback("Timer", duration="00:01:00:00"),
        *("--trainer.enable_progress_bar=true", "--trainer.profiler=simple"),
        *("--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={runs / 'log'}"),
    )
    if problem := completed(bench.run(bench.fit(runs, *given))):
        return problem
    adapter = next(runs.rglob("adapter.safetensors"))
    tested = [
        sys.executable,
        "-m",
        "petl_bench",
        "test",
        "--plugins=benchmarks.faults.faulty",
        f"--ckpt_path={adapter}",
    ]
    if problem := completed(bench.run(tested)):
        return problem
    found, again = (
        json.loads(adapter.with_name(name).read_text())["eval"]["t2v"] for name in ("result.json", "test.json")
    )
    return HELD if found == again else f"the adapter gives {again}, its record says {found}"


def _shortened(option: str, bench: Bench) -> str:
    runs = bench.new()
    if problem := completed(bench.run(bench.fit(runs, f"--trainer.{option}"))):
        return problem
    train = json.loads(next(runs.rglob("result.json")).read_text())["train"]
    return HELD if train is None or train["limits"] else "the record does not say so"


def _not_finite(bench: Bench) -> str:
    return refused(_fit(bench, "--model.init_args.optimizer.init_args.lr=1e12"), 3, "loss is")


def _options(bench: Bench) -> str:
    """In a process of its own, which all values are tried in children of."""
    command = [sys.executable, "-m", "benchmarks.faults.options", f"--share={options.SHARE}"]
    ended = bench.run(command, patience=600, PYTHONPATH=str(ROOT))
    return HELD if ended.code == 0 else " | ".join(ended.text.splitlines()[-4:])[-600:]
