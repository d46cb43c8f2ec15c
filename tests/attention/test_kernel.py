"""The arithmetic of one block, on numbers worked out by hand."""

from __future__ import annotations

from math import exp, log, tanh

import pytest
import torch
from torch import Tensor

from interp.attention.kernel import (
    MASKED,
    MAX_BLOCK_QUERIES,
    Block,
    Visibility,
    Workspace,
    block_output,
    block_pattern,
    block_scores,
    query_blocks,
    visibility,
)

CAUSAL = Visibility(mask=None, causal=True)
EVERYTHING = Visibility(mask=None, causal=False)


def whole(n_queries: int, n_keys: int) -> Block:
    """One block of all queries over all keys."""
    return Block(torch.arange(n_queries), 0, n_keys, 0)


def heads(*rows: list[list[float]]) -> Tensor:
    """A batch of one with one `[position, d_head]` matrix for every head."""
    return torch.tensor([rows])


def spans(blocks: list[Block]) -> list[tuple[list[int], int, int]]:
    """Queries and key range of every block."""
    return [(block.queries.tolist(), block.first_key, block.end_key) for block in blocks]


def test_visibility_reads_the_key_range_of_every_query_over_the_batch() -> None:
    mask = torch.tensor(
        [
            [[[True, False, False, False], [True, True, False, False], [False, True, True, False]]],
            [[[False, False, False, False], [False, True, False, False], [False, False, True, False]]],
        ]
    )
    view = visibility(mask, causal=False)
    assert view.first is not None and view.first.tolist() == [0, 0, 1]
    assert view.last is not None and view.last.tolist() == [0, 1, 2]
    assert view.blind is not None and view.blind.tolist() == [[[False, False, False]], [[True, False, False]]]


def test_visibility_of_an_additive_mask_equals_that_of_the_boolean_one() -> None:
    allowed = torch.ones(3, 3, dtype=torch.bool).tril()[None, None]
    additive = torch.zeros(1, 1, 3, 3).masked_fill(~allowed, torch.finfo(torch.float32).min)
    for mask in (allowed, additive):
        view = visibility(mask, causal=False)
        assert view.first is not None and view.first.tolist() == [0, 0, 0]
        assert view.last is not None and view.last.tolist() == [0, 1, 2]
        assert view.blind is None and not view.causal


def test_visibility_without_a_mask_is_causal_or_complete() -> None:
    assert visibility(None, True).causal and not visibility(None, False).causal
    assert visibility(None, True).mask is None


def test_blocks_of_a_causal_call_end_at_their_last_query() -> None:
    # Two rows per query and eight keys at most: 32 elements hold two queries, then fewer as rows grow longer.
    blocks = list(query_blocks(torch.arange(8), 8, CAUSAL, row_width=2, max_elements=32))
    assert spans(blocks) == [([0, 1], 0, 2), ([2, 3], 0, 4), ([4, 5], 0, 6), ([6, 7], 0, 8)]
    assert [block.start for block in blocks] == [0, 2, 4, 6]


def test_a_block_holds_at_least_one_query_whatever_the_budget() -> None:
    blocks = list(query_blocks(torch.arange(3), 100, EVERYTHING, row_width=50, max_elements=1))
    assert spans(blocks) == [([0], 0, 100), ([1], 0, 100), ([2], 0, 100)]


def test_a_block_holds_no_more_queries_than_fit_the_cache_however_large_the_budget() -> None:
    blocks = list(query_blocks(torch.arange(300), 300, CAUSAL, row_width=1, max_elements=10**9))
    assert [len(block.queries) for block in blocks] == [MAX_BLOCK_QUERIES, MAX_BLOCK_QUERIES, 300 - 256]


def test_blocks_of_scattered_queries_know_that_their_rows_are_no_run() -> None:
    (block,) = query_blocks(torch.tensor([1, 4, 6]), 8, CAUSAL, row_width=1, max_elements=1000)
    assert spans([block]) == [([1, 4, 6], 0, 7)]
    assert block.start is None
    assert block.rows_of(torch.arange(8), 0).tolist() == [1, 4, 6]


