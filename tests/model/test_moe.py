"""Routing against a loop over tokens, router losses against ``transformers``."""

import math

import pytest
import torch
import torch.nn.functional as F
from model_shapes import EXPERTS, make_config, make_model

from model.moe import MoE


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
    model.auxiliary_loss.backward()
    total.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name in ("model.layers.0.mlp.gate.weight", "model.layers.0.self_attn.v_proj.weight"):
        torch.testing.assert_close(model.get_parameter(name).grad, gradients[name], rtol=1e-4, atol=1e-9)


def test_statistics_of_a_router_that_is_even_and_of_one_that_is_not(model):
    layer = model.layers[0].mlp
    with torch.no_grad():
        layer.gate.weight.zero_()
    ids = torch.randint(200, (2, 30), generator=torch.Generator().manual_seed(4))
    model(ids)
    found = model.router_statistics()  # every token takes the same two of six experts
    assert found["router/busiest"] == pytest.approx(3.0)
    assert found["router/idle"] == pytest.approx(4 / 6)
    assert found["router/entropy"] == pytest.approx(math.log(2) / math.log(6))
    assert found["router/balance_loss"] == pytest.approx(2.0)  # k: probabilities are even
    assert found["router/z_loss"] == pytest.approx(math.log(6) ** 2)


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
