"""Packing: labels, masks and ends are right, and a packed sequence sees what it would see alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.sft.sequences import pack
from model.config import ModelConfig
from model.loss import IGNORE, token_log_probs
from model.transformer import Transformer

PADDING = 0


def sequence_of(size):
    ids, mask = st.integers(1, 30), st.booleans()
    return st.tuples(st.lists(ids, min_size=size, max_size=size), st.lists(mask, min_size=size, max_size=size))


sequence = st.integers(2, 12).flatmap(sequence_of)


@settings(max_examples=100, deadline=None)
@given(st.lists(sequence, min_size=1, max_size=12))
def test_every_sequence_is_in_one_window_with_its_own_labels(sequences):
    packed = pack(sequences, 16, PADDING)
    for index, (ids, mask) in enumerate(sequences):
        here = packed.document_ids == index
        assert packed.input_ids[here].tolist() == ids
        assert here.any(dim=1).sum() == 1
        expected = [token if learnt else IGNORE for token, learnt in zip(ids[1:], mask[1:], strict=True)] + [IGNORE]
        assert packed.labels[here].tolist() == expected
        assert packed.input_ids.flatten()[packed.ends[index]] == ids[-1]
        assert packed.document_ids.flatten()[packed.ends[index]] == index
    outside = packed.document_ids == -1
    assert (packed.labels[outside] == IGNORE).all()
    assert packed.sizes.sum() == packed.learnt.sum() == len(packed.token_sequence)


def test_a_sequence_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="20 tokens does not fit a window of 16"):
        pack([([1] * 20, [True] * 20)], 16, PADDING)


def test_packed_log_probabilities_equal_those_of_each_sequence_alone():
    config = ModelConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = Transformer(config).init_weights(0)
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for size in (5, 9, 7, 3, 12):
        ids = torch.randint(1, 40, (size,), generator=generator).tolist()
        sequences.append((ids, [False, False] + [True] * (size - 2)))
    packed = pack(sequences, 16, PADDING)
    with torch.no_grad():
        together = token_log_probs(
            model(packed.input_ids, document_ids=packed.document_ids), model.output_weight, packed.labels
        )
        for index, (ids, _) in enumerate(sequences):
            alone = pack([sequences[index]], len(ids), PADDING)
            expected = token_log_probs(model(alone.input_ids), model.output_weight, alone.labels)
            torch.testing.assert_close(together[packed.document_ids == index], expected[0])
