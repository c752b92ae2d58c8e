"""`petl-bench plan`: memory, steps, hours and disk of a run, from real training steps at the recipe's size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from pytorch_lightning import Trainer

from petl_bench.cli import lightning as cli
from petl_bench.cli.arguments import Parser
from petl_bench.commands.inspect import CPU_CLIPS, Profile, print_table
from petl_bench.data.base import VideoTextDataModule
from petl_bench.errors import UsageError
from petl_bench.formats import number
from petl_bench.method import Method
from petl_bench.ranges import Count, argument
from petl_bench.runs.trainer_options import devices_of

#: bytes per trained parameter in fp32: itself, its gradient, and two moments of AdamW
_TRAINED_BYTES = 4 * 4
#: checkpoints that are there at once while one is written
_CHECKPOINTS = 3


class Plan(Profile):
    """Estimates memory, steps, hours and disk of a run from a few of its training steps."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        trainer = super().instantiate_trainer(**kwargs)
        self.processes = devices_of(self.options.trainer) * self.options.trainer.num_nodes
        return trainer

    def fit(self, model: Method, datamodule: VideoTextDataModule, **kwargs: Any) -> None:
        """Takes training steps exactly as `fit` does, on made batches of one process's size."""
        if not model.trainable:
            raise UsageError(f"{model.label} trains nothing, so there is nothing to plan; use test")
        if datamodule.batch_size % self.processes:
            raise UsageError(
                f"data.batch_size {datamodule.batch_size} is global and must be a multiple of {self.processes} "
                "processes (trainer.devices times trainer.num_nodes)"
            )
        epochs = self.options.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise UsageError(f"trainer.max_epochs is {epochs}: a plan needs the number of epochs")
        share = datamodule.batch_size // self.processes
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        self.inspection.clips = min(share, self.inspection.clips or (share if on_gpu else CPU_CLIPS))
        rows = training_rows(datamodule, self.inspection.rows)
        steps = epochs * (rows // datamodule.batch_size)
        measured = self._train(model, datamodule)
        hours = steps * share / measured["clips_per_s"] / 3600
        trainable = model.parameter_counts()["trainable"]
        figures = {
            "method": model.label,
            "backbone": model.backbone.name,
            "measured_on": measured["device"],
            "precision": measured["precision"],
            "measured_clips": measured["clips_per_step"],
            "clips_per_s": measured["clips_per_s"],
            "processes": self.processes,
            "clips_per_process": share,
            "memory_bytes": memory_bytes(model, measured, share),
            "rows": rows,
            "epochs": epochs,
            "steps": steps,
            "hours": hours,
            "device_hours": hours * self.processes,
            "adapter_bytes": 4 * trainable,
            "checkpoint_bytes": _CHECKPOINTS * 12 * trainable,
        }
        if self.inspection.json:
            print(json.dumps(figures, indent=2))
            return
        _show(figures)


def memory_bytes(model: Method, measured: dict[str, Any], share: int) -> int:
    """Peak memory of one process with `share` clips.

    The allocator's own figure where all of them were measured on a GPU. Otherwise what is kept per clip for the
    backward pass, scaled, and the weights; buffers that live for a moment only are not in it.
    """
    clips = measured["clips_per_step"]
    if measured["peak_allocated_bytes"] is not None and clips == share:
        return int(measured["peak_allocated_bytes"])
    counts = model.parameter_counts()
    weights = 4 * (counts["total"] - counts["trainable"]) + _TRAINED_BYTES * counts["trainable"]
    return int(measured["saved_activation_bytes"] * share / clips + weights)


def training_rows(data: VideoTextDataModule, given: int | None) -> int:
    """Rows of an epoch: as given, or counted in the annotation files, or the protocol's.

    Raises:
        UsageError: nothing says how many there are.
    """
    if given is not None:
        return given
    every = data.train_captions == "all"
    if all(path.is_file() for path in data.annotation_files().values()):
        samples = data.samples("train")
        return sum(len(sample.captions) for sample in samples) if every else len(samples)
    expected = (data.protocol.captions if every else data.protocol.videos).get("train")
    if expected is None:
        raise UsageError(
            f"{data.protocol.id}: how many {data.texts} an epoch has is written in files that are not below "
            f"{data.root}; set data.root, or give --rows"
        )
    return expected


def _show(figures: dict[str, Any]) -> None:
    gib = 1024**3
    rows = [
        ("training steps", f"{figures['steps']:,} ({figures['epochs']} epochs of {figures['rows']:,} rows)"),
        ("processes x clips", f"{figures['processes']} x {figures['clips_per_process']}"),
        ("memory of a process", f"{number(figures['memory_bytes'] / gib)} GiB"),
        ("hours", number(figures["hours"])),
        ("device-hours", number(figures["device_hours"])),
        ("adapter file", f"{number(figures['adapter_bytes'] / 1e6, 1)} MB"),
        ("checkpoints, at most", f"{number(figures['checkpoint_bytes'] / 1e6, 1)} MB"),
    ]
    print_table(f"{figures['method']} on {figures['backbone']}", ("", ""), rows, left=1)
    scaled = "" if figures["measured_clips"] == figures["clips_per_process"] else ", scaled to the batch"
    print(
        f"from steps of {figures['measured_clips']} clips on {figures['measured_on']} in {figures['precision']}"
        f"{scaled}; reading clips, talk between processes and evaluation come on top"
    )


def run(arguments: Sequence[str], plugins: Sequence[str] = ()) -> int:
    """Runs `plan`.

    Raises:
        UsageError: for anything wrong in options or configuration.
    """
    parser = Parser(
        prog="petl-bench plan",
        usage="petl-bench plan --config NAME [options] [any option of `petl-bench fit`]",
        description=f"{Plan.__doc__} Weights are random and no clip is read.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--steps", type=argument(Count), default=2, help="timed training steps (2)")
    parser.add_argument(
        "--clips",
        type=argument(Count),
        help=f"clips per measured step (a GPU: one process's share; a CPU: {CPU_CLIPS})",
    )
    parser.add_argument(
        "--rows", type=argument(Count), help="rows of a training epoch (counted in the annotation files)"
    )
    options, rest = parser.parse_known_args(arguments)
    return cli.run("fit", rest, plugins, partial(Plan, options=options))
