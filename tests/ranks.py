"""Stages for the tests of distributed training: a tiny decoder on made-up tokens."""

import json
import os
import signal
from pathlib import Path

import torch

from components.stage import StageConfig
from components.training.config import TrainingConfig
from components.training.language_modelling import next_token_loss
from components.training.loop import train
from components.training.sharding import split_windows
from model.config import ModelConfig, MoEConfig
from model.transformer import Transformer

SHAPE = ModelConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True,
)  # fmt: skip

EXPERTS = MoEConfig(
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16,
    router_aux_loss_coef=0.0, router_z_loss_coef=0.0,
)  # fmt: skip
"""Without the router's own losses, whose means are over the tokens of a rank."""


class RanksConfig(StageConfig):
    training: TrainingConfig
    steps: int = 20
    rows: int = 6
    micro: int = 0
    kill_rank: int = -1
    kill_step: int = -1
    once: str = ""
    mode: str = ""
    zero_stages: tuple[int, ...] = ()
    persistent: int = 0
    experts: bool = False


def tokens_at(step: int, rows: int, length: int = 16) -> torch.Tensor:
    """Rows with a pattern to learn, and padding of different length, so that rows weigh differently."""
    draw = torch.Generator().manual_seed(step)
    start = torch.randint(96, (rows, 1), generator=draw)
    windows = (start + 7 * torch.arange(length + 1)) % 96
    windows[torch.arange(length + 1)[None] > torch.randint(4, length + 1, (rows, 1), generator=draw)] = -1
    return windows


def decode(config: RanksConfig, inputs, run):
    """Train; histories and a checksum of the weights are in the summary."""
    import components.training.deepspeed_engine as engine

    engine.PERSISTENT = config.persistent
    found = {}
    for stage in config.zero_stages or (run.layout.zero_stage,):
        run.layout = run.layout.model_copy(update={"zero_stage": stage})
        found[str(stage)] = one(config, run, f"zero-{stage}" if config.zero_stages else "training",
                                last=stage == (config.zero_stages or (stage,))[-1])  # fmt: skip
    return found


def one(config: RanksConfig, run, name: str, last: bool):
    shape = SHAPE.model_copy(update={"moe": EXPERTS}) if config.experts else SHAPE
    model = Transformer(shape).init_weights(run.seed)

    def batch_at(step: int):
        if step == config.kill_step and run.layout.rank == config.kill_rank and not Path(config.once).exists():
            Path(config.once).write_text("was here")
            print("about to go", flush=True)
            if config.mode == "raise":
                raise ZeroDivisionError("division by zero")
            os.kill(os.getpid(), signal.SIGSTOP if config.mode == "stall" else signal.SIGKILL)
        batch = tokens_at(step, config.rows)
        return list(batch.split(config.micro)) if config.micro else batch

    history = train(
        model, next_token_loss, batch_at, config=config.training, steps=config.steps, run=run, name=name,
        split=split_windows, rows=config.rows, last=last,
    )  # fmt: skip
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    (run.output / f"{name}.json").write_text(json.dumps(weights.tolist()))
    return {"history": history, "weights": weights.double().sum().item()}
