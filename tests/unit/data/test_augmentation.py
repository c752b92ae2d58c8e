"""One draw for all frames of a clip, that follows from its seed alone and leaves no trace in the process."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from petl_bench.data.augmentation import RandAugment, require_recipe
from petl_bench.errors import UsageError

RECIPE = "rand-m7-n4-mstd0.5-inc1"
SEEDS = range(40)


@pytest.fixture(scope="module")
def augment() -> RandAugment:
    return RandAugment(RECIPE)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Four frames that differ, (4, H, W, 3)."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


def test_it_is_the_released_recipe(augment: RandAugment) -> None:
    names = "AutoContrast Equalize Invert Rotate PosterizeIncreasing SolarizeIncreasing SolarizeAdd ColorIncreasing "
    names += "ContrastIncreasing BrightnessIncreasing SharpnessIncreasing ShearX ShearY TranslateXRel TranslateYRel"
    operations = augment.transform.ops
    assert [operation.name for operation in operations] == names.split()
    assert augment.transform.num_layers == 4
    assert augment.transform.choice_weights is None  # evenly, with repetition
    for operation in operations:
        assert (operation.prob, operation.magnitude, operation.magnitude_std) == (0.5, 7, 0.5)
        assert operation.kwargs == {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BICUBIC}


def test_frames_keep_shape_and_kind(augment: RandAugment, clip: np.ndarray) -> None:
    changed = augment(clip, 1)
    assert (changed.shape, changed.dtype) == (clip.shape, np.uint8)
    assert changed.flags.writeable  # torch refuses to share what is not
    assert augment(clip[:1], 1).shape == (1, *clip.shape[1:])


def test_one_draw_for_all_frames(augment: RandAugment, clip: np.ndarray) -> None:
    for seed in SEEDS:
        still = augment(clip[:1].repeat(3, 0), seed)
        assert (still == still[0]).all()
        alone = np.concatenate([augment(frame[None], seed) for frame in clip])
        np.testing.assert_array_equal(augment(clip, seed), alone)


def test_draws_follow_from_the_seed_alone(augment: RandAugment, clip: np.ndarray) -> None:
    first = [augment(clip, seed).tobytes() for seed in SEEDS]
    random.seed(5)
    np.random.seed(5)
    again = pickle.loads(pickle.dumps(augment))  # as in a loader process of its own
    assert [again(clip, seed).tobytes() for seed in reversed(SEEDS)] == first[::-1]
    assert len(set(first)) > 0.8 * len(SEEDS)


def test_some_clips_stay_as_they_are(augment: RandAugment) -> None:
    """Each of four operations is left out with probability 0.5: one clip in 16."""
    noise = np.random.default_rng(1).integers(1, 255, (1, 9, 9, 3), dtype=np.uint8)
    same = np.mean([np.array_equal(augment(noise, seed), noise) for seed in range(400)])
    assert 0.03 < same < 0.12


def test_the_same_as_timm_draws_from_seeded_generators(augment: RandAugment, clip: np.ndarray) -> None:
    from timm.data.auto_augment import rand_augment_transform

    theirs = rand_augment_transform(RECIPE, {"interpolation": Image.Resampling.BICUBIC})
    for seed in SEEDS:
        random.seed(seed)
        np.random.seed(seed)
        np.testing.assert_array_equal(augment(clip[:1], seed)[0], np.asarray(theirs(Image.fromarray(clip[0]))))


def test_global_generators_stay_as_they_were(augment: RandAugment, clip: np.ndarray) -> None:
    def state() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    random.gauss(0, 1)  # leaves a second draw behind, which is part of the state
    before = state()
    augment(clip, 3)
    assert state() == before
    with pytest.raises((TypeError, ValueError)):
        augment(np.zeros((1, 4, 4, 7), np.uint8), 3)  # no picture has seven channels
    assert state() == before


@pytest.mark.parametrize(
    "name", ["rand", "rand-m9-mstd0.5-inc1", "rand-n2-m0", "rand-p0.25-m10", "rand-p1-n99", "rand-mstd101-m5", RECIPE]
)
def test_recipes(name: str, clip: np.ndarray) -> None:
    require_recipe(name)
    assert RandAugment(name)(clip, 0).shape == clip.shape


@pytest.mark.parametrize(
    "name",
    [
        *("", "null", "true", "RandAugment", "augmix-m3-w3", "v0", "Rand-m7", "rand_m7", "rand-", "rand--m7"),
        *("rand-x3", "rand-m", "rand-m11", "rand-m-1", "rand-m7.5", "rand-n0", "rand-n100", "rand-n1.5", "rand-p0"),
        *("rand-p1.5", "rand-p50", "rand-mstd", "rand-mstd-1", "rand-mstdx", "rand-inc2", "rand-inc", "rand-m7-m7"),
        *("rand-m7-n4-mstd0.5-inc1 ", "rand-tweights", "rand-mmax30", "rand-m٣", "rand-m7\n"),
    ],
)
def test_what_is_no_recipe_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"data\.augmentation is .*such as rand-m7-n4-mstd0\.5-inc1"):
        require_recipe(name)
    with pytest.raises(UsageError):
        RandAugment(name)
