"""The decoder against ``transformers``: logits, loss, every gradient; packing and padding change nothing."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_shapes import CONFIGS, make_config, make_model

from model.cache import KVCache
from model.loss import IGNORE, cross_entropy


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, relative: float = 1e-4) -> None:
    assert (ours - theirs).norm() <= relative * theirs.norm().clamp(min=1e-6)


@pytest.fixture(params=CONFIGS, ids=str)
def model(request):
    return make_model(CONFIGS[request.param])


def their_gradients(theirs, config) -> dict[str, torch.Tensor]:
    """Gradients under our names: ``transformers`` fuses gate and up of stacked experts."""
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name in [name for name in gradients if name.endswith("experts.gate_up_proj")]:
        gate, up = gradients.pop(name).chunk(2, dim=1)
        stem = name.removesuffix("gate_up_proj")
        gradients |= {f"{stem}gate_proj": gate, f"{stem}up_proj": up}
    return gradients


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, 64)])
def test_logits_equal_transformers(model, twin, shape):
    ids = torch.randint(200, shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(model.logits(model(ids)), twin(model)(ids).logits)


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and document numbers (3, 33) of one document a row, the shorter ones filled up at the right."""
    ids = torch.randint(200, (3, 33), generator=torch.Generator().manual_seed(1))
    numbers = torch.zeros_like(ids)
    numbers[1, 20:] = numbers[2, 7:] = -1
    return ids, numbers


def packed_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and document numbers (2, 40) of several documents a row, with padding after the last."""
    ids = torch.randint(200, (2, 40), generator=torch.Generator().manual_seed(2))
    rows = [[11, 1, 20], [5, 5, 30]]
    numbers = [[index for index, n in enumerate(row) for _ in range(n)] for row in rows]
    return ids, torch.tensor([row + [-1] * (40 - len(row)) for row in numbers])


def plain_batch() -> tuple[torch.Tensor, None]:
    return torch.randint(200, (3, 33), generator=torch.Generator().manual_seed(3)), None


def as_transformers_takes_it(numbers: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Mask and positions, spelled out pair by pair."""
    if numbers is None:
        return {}
    batch, tokens = numbers.shape
    seen = torch.zeros(batch, 1, tokens, tokens, dtype=torch.bool)
    positions = torch.zeros(batch, tokens, dtype=torch.long)
    for row in range(batch):
        for i in range(tokens):
            same = [j for j in range(i + 1) if numbers[row, j] == numbers[row, i]]
            seen[row, 0, i, same] = True
            positions[row, i] = len(same) - 1
    return {"attention_mask": seen, "position_ids": positions}


@pytest.mark.parametrize("batch", [plain_batch, padded_batch, packed_batch])
def test_logits_loss_and_all_gradients_equal_transformers(model, twin, batch):
    theirs = twin(model)
    ids, numbers = batch()
    labels = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(4)) < 0.3, IGNORE)
    real = torch.ones_like(ids, dtype=torch.bool) if numbers is None else numbers != -1
    labels = labels.masked_fill(~real, IGNORE)
    hidden = model(ids, document_ids=numbers)
    total, count = cross_entropy(hidden[:, :-1], model.output_weight, labels[:, 1:])
    loss = total / count
    loss.backward()
    expected = theirs(input_ids=ids, labels=labels, **as_transformers_takes_it(numbers))
    expected.loss.backward()
    assert_close(model.logits(hidden)[real], expected.logits[real])
    assert_close(loss, expected.loss)
    gradients = their_gradients(theirs, model.config)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, gradients[name])


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.integers(1, 14), min_size=1, max_size=4), min_size=1, max_size=3),
    padding=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_packed_and_padded_documents_equal_each_alone(model, rows, padding, seed):
    longest = max(map(sum, rows)) + padding
    ids = torch.randint(200, (len(rows), longest), generator=torch.Generator().manual_seed(seed))
    numbers = torch.full_like(ids, -1)
    for row, lengths in zip(numbers, rows, strict=True):
        row[: sum(lengths)] = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    with torch.no_grad():
        packed = model(ids, document_ids=numbers)
        assert torch.isfinite(packed).all()
        for row, lengths in enumerate(rows):
            for index in range(len(lengths)):
                own = numbers[row] == index
                torch.testing.assert_close(packed[row, own], model(ids[row, own][None])[0], atol=1e-5, rtol=1e-4)


def test_packed_gradients_equal_the_sum_of_each_alone(model):
    first, second = torch.randint(200, (2, 1, 8), generator=torch.Generator().manual_seed(3))
    ids, numbers = torch.cat([first, second], dim=1), torch.tensor([[0] * 8 + [1] * 8])
    model(ids, document_ids=numbers).square().sum().backward()
    packed = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    (model(first).square().sum() + model(second).square().sum()).backward()
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, model.get_parameter(name).grad, atol=2e-4, rtol=1e-3)


def test_cached_steps_equal_one_pass_with_left_padding(model):
    lengths, longest = [4, 9, 1], 9
    ids = torch.randint(200, (3, 20), generator=torch.Generator().manual_seed(4))
    start = torch.tensor([longest - n for n in lengths])
    cache = KVCache(model.config, 3, 20, start=start)
    with torch.no_grad():
        steps = [model(ids[:, :longest], cache=cache)]
        steps += [model(ids[:, i : i + 1], cache=cache) for i in range(longest, 15)]
        steps.append(model(ids[:, 15:], cache=cache))
        cached = torch.cat(steps, dim=1)
        for row, begin in enumerate(start.tolist()):
            alone = model(ids[row : row + 1, begin:])[0]
            torch.testing.assert_close(cached[row, begin:], alone, atol=1e-5, rtol=1e-4)


def test_no_token_sees_the_future(model):
    ids = torch.randint(200, (1, 12), generator=torch.Generator().manual_seed(5))
    changed = ids.clone()
    changed[0, 8] = (ids[0, 8] + 1) % 200
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8], atol=1e-6, rtol=0)
    assert (before[:, 8:] - after[:, 8:]).abs().max() > 1e-3


def test_initialisation_is_a_function_of_the_seed():
    first, again, other = (make_model(make_config(), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_parameter_count_is_that_of_the_weights(model):
    assert model.config.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
