"""Both directions from one pass, against the directions one by one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from petl_bench.errors import NonFiniteError
from petl_bench.metrics.both_ways import Ranks, ranks_both_ways
from petl_bench.metrics.by_index import in_order
from petl_bench.metrics.retrieval import (
    ranks_of_directions,
    text_to_video_ranks,
    video_to_caption_set_ranks,
    video_to_text_ranks,
)
from petl_bench.metrics.scores import Scores, scores_of_features, scores_of_frames
from tests.unit.metrics.test_retrieval import integer_features, random_pairs

SIDES = (1, 3, 7, 64)


def one_by_one(scores: Scores, text_video: Tensor) -> dict[str, Ranks]:
    """What `ranks_both_ways` gives, from a product for each direction."""
    found = {"t2v": text_to_video_ranks(scores, text_video)}
    by_caption = video_to_text_ranks(scores, text_video)
    if len(text_video) == len(scores.failed):
        return found | {"v2t": by_caption}
    return found | {"v2t": video_to_caption_set_ranks(scores, text_video), "v2t_captions": by_caption}


def both_ways(scores: Scores, text_video: Tensor, side: int) -> dict[str, Ranks]:
    assert scores.tiles is not None
    return ranks_both_ways(scores.tiles, text_video, scores.failed, side)


def assert_same(actual: dict[str, Ranks], expected: dict[str, Ranks]) -> None:
    assert list(actual) == list(expected)
    for way, ranks in expected.items():
        for name, value in ranks._asdict().items():
            found = getattr(actual[way], name)
            assert found.equal(value) if isinstance(value, Tensor) else found == value, (way, name)
        assert actual[way].ranks.dtype == actual[way].hits.dtype == torch.int32


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("max_captions", [1, 5])
@pytest.mark.parametrize("seed", range(12))
def test_ranks_ties_and_hits_are_those_of_each_direction(side: int, max_captions: int, seed: int) -> None:
    videos, text_video = random_pairs(seed, max_captions)
    text, video = integer_features(seed, len(text_video), videos, magnitude=1 + seed % 3 * 3)
    failed = torch.rand(videos, generator=torch.Generator().manual_seed(seed)) < 0.2
    scores, pairs = scores_of_features(text, video, failed), torch.tensor(text_video)
    assert_same(both_ways(scores, pairs, side), one_by_one(scores, pairs))


@pytest.mark.parametrize("captions", [1, 3])
def test_a_larger_split(captions: int) -> None:
    generator = torch.Generator().manual_seed(captions)
    pairs = torch.arange(300).repeat(captions)[torch.randperm(300 * captions, generator=generator)]
    text, video = torch.randn(len(pairs), 32, generator=generator), torch.randn(300, 32, generator=generator)
    text += video[pairs] / 3
    scores = scores_of_features(text, video, torch.arange(300) % 50 == 7)
    assert_same(both_ways(scores, pairs, 64), one_by_one(scores, pairs))
    assert_same(ranks_of_directions(scores, pairs), one_by_one(scores, pairs))


def test_similarities_of_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.arange(40).repeat(2)
    text, frames = torch.randn(80, 8, generator=generator), torch.randn(40, 4, 8, generator=generator)
    mask = torch.arange(4) < torch.randint(1, 5, (40, 1), generator=generator)
    scores = scores_of_frames(text, frames, mask, 5.0, torch.arange(40) == 3)
    assert_same(both_ways(scores, pairs, 16), one_by_one(scores, pairs))


@pytest.mark.parametrize("frames", [False, True])
def test_equal_features_tie_in_whichever_tile_they_stand(frames: bool) -> None:
    """Sums are rounded alike: a product of another shape would break ties by the last bit."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(150, 48, generator=generator)
    video = torch.cat([half, half])
    text = video + 1.0 * torch.randn(150, 48, generator=generator).repeat(2, 1)
    scores = scores_of_features(text, video)
    if frames:
        scores = scores_of_frames(text, video[:, None].repeat(1, 3, 1), torch.ones(300, 3, dtype=torch.bool), 5.0)
    found = both_ways(scores, torch.arange(300), 64)
    assert found["t2v"].ties == found["v2t"].ties == 300
    copies = torch.arange(300) % 150
    assert all((found[way].hits[:, :2] % 150 == copies[:, None]).all(1).sum() > 100 for way in found)


@pytest.mark.parametrize("captions", [1, 2])
def test_collapsed_features_are_at_chance_and_hits_are_the_first(captions: int) -> None:
    scores, pairs = scores_of_features(torch.ones(200 * captions, 4), torch.ones(200, 4)), torch.arange(200)
    found = both_ways(scores, pairs.repeat(captions), 32)
    assert found["t2v"].ranks.eq(101).all()
    assert found["v2t"].ranks.eq(101).all()
    assert all(ranks.hits.equal(torch.tensor([[0, 1, 2]], dtype=torch.int32).expand_as(ranks.hits)) for ranks in
               found.values())  # fmt: skip


@pytest.mark.parametrize(("captions", "side"), [(1, 16), (1, 512), (3, 16)])
def test_a_similarity_is_calculated_once(captions: int, side: int) -> None:
    pairs = torch.arange(96).repeat_interleave(captions)
    scores = scores_of_features(torch.randn(len(pairs), 4), torch.randn(96, 4))
    asked = np.zeros((len(pairs), 96), dtype=int)

    def counted(texts: Tensor) -> Callable[[slice], Tensor]:
        assert scores.tiles is not None
        tile_of = scores.tiles(texts)

        def of(videos: slice) -> Tensor:
            asked[texts.numpy(), videos] += 1
            return tile_of(videos)

        return of

    ranks_of_directions(scores._replace(tiles=counted), pairs)
    assert asked.max() == 1
    asked[:] = 0
    ranks_both_ways(counted, pairs, scores.failed, side)
    assert asked.min() == 1
    assert asked.mean() < 1.1  # the last tiles overlap


@pytest.mark.parametrize("side", [2, 512])
def test_what_is_not_finite_is_refused_by_the_index_of_the_caption(side: int) -> None:
    features = torch.ones(6, 4)
    features[4] = 3e38
    scores, pairs = scores_of_features(features, features), torch.tensor([5, 4, 3, 2, 1, 0])
    with pytest.raises(NonFiniteError, match=r"similarities of captions in \d row\(s\): .*4"):
        both_ways(scores, pairs, side)


def test_samples_are_put_in_order_from_any_pieces() -> None:
    values, index = torch.arange(12).view(6, 2), torch.tensor([3, 0, 5, 1, 4, 2])
    expected = values[index.argsort()]
    assert in_order(values, index).equal(expected)
    assert in_order([*values.split(4)], [*index.split(4)]).equal(expected)


@pytest.mark.parametrize(("captions", "side"), [(1, 150), (2, 300)])
def test_tiles_of_several_strips(captions: int, side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(-2, 3, (300, 4), generator=generator).float()  # many ties
    pairs = torch.arange(300).repeat(captions)
    scores = scores_of_features(video[pairs.flip(0)], video)
    assert_same(both_ways(scores, pairs, side), one_by_one(scores, pairs))
