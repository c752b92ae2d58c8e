"""`petl_bench.load`: a model from an adapter file alone, or from a configuration."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from petl_bench.backbones.base import Backbone
from petl_bench.backbones.described import triple
from petl_bench.cli.config_safety import OURS, ClassPathGuard
from petl_bench.cli.configuration import configured
from petl_bench.cli.named_configs import find_config
from petl_bench.cli.parts import made
from petl_bench.cli.sources import adapter_of
from petl_bench.data.datasets import ClipLoader
from petl_bench.data.sampling import SAMPLERS
from petl_bench.data.video import READERS, require_reader
from petl_bench.errors import CheckpointError, PetlBenchError, UsageError
from petl_bench.hub.names import hub_name
from petl_bench.inputs import FrameRule, InputSpec, Sampling
from petl_bench.machine.resources import exhausted
from petl_bench.method import Method
from petl_bench.registry import import_plugins
from petl_bench.renamed import as_written_today, message
from petl_bench.runs.record import CONFIG_NAME
from petl_bench.storage.adapters import Adapter, read_adapter
from petl_bench.storage.descriptions import (
    PRETRAINED,
    FrameOptions,
    ModelDescription,
    Part,
    WeightFile,
    read_description,
)
from petl_bench.storage.dotted import put
from petl_bench.storage.untrusted import expanded, is_file, is_folder, shown
from petl_bench.tasks.base import Task
from petl_bench.video_text_model import VideoTextModel

_PRETRAINED_OPTION = "--model.init_args.backbone.init_args.pretrained"

Kind = TypeVar("Kind", bound=Method | Backbone | Task)


def load(
    source: str | Path,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    plugins: Sequence[str] = (),
) -> VideoTextModel:
    """A model that encodes videos and texts, and answers questions if it was trained to.

    `petl_bench.load("runs/.../adapter.safetensors")` takes the adapter file alone, wherever it was moved to: the file
    says what it is made of. The weights of its frozen backbone are looked for where they were in training, then in the
    same place as seen from the adapter, then beside it. `petl_bench.load("hf-hub:owner/name")`, with `@revision`
    or without, takes one of the Hugging Face Hub, whose files are checked against their manifest.
    `petl_bench.load("msrvtt_zeroshot")` takes a configuration; a method that trains is then untrained.

    Classes outside petl_bench are imported only from `plugins`, whatever a file says.

    Args:
        source: an adapter file, the folder of a run, or a repository of the Hub; or a configuration's name or path.
        weights: file, folder, tag or repository of the backbone's weights, where they are elsewhere now.
        device: `cpu`, `cuda`, `cuda:1`, ...; None is a GPU if there is one.
        plugins: packages with classes of your own that the source names.

    Raises:
        CheckpointError: an adapter or the weights are missing, damaged, or others than those of the training.
        UsageError: there is no such configuration or device, or a class is from outside.
        DataError: an answer list that a configuration names cannot be read.
    """
    where = _device(device)
    import_plugins(plugins)
    path = adapter_of(source)
    if path is None:
        return _of_configuration(find_config(str(source)), None, weights, where, plugins)
    adapter = read_adapter(path)
    description = read_description(adapter, path)
    if description is not None:
        return Described(path, adapter, description, plugins).model(weights, where)
    beside = path.parent / CONFIG_NAME
    if not is_file(beside):
        raise CheckpointError(
            f"{path} was written by an earlier version, whose adapters need the {CONFIG_NAME} of their run beside "
            "them, and there is none: put it there"
        )
    return _of_configuration(beside, (adapter, path), weights, where, plugins)


def _device(given: str | torch.device | None) -> torch.device:
    if given is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(given)
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # each kind of device raises its own
        told = (str(error).splitlines() or [""])[0][:200]
        raise UsageError(f"device {shown(given)} cannot be used ({told}): give cpu, cuda, or cuda:1") from error
    return device


def _of_configuration(
    config: Path,
    trained: tuple[Adapter, Path] | None,
    weights: str | Path | None,
    device: torch.device,
    plugins: Sequence[str],
) -> VideoTextModel:
    arguments = [f"--config={config}"] + ([] if weights is None else [f"{_PRETRAINED_OPTION}={weights}"])
    with configured("predict", arguments, plugins) as configuration:
        experiment = configuration.build()
    method, data = experiment.method.adapt(), experiment.data
    if trained is not None:
        adapter, path = trained
        method.load_trained_state(adapter, str(path))
    elif method.trainable:
        rank_zero_warn(f"{config} is a configuration: its {type(method).__name__} is not trained")
    frames = FrameOptions(data.frames, data.sampling, data.frame_rate, data.reader)
    return VideoTextModel(method, _clip_loader(frames, method.backbone.spec), data.max_words, device)


def _clip_loader(frames: FrameOptions, spec: InputSpec) -> ClipLoader:
    return ClipLoader(
        rule=FrameRule(frames.count, cast(Sampling, frames.sampling), frames.rate),
        image_size=spec.image_size,
        resize=spec.resize,
        reader=frames.reader,
    )


class Described:
    """The model that an adapter file describes.

    Args:
        path: of the file.
        adapter: what it holds.
        description: what it says of the model.
        plugins: packages that the user trusts.
    """

    def __init__(self, path: Path, adapter: Adapter, description: ModelDescription, plugins: Sequence[str]) -> None:
        self.path, self.adapter, self.description = path, adapter, description
        self.guard = ClassPathGuard(plugins, OURS)

    def model(self, weights: str | Path | None, device: torch.device) -> VideoTextModel:
        """The model with the weights of the training; see `load`."""
        said = self.description
        self._require_possible()
        files = tempfile.TemporaryDirectory(prefix="petl_bench_")
        backbone = self._backbone(Path(files.name), weights)
        made_before = {"backbone": backbone, "task": self._made(Task, said.task, Path(files.name))}
        method = self._made(Method, said.method, Path(files.name), made_before).adapt()
        method.load_trained_state(self.adapter, str(self.path))
        loader = _clip_loader(said.frames, backbone.spec)
        # Tokenisers may read their files when they are first called.
        return VideoTextModel(method, loader, said.max_words, device, said.trained_on, files)

    def _require_possible(self) -> None:
        said = self.description
        for part in (said.method, said.backbone, said.task):
            self.guard.check({"class_path": part.class_path, "init_args": part.init_args}, str(self.path))
        with self._damaged():
            if said.frames.sampling not in SAMPLERS:
                raise UsageError(f"no way of choosing frames is called {shown(said.frames.sampling)}")
            if said.frames.reader not in READERS:
                raise UsageError(f"no reader of videos is called {shown(said.frames.reader)}")
        require_reader(said.frames.reader)

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        """What would be a mistake of the user in a configuration is none here."""
        try:
            yield
        except UsageError as error:
            raise CheckpointError(f"{self.path} describes a model that cannot be made: {error}") from error

    def _made(self, kind: type[Kind], part: Part, folder: Path, made_before: Mapping[str, Any] | None = None) -> Kind:
        """One of its parts; files among the arguments are written to a folder."""
        own = folder / kind.__name__
        try:
            for argument, file in part.files.items():
                (own / argument).mkdir(parents=True)
                (own / argument / file.name).write_text(file.text, encoding="utf-8")
        except (OSError, ValueError) as error:
            told = CheckpointError(f"{self.path}: a file in its metadata is damaged: {error}")
            raise exhausted(error, folder) or told from error
        arguments = copy.deepcopy(part.init_args)
        for argument, file in part.files.items():
            put(arguments, argument, str(own / argument / file.name))
        block, changes = as_written_today({"class_path": part.class_path, "init_args": arguments})
        if changes:
            rank_zero_info(message(self.path, changes))
        with self._damaged():
            return made(kind, block["class_path"], {**block["init_args"], **(made_before or {})}, self.guard)

    # --- the backbone -----------------------------------------------------------------------------------------------

    def _backbone(self, folder: Path, weights: str | Path | None) -> Backbone:
        """With the weights of the training, and frames and texts prepared as there."""
        wanted, part = self.description.weights, self.description.backbone
        pretrained = self._pretrained(weights)
        if pretrained is None:
            backbone = self._made(Backbone, part, folder)
        else:
            part = replace(part, init_args={**part.init_args, PRETRAINED: pretrained})
            try:
                backbone = self._made(Backbone, part, folder)
            except PetlBenchError as error:
                told = f"{self.path} needs {_named(wanted)}, and {pretrained} cannot be used: {error}"
                raise CheckpointError(told) from error
        found = backbone.weights["sha256"] or ""
        if found != wanted.sha256:
            where = "random weights of this version of torch" if pretrained is None else pretrained
            raise CheckpointError(
                f"{self.path} needs {_named(wanted)}, and {where} have sha256 {found}: "
                + ("use the version of the training" if pretrained is None else "give that file: weights=PATH")
            )
        backbone.spec = self._prepared_as_in_training(backbone.spec)
        return backbone

    def _pretrained(self, given: str | Path | None) -> str | None:
        """What `pretrained` of the backbone is now; None of random weights.

        Raises:
            CheckpointError: the weights are nowhere.
            UsageError: some are given where none are needed.
        """
        wanted = self.description.weights
        if wanted.tag is None and wanted.place is None:
            if given is not None:
                raise UsageError(f"weights is {given}, but {self.path} was trained on random ones: leave it out")
            return None
        if wanted.tag is not None and given in (None, wanted.tag):
            return wanted.tag
        if given is not None and hub_name(given) is not None:
            return str(given)
        places = self._places() if given is None else [expanded(given)]
        found = next((place for place in places if is_file(place) or is_folder(place)), None)
        if found is None:
            looked = " or ".join(shown(str(place), 400).strip("'") for place in places)
            raise CheckpointError(f"{self.path} needs {_named(wanted)}: none at {looked}; say where: weights=PATH")
        return str(found)

    def _places(self) -> list[Path]:
        """Where the weights may be: where they were, there as seen from the adapter, and beside it."""
        wanted, folder = self.description.weights, self.path.absolute().parent
        names = filter(None, (wanted.place, wanted.from_here, wanted.file))
        places = dict.fromkeys(Path(os.path.normpath(folder / name)) for name in names)
        return [place for place in places if place != self.path.absolute()]

    def _prepared_as_in_training(self, spec: InputSpec) -> InputSpec:
        """Pixels follow from files beside the weights, which may be gone; all else is the backbone's own.

        Raises:
            CheckpointError: it prepares frames or texts in another way than in training.
        """
        said = self.description.inputs
        mean, std = triple(said, "mean", self.path), triple(said, "std", self.path)
        assert mean is not None, "the schema requires it"
        assert std is not None, "the schema requires it"
        spec = replace(spec, mean=mean, std=std, resize=said["resize"])
        found = spec.record()
        differing = next((key for key in found if found[key] != said[key]), None)
        if differing is not None:
            raise CheckpointError(
                f"{self.path} was trained with {differing} {shown(said[differing])}, and its backbone has "
                f"{shown(found[differing])} now"
            )
        if not 2 < self.description.max_words <= spec.context_length:
            raise CheckpointError(f"{self.path}: max_words {self.description.max_words} is beyond its context; damaged")
        return spec


def _named(weights: WeightFile) -> str:
    """Weights of a training, for messages."""
    name = weights.tag or weights.file or weights.place
    return f"the backbone's weights with sha256 {weights.sha256}" + (f" ({shown(name, 200)})" if name else "")