def test_blocks_of_no_queries_are_none() -> None:
    assert list(query_blocks(torch.arange(0), 8, CAUSAL, row_width=1, max_elements=1000)) == []


def test_blocks_under_a_sliding_window_skip_keys_that_nobody_sees() -> None:
    distance = torch.arange(6)[:, None] - torch.arange(6)
    view = visibility(((distance >= 0) & (distance < 2))[None, None], causal=False)
    blocks = list(query_blocks(torch.arange(6), 6, view, row_width=1, max_elements=6))
    assert [(block.first_key, block.end_key) for block in blocks] == [
        (max(0, int(block.queries[0]) - 1), int(block.queries[-1]) + 1) for block in blocks
    ]
    assert torch.cat([block.queries for block in blocks]).tolist() == list(range(6))


def test_workspace_reuses_a_buffer_and_grows_it() -> None:
    workspace = Workspace()
    small = workspace.take("scores", (2, 3), torch.device("cpu"))
    assert workspace.take("scores", (3, 2), torch.device("cpu")).data_ptr() == small.data_ptr()
    assert workspace.take("pattern", (3, 2), torch.device("cpu")).data_ptr() != small.data_ptr()
    assert workspace.take("scores", (4, 5), torch.device("cpu")).shape == (4, 5)


def test_workspace_keeps_inference_tensors_apart() -> None:
    workspace = Workspace()
    with torch.inference_mode():
        assert workspace.take("scores", (2,), torch.device("cpu")).is_inference()
    assert not workspace.take("scores", (2,), torch.device("cpu")).is_inference()


def test_scores_are_scaled_products_and_hide_later_keys() -> None:
    query = heads([[1.0, 0.0], [2.0, 1.0]])
    key = heads([[3.0, 5.0], [7.0, 11.0]])
    scores = block_scores(query, key, whole(2, 2), CAUSAL, scale=0.5)
    # 0.5 * (1*3), hidden; 0.5 * (2*3 + 5), 0.5 * (2*7 + 11)
    assert scores.tolist() == [[[[1.5, MASKED], [5.5, 12.5]]]]


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_scores_written_into_a_buffer_are_the_same(softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 4, 3, 5, generator=generator)
    key = torch.randn(2, 2, 6, 5, generator=generator)
    block = Block(torch.tensor([2, 3, 4]), 0, 5, 2)
    given = block_scores(query, key, block, CAUSAL, scale=0.3, softcap=softcap)
    buffered = block_scores(query, key, block, CAUSAL, scale=0.3, softcap=softcap, out=torch.full((2, 4, 3, 5), 9.0))
    torch.testing.assert_close(buffered, given)
    assert (given[:, :, 0, 3:] == MASKED).all() and (given[:, :, 0, :3] > MASKED).all()


def test_query_heads_share_key_value_heads_in_runs() -> None:
    query = heads([[1.0]], [[1.0]], [[1.0]], [[1.0]])
    key = heads([[2.0]], [[5.0]])
    block = whole(1, 1)
    scores = block_scores(query, key, block, EVERYTHING, scale=1.0)
    assert scores.flatten().tolist() == [2.0, 2.0, 5.0, 5.0]
    output = block_output(torch.ones(1, 4, 1, 1), key, block)
    assert output.flatten().tolist() == [2.0, 2.0, 5.0, 5.0]


def test_soft_capping_comes_before_the_bias_and_the_bias_before_the_mask() -> None:
    query, key = heads([[4.0], [4.0]]), heads([[1.0], [2.0]])
    bias = torch.tensor([[[[10.0, 20.0], [30.0, 40.0]]]])
    scores = block_scores(query, key, whole(2, 2), CAUSAL, scale=1.0, softcap=5.0, bias=bias)
    expected = torch.tensor([[[[10 + 5 * tanh(0.8), MASKED], [30 + 5 * tanh(0.8), 40 + 5 * tanh(1.6)]]]])
    torch.testing.assert_close(scores, expected)


