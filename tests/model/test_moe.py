"""Routing against a loop over tokens, router losses against ``transformers``, upcycling."""

import pytest
import torch
import torch.nn.functional as F
from model_shapes import EXPERTS, make_config, make_model

from model.moe import MoE, upcycle


@pytest.fixture
def model():
    return make_model(make_config(4, 2, num_hidden_layers=1, moe=EXPERTS))


def one_token(layer: MoE, x: torch.Tensor) -> torch.Tensor:
    """(H,) -> (H,), expert by expert."""
    probabilities = layer.gate(x).softmax(-1)
    output = layer.shared_expert_gate(x).sigmoid() * layer.shared_expert(x)
    for expert in probabilities.topk(EXPERTS.num_experts_per_tok).indices:
        experts = layer.experts
        inner = F.silu(experts.gate_proj[expert] @ x) * (experts.up_proj[expert] @ x)
        output = output + probabilities[expert] * (experts.down_proj[expert] @ inner)
    return output


def test_grouped_experts_equal_a_loop_over_tokens(model):
    layer = model.layers[0].mlp
    x = torch.randn(2, 9, 32)
    expected = torch.stack([one_token(layer, token) for token in x.flatten(0, 1)]).view_as(x)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


def test_auxiliary_loss_equals_transformers(model, twin):
    theirs = twin(model)
    ids = torch.randint(200, (3, 20), generator=torch.Generator().manual_seed(0))
    model(ids)
    expected = theirs(ids, output_router_logits=True)
    logits = expected.router_logits[0]
    if logits.shape[-1] != EXPERTS.num_experts or (logits.sum(-1) - 1).abs().max() < 1e-5:
        pytest.fail("transformers reports something other than router logits")
    z_loss = logits.float().logsumexp(-1).square().mean()
    total = EXPERTS.router_aux_loss_coef * expected.aux_loss + EXPERTS.router_z_loss_coef * z_loss
    torch.testing.assert_close(model.auxiliary_loss, total, rtol=1e-5, atol=0)


def test_auxiliary_loss_ignores_padding(model):
    ids = torch.randint(200, (1, 12), generator=torch.Generator().manual_seed(1))
    model(ids)
    alone = model.auxiliary_loss.detach()
    padded = torch.cat([ids, torch.zeros(1, 9, dtype=torch.long)], dim=1)
    model(padded, document_ids=torch.tensor([[0] * 12 + [-1] * 9]))
    torch.testing.assert_close(model.auxiliary_loss, alone)


def test_descending_the_balance_loss_spreads_the_load():
    moe = EXPERTS.model_copy(update={"router_aux_loss_coef": 1.0, "router_z_loss_coef": 0.0})
    model = make_model(make_config(4, 2, num_hidden_layers=1, moe=moe))
    gate = model.layers[0].mlp.gate
    ids = torch.randint(200, (4, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        gate.weight[0] += gate.weight[1:].abs().sum(0)  # expert 0 gets far more than its share
    optimizer = torch.optim.Adam([gate.weight], lr=0.02)
    entropies = []
    for _ in range(40):
        model(ids)
        entropies.append(model.router_statistics()["router/entropy"])
        optimizer.zero_grad()
        model.auxiliary_loss.backward()
        optimizer.step()
    assert entropies[-1] > 0.97 > entropies[0]


def test_dense_models_have_no_router():
    model = make_model(make_config())
    model(torch.zeros(1, 3, dtype=torch.long))
    assert float(model.auxiliary_loss) == 0.0
    assert model.router_statistics() == {}


def test_losses_before_a_forward_pass_are_refused(model):
    with pytest.raises(RuntimeError, match="after a forward pass"):
        _ = model.auxiliary_loss


@pytest.fixture
def dense():
    return make_model(make_config(4, 2))


def test_upcycled_experts_are_made_of_the_dense_units(dense):
    model = upcycle(dense, EXPERTS, seed=0)
    for name, value in dense.state_dict().items():
        if ".mlp." not in name:
            assert torch.equal(model.state_dict()[name], value)
    ffn, experts = dense.layers[0].mlp, model.layers[0].mlp.experts
    units = {tuple(row): index for index, row in enumerate(ffn.gate_proj.weight.tolist())}
    found = [[units.get(tuple(row)) for row in expert] for expert in experts.gate_proj.tolist()]
    inherited = [unit for expert in found for unit in expert if unit is not None]
    assert len(inherited) / (6 * 24) == pytest.approx(0.5, abs=0.12)
    for expert, row in enumerate(found):
        for place, unit in enumerate(row):
            if unit is not None:  # a unit keeps its up and down vectors
                assert torch.equal(experts.up_proj[expert, place], ffn.up_proj.weight[unit])
                assert torch.equal(experts.down_proj[expert, :, place], ffn.down_proj.weight[:, unit])


def test_upcycling_starts_closer_to_the_dense_model_than_a_fresh_moe(dense):
    ids = torch.randint(200, (2, 30), generator=torch.Generator().manual_seed(3))
    wide = EXPERTS.model_copy(update={"shared_expert_intermediate_size": 72})
    fresh = make_model(make_config(4, 2, moe=wide), seed=9)
    fresh.load_state_dict({k: v for k, v in dense.state_dict().items() if ".mlp." not in k}, strict=False)
    with torch.no_grad():
        gap = (upcycle(dense, wide, seed=0)(ids) - dense(ids)).norm()
        assert gap < 0.9 * (fresh(ids) - dense(ids)).norm()


def test_upcycling_depends_on_the_seed_alone(dense):
    first, again, other = (upcycle(dense, EXPERTS, seed=seed).state_dict() for seed in (1, 1, 2))
    name = "model.layers.1.mlp.experts.up_proj"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_an_moe_is_not_upcycled_again(model):
    with pytest.raises(ValueError, match="MoE already"):
        upcycle(model, EXPERTS, seed=0)
