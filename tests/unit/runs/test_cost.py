import weakref

import pytest
import torch
from torch import nn

import petl_bench.runs.cost
from methods.adaptformer import AdaptFormer
from methods.lora import LoRA
from petl_bench.backbones.blip.model import BLIP, BLIPVQA
from petl_bench.backbones.clip.model import CLIP
from petl_bench.backbones.clip.whole import WholeCLIP
from petl_bench.nn.transformer import Tower
from petl_bench.runs.cost import AddedMemory, GpuMemory, SavedActivations, count_gmacs, synthetic_batch
from petl_bench.tasks.answering import Generate
from petl_bench.tasks.matching import MatchingRetrieval
from petl_bench.tasks.qa_generation import AnswerGeneration
from petl_bench.tasks.retrieval import Retrieval
from tests.backbones import adapt_on_meta, meta_clip
from tests.stops import in_a_fresh_process

VIT_B = {"ViT-B-32-quickgelu": 50, "ViT-B-16-quickgelu": 197}


@pytest.mark.parametrize(("architecture", "published"), [("ViT-B-32-quickgelu", 52.90), ("ViT-B-16-quickgelu", 210.76)])
def test_vision_gmacs_are_those_of_the_literature(architecture: str, published: float) -> None:
    """CLIP with 12 frames, and what LoRA adds: together the 53.0 and 211.3 of TempMe's tables (arXiv 2409.01156)."""
    plain = count_gmacs(meta_clip(architecture).eval(), Retrieval(), frames=12, max_words=32)
    assert plain.vision == pytest.approx(published, abs=0.01)
    lora = adapt_on_meta(LoRA(backbone=meta_clip(architecture), task=Retrieval(), rank=8)).eval()
    added = count_gmacs(lora.backbone, lora.task, frames=12, max_words=32).vision - plain.vision
    assert added == pytest.approx(12 * 12 * VIT_B[architecture] * 4 * 768 * 8 / 1e9)
    assert round(added, 2) == {52.90: 0.18, 210.76: 0.70}[published]


