"""Stage ``extend``: the second phase of pre-training, longer context with a raised RoPE base (report, section 3.3).

The base frequency goes from 10,000 to 1,000,000 (ABF, Xiong et al. 2023, arXiv 2309.16039) and a share of the
sequences is long: the report's Turbo uses 40% at the current maximum and 60% shorter, and gets to 262,144 tokens over
32,768, 65,536 and 131,072 (``lengths``).
"""

import operator
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from components.stage import Inputs, Run, Summary, effect
from components.training.config import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from components.data.packing import Windows
    from components.data.shard_reader import ShardReader
    from components.training.phases import History
    from model.transformer import Transformer


class ExtendConfig(TrainingConfig):
    """Published: 4,096 to 32,768 tokens, base 10,000 to 1,000,000."""

    sequence_length: int = Field(32_768, ge=8, description="the new context length")
    rope_theta: float = Field(1_000_000.0, gt=0, description="the raised RoPE base")
    lengths: tuple[int, ...] = Field((), description="context lengths on the way, each a phase of its own; ascending")
    tokens: int = Field(gt=0, description="training tokens of all phases, as many in each")
    batch_tokens: int = Field(4_194_304, ge=8, description="tokens an update")
    long_share: float = Field(0.4, ge=0, le=1, description="share of windows with a document beyond the old context")
    related: bool = Field(
        False, exclude_if=operator.not_, description="put documents that have to do with one another into a window"
    )

    @model_validator(mode="after")
    def _lengths_ascend(self) -> Self:
        lengths = [*self.lengths, self.sequence_length]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"lengths: expected ascending ones below sequence_length, got {lengths}")
        return self


def extend_context(config: ExtendConfig, inputs: Inputs, run: Run) -> Summary:
    """Continue training ``base`` at ``sequence_length``; effect: loss on the tokens beyond the old context."""
    from functools import cache, partial

    from components.data.shard_reader import ShardReader
    from components.training.language_modelling import held_out_loss
    from components.training.phases import joined, phase
    from components.training.saving import save_trained
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

    reader = ShardReader(inputs["shards"])
    base = load_model(inputs["base"].path, run.device)
    old_length = base.config.max_position_embeddings
    before = held_out_loss(base, reader, config.sequence_length)
    short_before = held_out_loss(base, reader, old_length)
    extended = base.config.model_copy(
        update={"rope_theta": config.rope_theta, "max_position_embeddings": config.sequence_length}
    )
    model = Transformer(extended).to(run.device)
    model.load_state_dict(base.state_dict())
    del base

    lengths = [*config.lengths, config.sequence_length]
    names = [f"extend-{length}" for length in config.lengths] + ["extend"]
    windows_of = cache(partial(_windows, config, reader))
    histories = []
    for index, (length, name) in enumerate(zip(lengths, names, strict=True)):
        before_it = ([old_length, *lengths])[index]
        part = partial(_train_at, config, model, reader, run, name, windows_of, length, before_it)
        histories.append(part() if name == "extend" else phase(run.state, name, names[index + 1], part))
    history = joined(histories)
    after = held_out_loss(model, reader, config.sequence_length)
    short_after = held_out_loss(model, reader, old_length)
    tokenizer = Tokenizer.load(inputs["base"].path)
    facts = save_trained(run, model, tokenizer, "language modelling, long context", history, config.sequence_length)
    return {
        **facts,
        "old_length": old_length,
        "sequence_length": config.sequence_length,
        "rope_theta": config.rope_theta,
        "lengths": lengths,
        "long_windows": int(_is_long(windows_of(lengths[-1]), ([old_length, *lengths])[-2]).sum()),
        "effects": [
            *(_relation(reader, windows_of(lengths[-1])) if config.related else []),
            effect(f"held-out loss at {config.sequence_length} tokens", after, before, unit="nats a token",
                   better="lower", note="baseline: the unextended model at the same length"),
            effect(f"held-out loss at {old_length} tokens", short_after, short_before, unit="nats a token",
                   better="lower", note="baseline: the unextended model"),
        ],
    }  # fmt: skip


def _windows(config: ExtendConfig, reader: "ShardReader", length: int) -> "Windows":
    """The training windows of ``length``, packed by fit alone or by relation."""
    if not config.related:
        return reader.windows(length)
    from components.data.related import pack_related

    return pack_related(reader.train, length, reader.vocab_size)


def _relation(reader: "ShardReader", windows: "Windows") -> list[dict[str, Any]]:
    """The effect of packing by relation."""
    from components.data.related import relatedness

    ours, chance = (
        relatedness(packed, reader.train, reader.vocab_size) for packed in (windows, reader.windows(windows.length))
    )
    return [effect(f"relation of neighbours in windows of {windows.length} tokens", ours, chance, unit="cosine",
                   note="TF-IDF; baseline: packed by fit alone")]  # fmt: skip


def _is_long(windows: "Windows", old_length: int) -> "np.ndarray":
    """Which windows hold a document beyond the old context, (windows,) bool."""
    return np.maximum.reduceat(windows.sizes, windows.first_piece[:-1]) > old_length + 1


def _train_at(
    config: ExtendConfig, model: "Transformer", reader: "ShardReader", run: Run, name: str,
    windows_of: "Callable[[int], Windows]", length: int, old_length: int,
) -> "History":  # fmt: skip
    """One phase: ``long_share`` of the windows of ``length`` go beyond ``old_length``."""
    from torch import Tensor

    from components.training.language_modelling import mark_padding, next_token_loss
    from components.training.loop import train
    from components.training.sharding import split_windows

    windows = windows_of(length)
    is_long = _is_long(windows, old_length)
    batch_size = max(1, round(config.batch_tokens / length))
    steps = max(1, round(config.tokens / (len(config.lengths) + 1) / (batch_size * length)))
    long_rows = np.flatnonzero(is_long)
    short_rows = np.flatnonzero(~is_long)
    run.info(
        f"extend: {steps:,} steps of {batch_size} x {length} tokens, RoPE base {config.rope_theta:g}, "
        f"{len(long_rows):,} long and {len(short_rows):,} short windows"
    )

    def rows_at(step: int) -> np.ndarray:
        # A draw without replacement per step: stateless, and repeats are rare beside the number of windows.
        draw = np.random.default_rng([run.seed, step, length])
        wanted = np.flatnonzero(draw.random(batch_size) < config.long_share).size
        wanted = batch_size if not len(short_rows) else wanted if len(long_rows) else 0
        return np.concatenate(
            [draw.choice(long_rows, wanted) if wanted else long_rows[:0],
             draw.choice(short_rows, batch_size - wanted) if wanted < batch_size else short_rows[:0]]
        )  # fmt: skip

    def batch_at(step: int) -> Tensor:
        tokens = reader.train.read(windows, rows_at(step), padding=reader.eos_id)
        return mark_padding(tokens, reader.eos_id).to(run.device)

    return train(
        model, next_token_loss, batch_at, config=config, steps=steps, run=run, name=name, split=split_windows,
        rows=batch_size, documents_at=lambda step: reader.train.documents_in(windows, rows_at(step)),
        flops_per_token=model.config.training_flops_per_token(length), last=name == "extend",
    )  # fmt: skip
