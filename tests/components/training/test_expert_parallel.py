"""Experts shared by two pairs of processes: gradients, norm, update and gathering against one process."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ranks import EXPERTS, SHAPE, tokens_at

from components.stage import Layout, StageError
from components.training.config import TrainingConfig
from components.training.expert_parallel import MOMENTS, SharedExperts
from components.training.language_modelling import next_token_loss
from components.training.optimizer import build_adamw
from components.training.sharding import my_parts, split_windows
from model.transformer import Transformer

WORLD, ROWS = 4, 8
CONFIG = TrainingConfig(learning_rate=1e-2, max_grad_norm=0.5)
SHAPES = {
    "even": SHAPE.model_copy(update={"moe": EXPERTS}),
    "one choice": SHAPE.model_copy(update={"moe": EXPERTS.model_copy(update={"num_experts_per_tok": 1})}),
}
IDLE = "idle"
"""Half of the processes get no token: a router that goes by one sign knows the first two experts alone."""


def make(name: str) -> Transformer:
    model = Transformer(SHAPES["one choice" if name == IDLE else name]).init_weights(0)
    if name == IDLE:
        for layer in model.model.layers:
            layer.mlp.gate.weight.data[1:] = -layer.mlp.gate.weight.data[:1]
    return model


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    layout = Layout(engine="deepspeed", world_size=WORLD, rank=rank, expert_parallel=2)
    for name in (*SHAPES, IDLE):
        model = make(name)
        shared = SharedExperts(model, CONFIG, layout)
        for part, weight in my_parts(tokens_at(1, ROWS), split_windows, rank, WORLD):
            (next_token_loss(model, part)[0] * (weight * WORLD)).backward()
        others = [parameter.grad / WORLD for parameter in model.parameters()]
        for gradient in others:
            dist.all_reduce(gradient)
        norm = shared.norm(math.sqrt(sum(float(gradient.square().sum()) for gradient in others)))
        found = {"norm": norm}
        shared.step(CONFIG.learning_rate, norm)
        whole = {key: {each: shared.whole(each, key) for each in shared.owned} for key in ("weight", *MOMENTS)}
        # what was gathered comes back to where it was
        moments = {
            each: {"step": torch.tensor(1.0), **{key: whole[key][each] for key in MOMENTS}} for each in shared.owned
        }
        again = SharedExperts(make(name), CONFIG, layout)
        again.load(whole["weight"], moments)
        for each, parameter in shared.owned.items():
            assert torch.equal(again.owned[each], parameter)
            for key in MOMENTS:
                assert torch.equal(
                    again.optimizer.state[again.owned[each]][key], shared.optimizer.state[parameter][key]
                )
        again.load(whole["weight"], {})  # a checkpoint from before the first update
        assert not again.optimizer.state
        if rank == 3:
            torch.save(found | whole, f"{folder}/{name}.pt")
    with pytest.raises(StageError, match="4 experts cannot be shared evenly"):
        SharedExperts(
            make("even"), CONFIG, layout.model_copy(update={"world_size": 3, "rank": 0, "expert_parallel": 3})
        )
    dist.destroy_process_group()


@pytest.mark.timeout(600)
def test_gradients_norm_and_update_are_those_of_one_process(tmp_path):
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=WORLD)
    for name in (*SHAPES, IDLE):
        model = make(name)
        optimizer = build_adamw(model, CONFIG)
        next_token_loss(model, tokens_at(1, ROWS))[0].backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.max_grad_norm))
        optimizer.step()
        found = torch.load(tmp_path / f"{name}.pt")
        assert found["norm"] == pytest.approx(norm, rel=1e-5)
        parameters = dict(model.named_parameters())
        for each, weight in found["weight"].items():
            for key in MOMENTS:
                torch.testing.assert_close(
                    found[key][each], optimizer.state[parameters[each]][key], rtol=1e-3, atol=1e-9, msg=each
                )
            torch.testing.assert_close(weight, parameters[each].detach(), rtol=1e-3, atol=1e-5, msg=each)
