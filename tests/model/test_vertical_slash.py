"""Sparse attention against a mask written key by key, and the estimate against sums over the attention matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model import vertical_slash
from model.dual_chunk import NO_CHUNKS
from model.vertical_slash import BLOCK, Budget, Selection, attend_selected, scores, select


def by_kind(queries, key, first, chunk_length):
    """Logits (T, S), each key met by the query of its kind; keys after the query are left out."""
    at, keys = torch.arange(first, len(key)), torch.arange(len(key))
    kinds = (at[:, None] // chunk_length - keys // chunk_length).clamp(0, 2)
    logits = torch.stack([query @ key.T for query in queries]).gather(0, kinds[None])[0] * key.shape[1] ** -0.5
    return logits.masked_fill(keys > at[:, None], float("-inf"))


def keys_of(selection: Selection, start: int, keys: int) -> set[int]:
    """What the block at ``start`` reads before it ends."""
    read = {int(column) for column in selection.columns if column < start}
    for near, far in selection.bands:
        for query in range(start, start + BLOCK):
            # a window holds every key from the first query's farthest to the last query's nearest
            read |= {key for key in (query - near, query - far) if 0 <= key < keys}
        read |= set(range(max(start - far, 0), min(start + BLOCK - near, keys)))
    return read


@st.composite
def cases(draw):
    """A text's end that lies in one chunk, and what is selected."""
    chunk_length = draw(st.sampled_from([NO_CHUNKS, 37, 100, 64, 200]))
    keys = draw(st.integers(1, 400))
    first = draw(st.integers((keys - 1) // chunk_length * chunk_length, keys - 1))
    budget = Budget(draw(st.integers(0, keys + 2)), draw(st.integers(0, 8) | st.integers(0, keys + 2)))
    return chunk_length, keys, first, budget, draw(st.integers(0, 5)), draw(st.integers(1, 20))


@given(cases(), st.sampled_from([1, 2, 32]), st.integers(0, 2**31))
@settings(max_examples=40)
def test_output_is_a_softmax_over_what_is_read(case, blocks_at_once, seed):
    chunk_length, keys, first, budget, sinks, local = case
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(3, keys - first, 8, generator=generator, dtype=torch.float64).unbind()
    key, value = torch.randn(2, keys, 8, generator=generator, dtype=torch.float64)
    selection = select(*torch.rand(2, keys, generator=generator) ** 8, budget, sinks=sinks, local=local)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertical_slash, "BLOCKS_AT_ONCE", blocks_at_once)
        output, log = attend_selected(queries, key, value, first, chunk_length, selection)
    logits = by_kind(queries, key, first, chunk_length)
    counts = []
    for start in range(first, keys, BLOCK):
        read = keys_of(selection, start, start + BLOCK)
        counts.append(len(read))
        rows = slice(start - first, start - first + BLOCK)
        unread = torch.tensor([number not in read for number in range(keys)])
        logits[rows, unread] = float("-inf")
    torch.testing.assert_close(output, logits.softmax(-1) @ value)
    torch.testing.assert_close(log, logits.logsumexp(-1))
    starts = torch.arange(first, keys, BLOCK)
    assert (selection.seen(starts, keys + BLOCK).sum(dim=1) == torch.tensor(counts)).all()
    assert (selection.keys_read(starts) >= torch.tensor(counts)).all()  # a column in a band is counted twice


@given(st.integers(1, 60), st.integers(1, 30), st.sampled_from([NO_CHUNKS, 16, 45]), st.integers(0, 2**31))
@settings(max_examples=30)
def test_scores_sum_columns_and_diagonals(keys, rows, chunk_length, seed):
    first = max((keys - 1) // chunk_length * chunk_length, keys - rows)
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(3, 2, keys - first, 8, generator=generator, dtype=torch.float64).unbind()
    key = torch.randn(keys, 8, generator=generator, dtype=torch.float64)
    vertical, slash = scores(queries, key, first, chunk_length, None, lambda query, by: query)
    for head in range(2):
        shares = by_kind([query[head] for query in queries], key, first, chunk_length).softmax(-1)
        columns, diagonals = torch.zeros(2, keys, dtype=torch.float64)
        for query in range(first, keys):
            for at in range(query + 1):
                columns[at] += shares[query - first, at]
                diagonals[query - at] += shares[query - first, at]
        torch.testing.assert_close(vertical[head], columns)
        torch.testing.assert_close(slash[head], diagonals)


def test_the_best_lines_are_selected_after_the_ones_that_always_are():
    vertical, slash = torch.zeros(500), torch.zeros(500)
    vertical[[70, 300, 301]] = torch.tensor([0.5, 3.0, 1.0])
    slash[[150, 160, 400]] = torch.tensor([1.0, 0.9, 2.0])
    selection = select(vertical, slash, Budget(4, 5), sinks=2, local=2)
    assert selection.columns.tolist() == [0, 1, 300, 301]
    assert selection.bands == [(0, 1), (150, 160), (400, 400)]


def test_every_query_sees_itself_without_any_budget():
    query, key, value = torch.randn(3, 130, 8, generator=torch.Generator().manual_seed(0))
    selection = select(torch.zeros(130), torch.zeros(130), Budget(0, 0), sinks=0, local=1)
    output, _ = attend_selected((query,), key, value, 0, NO_CHUNKS, selection)
    torch.testing.assert_close(output[0], value[0])
    assert selection.bands == [(0, 0)]
