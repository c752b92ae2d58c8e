import torch

from petl_bench.backbones.clip.model import CLIP
from petl_bench.data.datasets import Row, collate
from petl_bench.inputs import Clips, Words, sent

IDS = torch.tensor([[5, 6, 9, 0, 0], [5, 9, 0, 0, 0]])


def test_padding_is_cut_at_the_longest_text() -> None:
    ids, mask, most = Words(IDS, IDS > 0).without_padding()
    assert (ids.tolist(), mask.tolist(), most) == ([[5, 6, 9], [5, 9, 0]], [[True] * 3, [True, True, False]], 3)


def test_what_was_counted_is_not_counted_again() -> None:
    words = Words(IDS, IDS > 0).counted()
    assert words.most == 3
    assert words.select(slice(1, 2)).without_padding().ids.tolist() == [[5, 9]]
    assert Words(IDS, IDS > 0, 4).without_padding().ids.shape == (2, 4)
    assert words.to(torch.device("cpu")).most == 3


def test_no_texts_have_no_tokens() -> None:
    assert Words(IDS[:0], IDS[:0] > 0).counted().most == 0


def test_a_loader_counts() -> None:
    clip = Clips(torch.zeros(1, 3, 2, 2), torch.ones(1, dtype=torch.bool), torch.zeros(1))
    rows = [
        Row(clip, Words(IDS[row : row + 1], IDS[row : row + 1] > 0), row, range(row, row + 1), True) for row in (0, 1)
    ]
    assert collate(rows).words.most == 3
    assert collate(rows[1:]).words.most == 2


def test_texts_are_encoded_alike_however_they_are_counted(tiny_clip: CLIP) -> None:
    words = tiny_clip.spec.tokenize(["a cat", "two people dance in the rain"], 20)
    expected = tiny_clip.encode_text(words).pooled
    for counted in (words.counted(), words._replace(most=20)):
        torch.testing.assert_close(tiny_clip.encode_text(counted).pooled, expected, atol=1e-6, rtol=1e-5)


def test_what_is_sent_to_the_cpu_is_the_same() -> None:
    assert sent(IDS, torch.device("cpu")) is IDS
