"""What every method must do: `check_method`, and the single checks, which take what builds the method."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl_bench.backbones.base import Backbone
from petl_bench.cli.tiny_parts import built, classes_of, default_options, tiny_backbone
from petl_bench.data.batch import Batch
from petl_bench.errors import CheckpointError, UsageError
from petl_bench.method import Method, own_options
from petl_bench.registry import import_plugins
from petl_bench.storage.adapters import Adapter, read_adapter, write_adapter
from petl_bench.tasks.base import Task
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing.gated import Gated
from petl_bench.testing.requirements import Options, class_of, options_of, require, told_of
from petl_bench.testing.samples import asked, features, features_of, make_batch, train, trained, with_other_padding

Build = Callable[[], Method]


def check_method(method: type[Method] | str, options: Options | None = None) -> None:
    """Checks that a method keeps the promises that runs, adapters and reports rest on.

    It is tried on the tiny variant of every backbone there is, plug-ins included, and on one of another make (no class
    token, two frames in a row, grouped-query attention, rotary positions, RMS norms), for every task:

    - it trains there, or refuses with a `UsageError` of one line; at least one combination trains
    - before training the features are those of the plain backbone, if and only if `identity_at_init` says so
    - every trainable tensor gets a gradient in one step, and one that is not zero in a few; nothing frozen changes
    - an adapter holds what is trained and no more; a fresh method that loads it gives the same features, bit for bit
    - an adapter with foreign, missing or misshapen tensors, of another method or of other weights is refused
    - what is in padded frames changes nothing
    - gradient checkpointing gives the same gradients, and bf16 autocast finite ones

    Args:
        method: the class, its path, or its short name.
        options: of the method itself, or a file that holds them: a configuration, its `model` section, or a fragment.
            Without, those of its packaged configuration for the fixture; or the defaults.

    Raises:
        AssertionError: saying in one sentence what does not hold, on which backbone and for which task.
    """
    kind = class_of("methods", method)
    import_plugins()
    with told_of(kind.__name__):
        given = default_options(kind) if options is None else own_options({"init_args": options_of(options, "model")})
    tasks, reasons, trains = classes_of("tasks"), [], False
    for name, backbone in {**classes_of("backbones"), Gated.__name__: Gated}.items():
        running = []
        for task in tasks.values():
            with told_of(f"{kind.__name__} on {name} for {task.name}"):
                if reason := _refused(builder(kind, given, backbone, task)):
                    reasons.append(reason)
                    continue
                check_gradients(builder(kind, given, backbone, task))
                running.append(task)
        if running:
            trains, task = True, Retrieval if Retrieval in running else running[0]
            with told_of(f"{kind.__name__} on {name} for {task.name}"):
                _check_on_backbone(kind, given, backbone, task)
    require(trains, f"{kind.__name__} refuses every backbone for every task: {' | '.join(dict.fromkeys(reasons))}")


def _check_on_backbone(
    kind: type[Method], given: Mapping[str, Any], backbone: type[Backbone], task: type[Task]
) -> None:
    """What does not depend on the task, for one that runs on a backbone."""
    build = builder(kind, given, backbone, task)
    check_refusals(build, builder(kind, given, backbone, task, init_seed=1))
    check_memory_savers(build)
    if build().backbone.joint is None:  # then there are no features to compare
        return
    check_identity_at_init(build)
    with tempfile.TemporaryDirectory() as folder:
        check_reload(build, Path(folder))
    check_padding(build)


def builder(
    kind: type[Method], options: Mapping[str, Any], backbone: type[Backbone], task: type[Task], init_seed: int = 0
) -> Build:
    """What builds a method on the tiny variants of a backbone and a task, ready to train."""

    def build() -> Method:
        torch.manual_seed(0)
        return built(kind, options, tiny_backbone(backbone, init_seed), task.tiny()).adapt()

    return build


def _refused(build: Build) -> str | None:
    """The sentence in which a method refuses a backbone or a task; None if it is built."""
    try:
        build()
    except UsageError as error:
        sentence = str(error)
        require(sentence and "\n" not in sentence, f"it refuses with other than one line: {sentence!r}")
        return sentence
    return None


def check_identity_at_init(build: Build) -> None:
    """Before training the outputs are those of the plain backbone, if and only if the method says so."""
    method = build()
    batch = asked(make_batch(method.backbone))
    plain = features_of(tiny_backbone(type(method.backbone)).eval(), batch)
    mine = features(method, batch)
    same = all(torch.allclose(one, other, atol=1e-5) for one, other in zip(mine, plain, strict=True))
    found = "are" if same else "are not"
    require(
        same == method.identity_at_init,
        f"identity_at_init is {method.identity_at_init}, but before training the features {found} the backbone's",
    )


def check_gradients(build: Build) -> None:
    """One step gives every trainable tensor a gradient (DDP), a few give each a non-zero one, none to the frozen."""
    method = build()
    if not method.trainable:
        return
    batch = asked(make_batch(method.backbone))
    frozen = {name: p.detach().clone() for name, p in method.named_parameters() if not p.requires_grad}
    trainable = {name for name, p in method.named_parameters() if p.requires_grad}
    alive: set[str] = set()
    for step, moved in enumerate(trained(method, batch, 4)):
        alive |= moved
        if step > 0 and alive == trainable:  # the first step may be one in which zeros hold others back
            break
    unused = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    require(not unused, f"{len(unused)} trainable tensors get no gradient, for which DDP waits: {_some(unused)}")
    dead = sorted(name for name in trainable - alive if not _is_unread_embedding(name))
    require(not dead, f"{len(dead)} trainable tensors have gradients of zero only: {_some(dead)}")
    touched = [name for name, p in method.named_parameters() if not p.requires_grad and p.grad is not None]
    require(not touched, f"{len(touched)} frozen tensors get a gradient: {_some(touched)}")
    changed = [name for name, p in method.named_parameters() if name in frozen and not p.equal(frozen[name])]
    require(not changed, f"{len(changed)} frozen tensors change in training: {_some(changed)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_unread_embedding(name: str) -> bool:
    return "token_embedding" in name  # rows of words that the batch does not hold, never all of them


def check_reload(build: Build, folder: Path) -> None:
    """Saved names are the trained ones; a fresh method that loads them gives the same outputs bit for bit."""
    method = build()
    if not method.trainable:
        require(not method.trained_state(), "it trains nothing, but has a trained state")
        return
    batch = asked(make_batch(method.backbone))
    train(method, batch, 2)
    path = folder / "adapter.safetensors"
    write_adapter(path, Adapter(method.trained_state(), method.identity()))
    adapter = read_adapter(path)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    missing = sorted(trained - adapter.tensors.keys())
    require(not missing, f"an adapter lacks {len(missing)} trained tensors: {_some(missing)}")
    foreign = sorted(adapter.tensors.keys() - trained - {name for name, _ in method.named_buffers()})
    require(not foreign, f"an adapter holds {len(foreign)} tensors that are not trained: {_some(foreign)}")
    counts = {
        "are trained": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "are in the adapter": sum(adapter.tensors[name].numel() for name in trained),
        "are counted by parameter_counts": method.parameter_counts()["trainable"],
    }
    told = ", ".join(f"{count:,} {where}" for where, count in counts.items())
    require(len(set(counts.values())) == 1, f"the numbers of trained parameters differ: {told}")
    fresh = build()
    fresh.load_trained_state(adapter, str(path))
    same = all(mine.equal(theirs) for mine, theirs in zip(features(fresh, batch), features(method, batch), strict=True))
    require(same, "a fresh method that loads the adapter gives other features: is anything else trained or drawn?")


def check_refusals(build: Build, build_elsewhere: Build) -> None:
    """Foreign, missing and misshapen tensors, another method, and other weights of the backbone are refused."""
    method = build()
    if not method.trainable:
        return
    state, identity = method.trained_state(), method.identity()
    name, tensor = next(iter(state.items()))
    wrong = {
        "a foreign tensor": Adapter({**state, "backbone.foreign": tensor}, identity),
        "a tensor missing": Adapter({key: value for key, value in state.items() if key != name}, identity),
        "a tensor of another shape": Adapter({**state, name: tensor.new_zeros(*tensor.shape, 2)}, identity),
        "another method's name": Adapter(state, {**identity, "method": "methods.other.Other"}),
        "other weights of the backbone": Adapter(state, build_elsewhere().identity()),
    }
    for what, adapter in wrong.items():
        require(_refuses(method, adapter), f"it loads an adapter with {what}")


def _refuses(method: Method, adapter: Adapter) -> bool:
    try:
        method.load_trained_state(adapter, "adapter.safetensors")
    except CheckpointError:
        return True
    return False


def check_padding(build: Build) -> None:
    """The content of padded frames changes nothing."""
    method = build()
    batch = asked(make_batch(method.backbone))
    if method.trainable:
        train(method, batch, 2)
    before = features(method, batch)[0]
    after = features(method, with_other_padding(batch))[0]
    require(torch.allclose(after, before, atol=1e-6), "what is in padded frames changes the features of a clip")


def check_memory_savers(build: Build) -> None:
    """bf16 autocast gives finite gradients; recomputation, of blocks or activations, the same ones as without."""
    method = build()
    if not method.trainable:
        return
    batch = asked(make_batch(method.backbone))
    train(method, batch, 1)
    plain = _gradients(method, batch)
    for what in (True, "activations"):
        method.backbone.set_gradient_checkpointing(what)
        found = _gradients(method, batch)
        other = [n for n, g in found.items() if not torch.allclose(g, plain[n], rtol=1e-4, atol=1e-6)]
        require(not other, f"gradient checkpointing ({what}) changes {len(other)} gradients: {_some(other)}")
    method.backbone.set_gradient_checkpointing(False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = _gradients(method, batch)
    bad = [name for name, gradient in low.items() if not gradient.isfinite().all()]
    require(not bad, f"{len(bad)} gradients are not finite in bf16: {_some(bad)}")


def _gradients(method: Method, batch: Batch) -> dict[str, Tensor]:
    method.train()
    method.zero_grad()
    torch.manual_seed(0)
    loss, _ = method.task.loss(method.backbone, batch)
    loss.backward()
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