@pytest.mark.parametrize("frames", [1, 5])
def test_gmacs_by_formula(frames: int) -> None:
    """Patches, blocks with attention, and projections of the tiny CLIP, computed for real."""
    backbone = CLIP("tiny", None).eval()
    vision, text = backbone.towers["vision"], backbone.towers["text"]
    assert vision.grid is not None
    patches = vision.grid[0] * vision.grid[1]
    pixels = 3 * (backbone.spec.image_size // vision.grid[0]) ** 2

    def tower(tokens: int, width: int, depth: int) -> int:
        return depth * (tokens * 12 * width**2 + 2 * tokens**2 * width)

    per_frame = patches * pixels * vision.width + vision.width * backbone.embed_dim
    per_frame += tower(patches + 1, vision.width, len(vision.blocks))
    per_caption = tower(10, text.width, len(text.blocks)) + text.width * backbone.embed_dim
    gmacs = count_gmacs(backbone, Retrieval(), frames, max_words=10)
    assert gmacs.vision == pytest.approx(frames * per_frame / 1e9)
    assert gmacs.total - gmacs.vision == pytest.approx(per_caption / 1e9)


def layers(tower: Tower, tokens: int, read: int = 0) -> int:
    """Multiply-adds of a BERT whose tokens read themselves and, where it is not zero, `read` others as wide."""
    width = tower.width
    cross = 2 * tokens * width**2 + 2 * read * width**2 + 2 * tokens * read * width if read else 0
    return len(tower.blocks) * (12 * tokens * width**2 + 2 * tokens**2 * width + cross)


def test_gmacs_of_matching_by_formula() -> None:
    """The text alone, then the text that reads all tokens of all frames; nothing of it without a second stage."""
    backbone, frames, words = BLIP("tiny", None).eval(), 3, 10
    text, grid = backbone.towers["text"], backbone.towers["vision"].grid
    assert grid is not None
    read = frames * (1 + grid[0] * grid[1])
    alone = layers(text, words) + text.width * backbone.embed_dim
    one_stage = count_gmacs(backbone, MatchingRetrieval(queue_size=1, reranking=None), frames, words)
    assert one_stage == count_gmacs(backbone, Retrieval(), frames, words)
    assert one_stage.total - one_stage.vision == pytest.approx(alone / 1e9)
    two_stages = count_gmacs(backbone, MatchingRetrieval(queue_size=1), frames, words)
    assert two_stages.vision == one_stage.vision
    assert two_stages.total - one_stage.total == pytest.approx(layers(text, words, read) / 1e9)


def test_gmacs_of_generated_answers_by_formula() -> None:
    """The question that reads the clip, and an answer of `max_length` tokens that reads the question."""
    backbone, frames, words, length = BLIPVQA("tiny", None).eval(), 3, 10, 4
    text, grid = backbone.towers["text"], backbone.towers["vision"].grid
    assert grid is not None
    question = layers(text, words, frames * (1 + grid[0] * grid[1]))
    vocabulary = len(backbone.decoder.bias)
    answer = layers(backbone.decoder, length, words) + length * text.width * (text.width + vocabulary)
    gmacs = count_gmacs(backbone, AnswerGeneration(Generate(max_length=length)), frames, words)
    assert gmacs.total - gmacs.vision == pytest.approx((question + answer) / 1e9)


def test_gmacs_of_a_whole_model() -> None:
    """The same weights as one piece cost the same; its text tower reads captions padded to the full context."""
    whole = count_gmacs(WholeCLIP("tiny", None).eval(), Retrieval(), 2, 10)
    assert whole == count_gmacs(CLIP("tiny", None).eval(), Retrieval(), 2, 77)


def test_counting_leaves_the_model_and_the_random_state_alone() -> None:
    backbone = AdaptFormer(backbone=CLIP("tiny", None), task=Retrieval()).adapt().backbone.eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    random = torch.get_rng_state()
    with torch.inference_mode():  # as in Lightning's test loop
        counted = count_gmacs(backbone, Retrieval(), 2, 8)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert counted == count_gmacs(backbone, Retrieval(), 2, 8)
    assert all(p.grad is None for p in backbone.parameters())


def test_made_batch_fills_its_shape() -> None:
    spec = CLIP("tiny", None).spec
    batch = synthetic_batch(spec, clips=3, frames=2, max_words=7)
    assert batch.clips.frames.shape == (3, 2, 3, spec.image_size, spec.image_size)
    assert batch.clips.frames.dtype == torch.uint8
    assert batch.clips.mask.all()
    assert batch.words.mask.shape == (3, 7)
    assert batch.words.mask.all()
    assert torch.equal(batch.clips.frames, synthetic_batch(spec, 3, 2, 7).clips.frames)


def test_saved_activations_by_hand() -> None:
    """A trained linear layer keeps its input and ReLU its output; a frozen layer keeps nothing of its own."""
    x = torch.randn(4, 6)
    trained, frozen = nn.Linear(6, 5), nn.Linear(5, 5).requires_grad_(False)
    model = nn.Sequential(trained, frozen, nn.ReLU())
    saved = SavedActivations(model)
    with saved:
        model(x).sum().backward()
    assert saved.bytes == (4 * 6 + 4 * 5) * 4


def test_saved_activations_count_a_storage_once() -> None:
    x = torch.randn(3, requires_grad=True)
    saved = SavedActivations(nn.Identity())
    with saved:
        y = x.exp()
        (y * y + y.view(3, 1).square().sum()).sum()
    assert saved.bytes == 3 * 4


def test_saved_activations_hold_nothing() -> None:
    """A graph that no backward pass follows is freed with its last name, as it is without the context."""
    x = torch.randn(3, requires_grad=True)
    with SavedActivations(nn.Identity()):
        y = x.exp()  # which keeps its own result
    held = weakref.ref(y)
    del y
    assert held() is None


def test_added_memory_is_what_comes_on_top() -> None:
    """Neither what is there already, nor what was there once."""
    in_a_fresh_process(_add)


def _add() -> None:
    there = torch.ones(10_000_000)  # 40 MB
    torch.ones(40_000_000).sum()  # 160 MB, given back
    meter = AddedMemory()
    assert meter.bytes() == pytest.approx(0, abs=8e6)
    more = torch.ones(20_000_000)  # 80 MB
    del more
    assert meter.bytes() == pytest.approx(80e6, abs=8e6)
    assert len(there) == 10_000_000


def test_what_is_added_in_a_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for the kernel, which takes pages back at any time: steps add 40 MB, validation 400."""
    kernel = {"VmRSS": 10**9, "VmHWM": 3 * 10**9}
    monkeypatch.setattr(petl_bench.runs.cost, "_of_status", kernel.get)
    monkeypatch.setattr(petl_bench.runs.cost, "_set_back_peak", lambda: kernel.update(VmHWM=kernel["VmRSS"]))
    meter = AddedMemory()
    assert meter.bytes() == 0
    kernel["VmHWM"] += 40_000_000
    meter.pause()
    kernel["VmHWM"] += 360_000_000
    meter.go_on()
    assert meter.bytes() == 40_000_000
    kernel["VmHWM"] += 50_000_000
    assert meter.bytes() == 50_000_000


def test_a_gpu_counts_what_training_holds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for the allocator: steps hold 5 of 8 bytes, validation 50 of 60, the weights 3 of 4."""
    peaks = [9, 9]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[0])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: peaks[1])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.__setitem__(slice(None), [3, 4]))
    meter = GpuMemory(torch.device("cuda:0"))
    assert meter.bytes() == (3, 4)
    peaks[:] = [5, 8]
    meter.pause()
    peaks[:] = [50, 60]
    meter.go_on()
    assert meter.bytes() == (5, 8)


def test_added_memory_where_the_peak_cannot_be_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same stand-in: a peak of 1 GB is older than what is measured from 600 MB on."""
    kernel = {"VmRSS": 600_000_000, "VmHWM": 10**9}
    monkeypatch.setattr(petl_bench.runs.cost, "_of_status", kernel.get)
    monkeypatch.setattr(petl_bench.runs.cost, "_set_back_peak", lambda: None)
    meter = AddedMemory()
    kernel["VmRSS"] += 4_000_000
    assert meter.bytes() is None  # whether it was more than before cannot be told
    kernel["VmHWM"] = kernel["VmRSS"] = 1_204_000_000
    assert meter.bytes() == 604_000_000


def test_added_memory_where_the_system_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(petl_bench.runs.cost, "_of_status", lambda name: None)
    assert AddedMemory().bytes() is None
