"""Every method as if on a GPU: nothing that CUDA or NCCL would refuse, and no step that waits where none did before.

Some steps are those of a run, with its progress bar, its resume points, and what Lightning waits for in DDP.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.pretended_cuda
from petl_bench import optimizers
from petl_bench.backbones.base import Backbone
from petl_bench.data.batch import Batch, WhichWay
from petl_bench.method import Method
from petl_bench.nn import mixed_precision
from petl_bench.tasks import losses
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.retrieval import Retrieval
from petl_bench.testing import samples
from tests.contract import battery, on_cuda
from tests.contract.on_cuda import FIXTURE, Case, Findings
from tests.pretended_cuda import CUDA, Place, pretended_cuda
from tests.stops import in_a_fresh_process

#: where a training step waits for the GPU today; none may come on top
WAITS = {
    Place("petl_bench/step_report.py", "StepReport.read"): "what all processes tell of the step, behind the backward",
    Place("petl_bench/method.py", "Method.optimizer_step"): "whether gradients are finite (torch's scaler, fp16 alone)",
    Place("petl_bench/inputs.py", "Words.counted"): "the longest text of all processes, which matching reads",
}

CASES = list(on_cuda.sample())
RUNS = list(on_cuda.runs())


def _write_findings(
    cases: list[Case], file: Path, prepare: Callable[[], None], find: Callable[[Case], Findings] = on_cuda.tried
) -> None:
    prepare()
    on_cuda.quiet()
    torch.set_num_threads(1)
    found = [find(case) for case in cases]
    file.write_text(json.dumps([(fault, [*waits.items()]) for fault, waits in found]), encoding="utf-8")


def nothing() -> None:
    """Prepares nothing."""


def in_a_process(
    cases: list[Case],
    file: Path,
    prepare: Callable[[], None] = nothing,
    find: Callable[[Case], Findings] = on_cuda.tried,
) -> list[Findings]:
    """What the cases find in a process of their own, for torch is another one afterwards."""
    in_a_fresh_process(_write_findings, cases, file, prepare, find)
    found = json.loads(file.read_text(encoding="utf-8"))
    return [Findings(fault, Counter({Place(*place): count for place, count in waits})) for fault, waits in found]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    file = tmp_path_factory.mktemp("cuda") / "found.json"
    return dict(zip(map(str, CASES), in_a_process(CASES, file), strict=True))


def test_the_sample_has_every_method_task_and_way() -> None:
    methods = {(config, backbone) for config, backbone, _ in on_cuda.places()}
    tasks = {(backbone, task) for _, backbone, task in on_cuda.places()}
    assert {case[:2] for case in CASES} == methods
    assert {case[1:3] for case in CASES} == tasks
    assert {case[3:] for case in CASES} == {case[3:] for case in on_cuda.everything()}


@pytest.mark.parametrize("case", list(map(str, CASES)))
def test_a_gpu_would_run_it(case: str, found: dict[str, Findings]) -> None:
    assert not found[case].fault


@pytest.mark.parametrize("case", list(map(str, CASES)))
def test_no_step_waits_elsewhere(case: str, found: dict[str, Findings]) -> None:
    assert not found[case].waits.keys() - WAITS.keys()


def test_no_place_is_listed_that_waits_no_longer(found: dict[str, Findings]) -> None:
    assert WAITS.keys() == set().union(*(findings.waits for findings in found.values()))


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_in_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    file = tmp_path_factory.mktemp("runs") / "found.json"
    found = in_a_process(RUNS, file, find=on_cuda.waits_in_a_run)
    return dict(zip(map(str, RUNS), found, strict=True))


@pytest.mark.parametrize("case", RUNS, ids=str)
def test_a_step_of_a_run_waits_once(case: Case, found_in_runs: dict[str, Findings]) -> None:
    """Of several processes matching waits twice."""
    fault, waits = found_in_runs[str(case)]
    reads_texts_of_others = case.task == "matching" and case.twin
    assert not fault
    assert waits.total() == 1 + reads_texts_of_others


def questions_about_two_clips() -> None:
    samples.QUESTIONS = tuple(WhichWay(*own) if own.correct == 0 else own for own in samples.QUESTIONS)


@pytest.mark.parametrize("task", ["choice", "choice_matching"])
def test_a_clip_in_reverse_is_not_waited_for(task: str, tmp_path: Path) -> None:
    case = Case(FIXTURE, "blip", task)
    (found,) = in_a_process([case], tmp_path / "found.json", questions_about_two_clips, on_cuda.waits_in_a_run)
    assert not found.fault
    assert found.waits.total() == 1


def loss_that_is_reduced() -> None:
    step = Method.training_step

    def training_step(self: Method, batch: Batch, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        self.log("loss_now", loss, prog_bar=True, sync_dist=True)
        return loss

    Method.training_step = training_step


def test_what_lightning_reduces_and_bars_read_is_found(tmp_path: Path) -> None:
    """One barrier; the rich bar reads the number once, the plain lines read it twice."""
    case = Case(FIXTURE, "clip", "retrieval", twin=True)
    (found,) = in_a_process([case], tmp_path / "found.json", loss_that_is_reduced, on_cuda.waits_in_a_run)
    assert not found.fault
    assert found.waits.total() == 1 + 1 + 3


# --- the device -------------------------------------------------------------------------------------------------------


def test_autocast_is_that_of_cuda() -> None:
    """On a CPU norms, too, are in low precision."""
    in_a_fresh_process(_low_precision_and_back)


def _low_precision_and_back() -> None:
    with pretended_cuda():
        layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)).to("cuda")
        with torch.autocast("cuda", dtype=torch.float16):
            products = layers[0](torch.ones(2, 4, device="cuda"))
            norms = layers[1](products)
        norms.square().sum().backward()
        assert (products.dtype, norms.dtype) == (torch.float16, torch.float32)
        for parameter in layers.parameters():
            assert parameter.grad is not None
            assert (parameter.grad.device, parameter.grad.dtype) == (CUDA, torch.float32)


def test_what_waits() -> None:
    in_a_fresh_process(_wait)


def _wait() -> None:
    with pretended_cuda() as gpu:
        pinned, mask = torch.ones(3).pin_memory(), torch.ones(3, device="cuda").bool()
        x = pinned.to("cuda", non_blocking=True)
        (x * 2 + torch.tensor(1.0)).masked_fill(mask, 0).argmax().to(torch.float16)
        x[mask.long()].copy_(pinned, non_blocking=True)
        x.repeat_interleave(torch.ones_like(x).long(), output_size=3)
        x.to("cpu", non_blocking=True)
        assert not gpu.waits
        waiting: list[Callable[[], Any]] = [
            lambda: pinned.to("cuda"),
            lambda: torch.ones(3).to("cuda", non_blocking=True),
            lambda: pinned.to("cuda", torch.float16, non_blocking=True),
            lambda: torch.tensor([1.0], device="cuda"),
            *(x.cpu, x.tolist, x.sum().item, x.nonzero, lambda: bool(x.any()), lambda: x.equal(x)),
            *(lambda: x[mask], lambda: x[[0, 1]], lambda: x.repeat_interleave(mask.long())),
        ]
        for count, wait in enumerate(waiting, 1):
            wait()
            assert gpu.waits.total() == count


# --- planted faults ---------------------------------------------------------------------------------------------------


def positions_of_the_cpu() -> None:
    arange: Any = torch.arange
    torch.arange = lambda *args, device=None, **kwargs: arange(*args, **kwargs)


def noise_of_the_cpu() -> None:
    def noise(self: MatchingRetrieval, count: int) -> Tensor:
        return torch.empty(2, count, count, device="cuda").exponential_(generator=torch.Generator())

    MatchingRetrieval._noise = noise


def step_count_of_the_cpu() -> None:
    full: Any = torch.full

    class Torch:
        full = staticmethod(lambda *args, device=None, **kwargs: full(*args, **kwargs))
        __getattr__ = staticmethod(lambda name: getattr(torch, name))

    optimizers.torch = Torch()


def sizes_of_the_cpu() -> None:
    losses._require_equal_batches = lambda x: losses._concatenate(torch.tensor([len(x)]))


def nothing_to_read() -> None:
    make = samples.make_batch

    def with_an_empty_clip(backbone: Any) -> Any:
        batch = make(backbone)
        batch.clips.mask[-1] = False
        return batch

    samples.make_batch = with_an_empty_clip


def one_more_wait() -> None:
    loss = Retrieval.loss

    def loss_that_is_looked_at(self: Retrieval, backbone: Backbone, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found, logs = loss(self, backbone, batch)
        return found, logs | {"loss_now": found.new_tensor(found.item())}

    Retrieval.loss = loss_that_is_looked_at


MATCHING = Case(FIXTURE, "blip", "matching")


@pytest.mark.parametrize(
    ("plant", "case", "words"),
    [
        (positions_of_the_cpu, MATCHING, "tensors of the CPU and of the GPU: "),
        (noise_of_the_cpu, MATCHING, "a generator of the CPU draws on the GPU: aten.exponential_"),
        (step_count_of_the_cpu, MATCHING._replace(recipe="BertAdam"), "tensors of the CPU and of the GPU: aten._fused"),
        (sizes_of_the_cpu, MATCHING._replace(twin=True), "a tensor of the CPU in a collective: c10d._allgather_base_"),
        (nothing_to_read, MATCHING, "a softmax (attention) over nothing: aten._safe_softmax"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_fault_is_found(plant: Callable[[], None], case: Case, words: str, tmp_path: Path) -> None:
    (found,) = in_a_process([case], tmp_path / "found.json", plant)
    assert found.fault.startswith(f"CudaFault: {words}")


def rows_are_many_to_cuda() -> None:
    """As if a clip had thousands of frames."""
    tests.pretended_cuda.ROWS_OF_BIAS_ALONE = 0


def rows_are_many() -> None:
    rows_are_many_to_cuda()
    mixed_precision._ROWS_OF_BIAS_ALONE = 0


BIASES = [
    Case(battery.case_of(config), backbone, "retrieval")
    for config in ("fixture_bitfit", "fixture_mvadapter")
    for backbone in ("clip", "blip")
]


def test_biases_of_norms_are_trained_alone(tmp_path: Path) -> None:
    """On a GPU, and with many rows: by what is done for them, and only by that."""
    assert [case.fault for case in in_a_process(BIASES, tmp_path / "found.json", rows_are_many)] == [""] * len(BIASES)
    for found in in_a_process(BIASES, tmp_path / "planted.json", rows_are_many_to_cuda):
        assert found.fault.startswith(
            "CudaFault: no gradient of a layer norm's bias, whose weight needs none: aten.nat"
        )


def _write_gradients(file: Path) -> None:
    rows_are_many()
    with pretended_cuda():
        torch.manual_seed(0)
        norm, x = mixed_precision.LayerNorm(4), torch.randn(3, 5, 4)
        norm.weight.requires_grad_(False)
        with torch.no_grad():
            norm.weight.uniform_()
            norm.bias.uniform_()
        found: list[list[Any]] = []
        for device in ("cpu", CUDA):
            own, read = copy.deepcopy(norm).to(device), x.detach().to(device).requires_grad_()
            given = own(read)
            (given * torch.arange(60.0, device=device).view(3, 5, 4)).sum().backward()
            assert own.weight.grad is None
            assert own.bias.grad is not None
            assert read.grad is not None
            found.append([given.detach().tolist(), own.bias.grad.tolist(), read.grad.tolist()])
    file.write_text(json.dumps(found), encoding="utf-8")


def test_a_norm_gives_the_same_with_many_rows(tmp_path: Path) -> None:
    in_a_fresh_process(_write_gradients, tmp_path / "found.json")
    on_cpu, on_gpu = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert on_cpu == on_gpu


def test_a_planted_wait_is_found(tmp_path: Path) -> None:
    (found,) = in_a_process([Case(FIXTURE, "clip", "retrieval")], tmp_path / "found.json", one_more_wait)
    assert not found.fault
    assert found.waits.keys() - WAITS.keys() == {Place("petl_bench/method.py", "Method.training_step")}