def test_the_bias_of_a_later_block_is_that_of_its_rows_and_keys() -> None:
    bias = torch.arange(16.0).view(1, 1, 4, 4)
    scores = block_scores(heads([[0.0]]), heads([[0.0]] * 4), Block(torch.tensor([2]), 1, 3, 2), EVERYTHING,
                          scale=1.0, bias=bias)  # fmt: skip
    assert scores.flatten().tolist() == [9.0, 10.0]


def test_an_additive_mask_is_added_where_it_does_not_hide() -> None:
    mask = torch.tensor([[[[0.5, torch.finfo(torch.float32).min]]]])
    view = visibility(mask, causal=False)
    scores = block_scores(heads([[1.0]]), heads([[2.0], [3.0]]), whole(1, 2), view, scale=1.0)
    assert scores.flatten().tolist() == [2.5, MASKED]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised_to_float32_before_the_softmax(dtype: torch.dtype) -> None:
    scores = block_scores(heads([[1.0]]).to(dtype), heads([[1.0], [1.0]]).to(dtype), whole(1, 2), CAUSAL, scale=1.0)
    assert scores.dtype == torch.float32


def test_float64_stays_float64() -> None:
    scores = block_scores(heads([[1.0]]).double(), heads([[1.0]]).double(), whole(1, 1), CAUSAL, scale=1.0)
    assert scores.dtype == block_pattern(scores, whole(1, 1), CAUSAL).dtype == torch.float64


def test_pattern_is_the_softmax_and_gives_hidden_keys_exactly_nothing() -> None:
    scores = torch.tensor([[[[0.0, MASKED], [0.0, log(3)]]]])
    pattern = block_pattern(scores, whole(2, 2), CAUSAL)
    torch.testing.assert_close(pattern, torch.tensor([[[[1.0, 0.0], [0.25, 0.75]]]]))
    assert pattern[0, 0, 0, 1] == 0


def test_a_sink_logit_takes_its_share_and_is_dropped() -> None:
    scores = torch.zeros(1, 2, 1, 2)
    pattern = block_pattern(scores, whole(1, 2), EVERYTHING, sink_logits=torch.tensor([log(2), log(8)]))
    # exp(0) = 1 for either key beside a sink of 2, then of 8.
    torch.testing.assert_close(pattern.flatten(), torch.tensor([1 / 4, 1 / 4, 1 / 10, 1 / 10]))


def test_rows_of_blind_queries_are_zero() -> None:
    mask = torch.tensor([[[[False, False], [True, False]]]])
    view = visibility(mask, causal=False)
    scores = block_scores(heads([[1.0], [1.0]]), heads([[1.0], [1.0]]), whole(2, 2), view, scale=1.0)
    assert block_pattern(scores, whole(2, 2), view).tolist() == [[[[0.0, 0.0], [1.0, 0.0]]]]


def test_output_mixes_the_values_of_the_blocks_keys() -> None:
    value = heads([[100.0, 100.0], [1.0, 2.0], [3.0, 4.0]])
    pattern = torch.tensor([[[[0.25, 0.75]]]])
    output = block_output(pattern, value, Block(torch.tensor([2]), 1, 3, 2))
    assert output.tolist() == [[[[2.5, 3.5]]]]


def test_one_block_by_hand_from_queries_to_head_output() -> None:
    query, key = heads([[0.0], [1.0]]), heads([[0.0], [1.0]])
    value, block = heads([[1.0], [5.0]]), whole(2, 2)
    pattern = block_pattern(block_scores(query, key, block, CAUSAL, scale=1.0), block, CAUSAL)
    share = exp(1) / (1 + exp(1))
    torch.testing.assert_close(
        block_output(pattern, value, block), torch.tensor([[[[1.0]], [[(1 - share) * 1 + share * 5]]]])
    )
