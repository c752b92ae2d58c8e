"""Tokens that are added and dropped take their mask, positions and companions along."""

import torch

from petl_bench.nn.transformer import Attention, Context, rotated


def a_context() -> Context:
    mask = torch.tensor([[True, True, False], [True, False, True]])[:, None, None]  # (2, 1, 1, 3)
    positions = torch.arange(6.0).view(1, 3, 2)
    return Context(attention_mask=mask, positions=positions, companions={"size": torch.tensor([[1, 2, 3], [4, 5, 6]])})


def test_inserted_tokens_are_read_not_turned_and_have_companions_of_zero() -> None:
    longer = a_context().insert(1, 2)
    assert longer.attention_mask is not None
    assert longer.positions is not None
    assert longer.attention_mask[:, 0, 0].tolist() == [[True, True, True, True, False], [True, True, True, False, True]]
    assert longer.positions[0, :, 0].tolist() == [0, 0, 0, 2, 4]
    assert longer.companions["size"].tolist() == [[1, 0, 0, 2, 3], [4, 0, 0, 5, 6]]


def test_inserting_in_front_and_in_a_square_mask() -> None:
    square = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    longer = Context(attention_mask=square).insert(0, 1).attention_mask
    assert longer is not None
    assert longer[0, 0].tolist() == [[True] * 4, [True, True, False, False], [True, True, True, False], [True] * 4]
    assert Context().insert(0, 3) == Context()


def test_kept_tokens_keep_what_is_theirs() -> None:
    kept = a_context().keep(torch.tensor([[2, 0], [1, 2]]))
    assert kept.attention_mask is not None
    assert kept.positions is not None
    assert kept.attention_mask[:, 0, 0].tolist() == [[False, True], [False, True]]
    assert kept.positions[..., 0].tolist() == [[4, 0], [2, 4]]
    assert kept.companions["size"].tolist() == [[3, 1], [5, 6]]
    square = torch.arange(9).view(1, 1, 3, 3)
    chosen = Context(attention_mask=square).keep(torch.tensor([[2, 0]])).attention_mask
    assert chosen is not None
    assert chosen[0, 0].tolist() == [[8, 6], [2, 0]]


def test_rotary_attention_sees_distances_alone() -> None:
    torch.manual_seed(0)
    attention, x = Attention(16, 4, key_value_heads=2), torch.randn(2, 5, 16)
    angles = torch.arange(5.0)[None, :, None] / torch.tensor([1.0, 10.0])
    expected = attention(x, positions=angles)
    torch.testing.assert_close(attention(x, positions=angles + 3), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(attention(x), expected, atol=1e-3)
    row = torch.tensor([4, 1])
    torch.testing.assert_close(attention(x, row=row, positions=angles)[:, 0], expected[torch.arange(2), row])


def test_rotation_turns_pairs_of_channels() -> None:
    x = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(rotated(x, torch.full((1, 1, 1), torch.pi / 2)).flatten(), torch.tensor([0.0, 1.0]))


def test_grouped_queries_share_keys_and_values() -> None:
    torch.manual_seed(0)
    attention, x = Attention(16, 4, key_value_heads=2), torch.randn(2, 5, 16)
    assert tuple(attention.widths) == (16, 8, 8)
    q, k, v = attention.project(x)
    k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
    weights = (q @ k.mT / 2).softmax(-1)  # d is 4
    torch.testing.assert_close(attention(x), attention.out((weights @ v).transpose(1, 2).flatten(2)))
