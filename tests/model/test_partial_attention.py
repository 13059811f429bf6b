"""Parts of attention against one softmax over all keys, by the fused kernel and by plain operations alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model import partial_attention
from model.partial_attention import Run, attend_part, merge_parts, runs_of_documents, runs_of_rows


@pytest.fixture(params=["fused", "plain"])
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(partial_attention, "_fused", partial_attention._row_blocks)
        monkeypatch.setattr(partial_attention, "ROWS_AT_ONCE", 3)


def tensors(*shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def whole(query, key, value, seen):
    """(N, T, D) over (N, S, D) where ``seen`` (T, S)."""
    logits = (query @ key.transpose(1, 2) * query.shape[-1] ** -0.5).masked_fill(~seen, float("-inf"))
    return logits.softmax(-1) @ value, logits.logsumexp(-1)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_merged_parts_are_one_softmax(dtype):
    query, key, value = tensors((6, 10, 8), (2, 25, 8), (2, 25, 8), dtype=dtype)
    parts = [attend_part(query, key[:, a:b], value[:, a:b]) for a, b in ((0, 4), (4, 15))]
    parts.append(attend_part(query, key[:, 15:], value[:, 15:], causal=True))
    output, log = merge_parts(parts)
    seen = torch.ones(10, 25, dtype=torch.bool).tril(15)
    wide = (query.double(), *(x.double().repeat_interleave(3, dim=0) for x in (key, value)))
    expected, expected_log = whole(*wide, seen)
    assert output.dtype == dtype
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(output.double(), expected, **tolerance)
    torch.testing.assert_close(log.double(), expected_log, **tolerance)


@pytest.mark.usefixtures("path")
def test_hidden_keys_count_for_nothing_even_where_all_are_hidden():
    query, key, value = tensors((2, 5, 8), (2, 7, 8), (2, 7, 8))
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    hidden[0, 3:], hidden[1] = True, True
    first = attend_part(query, key, value, hidden=hidden)
    assert torch.isfinite(first[0]).all()
    output, _ = merge_parts([first, attend_part(query, key, value, causal=False)])
    seen = torch.ones(5, 7, dtype=torch.bool)
    alone, log = whole(query, key, value, seen)
    torch.testing.assert_close(output[1], alone[1])
    part, part_log = whole(query, key, value, seen & ~hidden[0])
    share = (part_log[0] - torch.logaddexp(part_log[0], log[0])).exp()[:, None]
    torch.testing.assert_close(output[0], share * part[0] + (1 - share) * alone[0])


def test_gradients_flow_through_the_merge():
    query, key, value = (x.requires_grad_() for x in tensors((2, 4, 8), (1, 9, 8), (1, 9, 8)))

    def attention(query, key, value):
        parts = [attend_part(query, key[:, :5], value[:, :5])]
        parts.append(attend_part(query, key[:, 5:], value[:, 5:], causal=True))
        return merge_parts(parts)[0]

    assert torch.autograd.gradcheck(attention, (query, key, value))


@given(st.lists(st.lists(st.integers(-1, 3), min_size=6, max_size=6), min_size=1, max_size=3))
def test_runs_of_documents_cover_each_text_once(rows):
    found = torch.full((len(rows), 6), -1)
    for run in runs_of_documents(torch.tensor(rows)):
        assert run.queries == run.keys
        assert run.position == 0
        assert (found[run.row, run.queries] == -1).all()
        found[run.row, run.queries] = torch.tensor(rows)[run.row, run.queries]
        assert len(set(found[run.row, run.queries].tolist())) == 1
    assert found.tolist() == rows


def test_runs_of_rows_leave_out_padding():
    assert runs_of_rows([0, 2, 5], 0, 5) == [Run(0, slice(0, 5), slice(0, 5)), Run(1, slice(2, 5), slice(2, 5))]
    later = runs_of_rows([0, 2], 4, 3)
    assert later == [Run(0, slice(0, 3), slice(0, 7)), Run(1, slice(0, 3), slice(2, 7))]
    assert [run.position for run in later] == [4, 2]
