"""Upcycling: an MoE that begins where its dense model is, of experts that differ."""

from itertools import combinations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_shapes import EXPERTS, make_config, make_model

from model.config import MoEConfig
from model.upcycling import upcycle

NORMALISED = EXPERTS.model_copy(update={"norm_topk_prob": True})


@pytest.fixture(scope="module")
def dense():
    return make_model(make_config(4, 2))


@pytest.fixture
def ids():
    return torch.randint(200, (2, 30), generator=torch.Generator().manual_seed(3))


def distance(model, dense, ids) -> float:
    """Of the logits, relative to how far those of the dense model spread."""
    with torch.no_grad():
        ours, theirs = model.logits(model(ids)), dense.logits(dense(ids))
    return float((ours - theirs).norm() / (theirs - theirs.mean(-1, keepdim=True)).norm())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chosen=st.integers(1, 4), groups=st.integers(1, 4), width=st.integers(4, 80), shared=st.integers(36, 100),
    fresh=st.floats(0, 0.5), routed=st.floats(0, 1), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_normalised_experts_start_with_the_dense_logits(dense, ids, chosen, groups, width, shared, fresh, routed, seed):
    moe = MoEConfig(
        num_experts=chosen * groups, num_experts_per_tok=chosen, moe_intermediate_size=width,
        shared_expert_intermediate_size=max(shared, 72 - min(72, chosen * width)), norm_topk_prob=True,
    )  # fmt: skip
    assert distance(upcycle(dense, moe, seed=seed, fresh_share=fresh, routed_share=routed), dense, ids) < 1e-4


def test_published_routing_starts_near_the_dense_logits(dense, ids):
    """Weights that are not normalised, a leftover expert, a narrow shared expert: near, and nearer than chance."""
    fresh = make_model(make_config(4, 2, moe=EXPERTS), seed=9)
    fresh.load_state_dict({k: v for k, v in dense.state_dict().items() if ".mlp." not in k}, strict=False)
    assert distance(fresh, dense, ids) > 0.5
    wide = EXPERTS.model_copy(update={"shared_expert_intermediate_size": 72})
    assert distance(upcycle(dense, wide, seed=0), dense, ids) < 0.2
    assert distance(upcycle(dense, wide, seed=0, routed_share=0.1), dense, ids) < 0.05
    assert distance(upcycle(dense, wide.model_copy(update={"num_experts": 7}), seed=0), dense, ids) < 0.25


def test_experts_inherit_units_and_differ(dense):
    model = upcycle(dense, NORMALISED, seed=0)
    for name, value in dense.state_dict().items():
        if ".mlp." not in name:
            assert torch.equal(model.state_dict()[name], value)
    ffn, experts = dense.layers[0].mlp, model.layers[0].mlp.experts
    units = {tuple(row): index for index, row in enumerate(ffn.gate_proj.weight.tolist())}
    found = [[units.get(tuple(row)) for row in expert] for expert in experts.gate_proj.tolist()]
    for copy in range(3):  # two experts hold one copy
        held = [unit for expert in found[2 * copy : 2 * copy + 2] for unit in expert if unit is not None]
        assert len(held) == len(set(held)) == 36
    assert all(first != second for first, second in combinations(found, 2))
    for expert, row in enumerate(found):
        for place, unit in enumerate(row):
            down = experts.down_proj[expert, :, place]
            if unit is None:  # a fresh unit reads at random, and writes nothing yet
                assert experts.gate_proj[expert, place].norm() > 0
                assert not down.any()
            else:  # an inherited one keeps its direction in and out
                assert torch.cosine_similarity(down, ffn.down_proj.weight[:, unit], dim=0) > 0.999
                assert torch.cosine_similarity(experts.up_proj[expert, place], ffn.up_proj.weight[unit], dim=0) > 0.999


def test_training_parts_the_experts_of_a_copy(dense, ids):
    model = upcycle(dense, NORMALISED, seed=0)
    gate = model.layers[0].mlp.gate.weight
    assert torch.equal(gate[0], gate[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (torch.nn.functional.cross_entropy(model.logits(model(ids)).flatten(0, 1), ids.flatten())).backward()
        optimizer.step()
    assert not torch.equal(gate[0], gate[1])
    written = model.layers[0].mlp.experts.down_proj
    assert (written != 0).float().mean() > 0.9  # fresh units have begun to write


def test_the_result_depends_on_the_seed_alone(dense):
    first, again, other = (upcycle(dense, EXPERTS, seed=seed).state_dict() for seed in (1, 1, 2))
    name = "model.layers.1.mlp.experts.up_proj"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_what_cannot_be_upcycled_is_refused(dense):
    with pytest.raises(ValueError, match="MoE already"):
        upcycle(make_model(make_config(4, 2, moe=EXPERTS)), EXPERTS, seed=0)
    with pytest.raises(ValueError, match=r"fresh_share 1\.5"):
        upcycle(dense, EXPERTS, seed=0, fresh_share=1.5)
