"""Stage ``pretrain``: next-token prediction from scratch at the short context (report, section 3.2).

The learning rate and the batch size are what the recipe's own scaling law predicts for this model size and this
many tokens, unless the recipe sets ``hyper_parameters = "recipe"``.
"""

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.stage import Inputs, Run, StageError, Summary, effect
from components.training.config import TrainingConfig
from model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from components.training.phases import History


class PretrainConfig(TrainingConfig):
    """The report's first phase has context 4,096; tokens and rate come from the recipe."""

    model: ModelConfig
    tokens: int = Field(gt=0, description="training tokens")
    sequence_length: int = Field(4096, ge=8)
    hyper_parameters: Literal["scaling-law", "recipe"] = Field(
        "scaling-law", description="where learning_rate and batch_tokens come from"
    )
    batch_tokens: int = Field(4_194_304, ge=8, description="tokens an update, when hyper_parameters is recipe")
    previous_token_heads: bool = Field(
        False, description="start the first layer's heads looking back (model/initialisation.py): for short runs"
    )
    copying_steps: int = Field(
        0, ge=0, description="first updates on random sequences said again: copying before language, for short runs"
    )
    min_steps: int = Field(
        1000, ge=1, description="updates that the law's batch size must leave: far beyond the sweep it grows too fast"
    )
    upcycle_share: float = Field(
        0.0, ge=0, lt=1, description="mixtures of experts: share of the steps that train the dense model they grow from"
    )
    micro_batch_tokens: int = Field(16_384, ge=8, description="most tokens of one forward pass")


def pretrain(config: PretrainConfig, inputs: Inputs, run: Run) -> Summary:
    """Train ``config.model`` on the shards; effect: held-out loss against the scaling law's prediction."""
    from components.data.shard_reader import ShardReader
    from components.scaling.law import ScalingLaw
    from components.training.language_modelling import (
        copying_batch,
        held_out_loss,
        next_token_loss,
        uniform_batches,
    )
    from components.training.loop import train
    from components.training.phases import joined, phase
    from components.training.saving import save_trained
    from components.training.sharding import split_windows
    from model.initialisation import seed_previous_token_heads
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer
    from model.upcycling import upcycle

    reader = ShardReader(inputs["shards"])
    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise StageError(
            f"pretrain.model.vocab_size is {config.model.vocab_size} but the tokenizer has {tokenizer.vocab_size} "
            "tokens; raise it (published models round up to a multiple of 128)"
        )
    law = ScalingLaw.read(inputs["scaling"].path / "law.json")
    size = config.model.num_non_embedding_parameters()
    training: TrainingConfig = config
    batch_tokens = config.batch_tokens
    if config.hyper_parameters == "scaling-law":
        training = config.model_copy(update={"learning_rate": law.predict_learning_rate(size, config.tokens)})
        batch_tokens = round(min(law.predict_batch_tokens(size, config.tokens), config.tokens / config.min_steps))
    batch_size = max(1, round(batch_tokens / config.sequence_length))
    steps = max(1, round(config.tokens / (batch_size * config.sequence_length)))
    run.info(
        f"pretrain: {config.model.num_parameters():,} parameters, {steps:,} steps of {batch_size} x "
        f"{config.sequence_length} tokens, learning rate {training.learning_rate:.2e} ({config.hyper_parameters})"
    )

    dense_steps = round(steps * config.upcycle_share) if config.model.moe else 0
    shape = config.model.model_copy(update={"moe": None}) if dense_steps else config.model
    model = Transformer(shape).init_weights(run.seed).to(run.device)
    if config.previous_token_heads:
        seed_previous_token_heads(model)
    before = held_out_loss(model, reader, config.sequence_length)
    rows = max(1, config.micro_batch_tokens // config.sequence_length)
    language = uniform_batches(reader, run.seed, batch_size, config.sequence_length, run.device)

    def batch_at(step: int) -> "list[Tensor]":
        if step < config.copying_steps:
            tokens = copying_batch(run.seed, step, batch_size, config.sequence_length, reader.eos_id).to(run.device)
        else:
            tokens = language(step - config.copying_steps)
        return list(tokens.split(rows))

    def documents_at(step: int) -> list[int]:
        past = step - config.copying_steps
        return reader.documents_of(run.seed, past, batch_size, config.sequence_length) if past >= 0 else []

    def train_part(name: str, first: int, count: int) -> "History":
        return train(
            model, next_token_loss, lambda step: batch_at(first + step), config=training, steps=count, run=run,
            name=name, split=split_windows, rows=batch_size, documents_at=lambda step: documents_at(first + step),
            flops_per_token=model.config.training_flops_per_token(config.sequence_length), last=name == "pretrain",
        )  # fmt: skip

    histories = []
    if dense_steps and config.model.moe:
        run.info(f"pretrain: {dense_steps:,} steps of the dense model that the experts grow from")
        histories.append(
            phase(run.state, "pretrain-dense", "pretrain", lambda: train_part("pretrain-dense", 0, dense_steps))
        )
        model = upcycle(model, config.model.moe, seed=run.seed).to(run.device)
    histories.append(train_part("pretrain", dense_steps, steps - dense_steps))
    history = joined(histories)
    after = held_out_loss(model, reader, config.sequence_length)
    predicted = law.predict_loss(size, config.tokens)
    facts = save_trained(run, model, tokenizer, "language modelling", history, config.sequence_length)
    return {
        **facts,
        "learning_rate": training.learning_rate,
        "batch_tokens": batch_size * config.sequence_length,
        "hyper_parameters": config.hyper_parameters,
        "held_out_loss": after,
        "predicted_loss": predicted,
        "epochs": facts["tokens"] / max(1, reader.train_tokens),
        "effects": [
            effect("held-out loss after pre-training, before it", after, before, unit="nats a token", better="lower",
                   note=f"uniform guessing is {math.log(config.model.vocab_size):.2f}"),
            effect("held-out loss, scaling law's prediction", after, predicted, unit="nats a token", better="lower"),
        ],
    }  # fmt: skip
