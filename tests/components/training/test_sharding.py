"""Which rank computes what: the parts are the whole, for any number of ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import SHAPE, tokens_at

from components.sft.sequences import pack
from components.stage import StageError
from components.training.language_modelling import next_token_loss
from components.training.sharding import bounds, check_divides, my_parts, split_rows, split_windows
from model.loss import cross_entropy
from model.transformer import Transformer


@given(size=st.integers(0, 40), parts=st.integers(1, 9))
def test_ranges_cover_everything_once(size, parts):
    ranges = bounds(size, parts)
    assert len(ranges) == parts
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(size))


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("micro", [6, 3, 4])
def test_weighted_losses_of_all_ranks_are_the_loss_of_the_whole(world_size, micro):
    model = Transformer(SHAPE).init_weights(0)
    batch = list(tokens_at(3, 6).split(micro))

    def loss_of(rank: int, ranks: int) -> float:
        parts = my_parts(batch, split_windows, rank, ranks)
        return sum(weight * next_token_loss(model, part)[0].item() for part, weight in parts)

    total = sum(loss_of(rank, world_size) for rank in range(world_size))
    assert total == pytest.approx(loss_of(0, 1), rel=1e-6)


def test_a_rank_without_rows_still_has_a_micro_batch():
    parts = split_rows(torch.arange(3)[:, None], 4)
    assert [len(part) for part, _ in parts] == [1, 1, 1, 1]
    assert [weight for _, weight in parts] == [1 / 3, 1 / 3, 1 / 3, 0.0]


def test_packed_conversations_weigh_by_what_they_teach():
    model = Transformer(SHAPE).init_weights(0)
    sequences = [(list(range(5, 5 + n)), [i > n // 2 for i in range(n)]) for n in (9, 12, 5, 14, 7)]
    packed = pack(sequences, 16, 0)

    def mean_loss(part) -> float:
        hidden = model(part.input_ids, document_ids=part.document_ids)
        total, count = cross_entropy(hidden, model.output_weight, part.labels)
        return total.item() / count

    assert len(packed) >= 3
    total = sum(weight * mean_loss(part) for part, weight in packed.split(3))
    assert total == pytest.approx(mean_loss(packed), rel=1e-6)


def test_a_world_size_that_does_not_divide_the_batch_is_refused_in_one_line():
    check_divides(12, 4, "sft")
    check_divides(None, 4, "grpo")
    with pytest.raises(StageError, match=r"^sft: 5 processes cannot share a batch of 12 evenly.*near: 3, 4, 6.*$"):
        check_divides(12, 5, "sft")
