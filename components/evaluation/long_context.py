"""Stage ``long-context``: what the extension of the context has given, and how far it reaches (sections 3.3 and 5).

Before and after, at every trained length and at several times the longest: pass keys by depth, several keys in one
text, loss by position; and whether short texts have suffered. Beyond the trained length the same weights are read with
plain RoPE, YaRN, dual chunk attention (DCA) and YaRN's temperature on DCA.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from components.evaluation.held_out import HeldOutConfig
from components.stage import Inputs, Run, Summary, effect

if TYPE_CHECKING:
    from components.data.shard_reader import ShardReader
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

DEPTHS = 5
"""Bands of equal width from the start of a text to its end."""
TOKENS_AT_ONCE = 16_384
"""Of the prompts that are answered together: their cache stays small."""


class LongContextConfig(HeldOutConfig):
    """How much is measured."""

    factor: int = Field(4, ge=2, description="length read without training / longest trained length")
    keys: int = Field(100, ge=1, description="pass keys at each trained length")
    stretched_keys: int = Field(20, ge=1, description="pass keys beyond the trained length, for each way of reading")
    needles: int = Field(4, ge=2, description="keys in one text, of which one is asked for")
    needle_texts: int = Field(20, ge=0, description="such texts of each length")
    windows: int = Field(4, ge=1, description="held-out windows of each domain that loss by position is taken over")


@dataclass(frozen=True)
class Way:
    """A checkpoint, read in one way."""

    name: str
    model: "Transformer"


def measure_long_context(config: LongContextConfig, inputs: Inputs, run: Run) -> Summary:
    """Inputs ``base``, ``long`` (extended from it) and ``shards``; writes ``long.json``."""
    from components.claims.measuring import filler, reshaped, texts
    from components.data.shard_reader import ShardReader
    from components.evaluation.bits_per_byte import document_bits
    from components.evaluation.extrapolation import RULES
    from components.evaluation.statistics import paired_difference
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    facts = inputs["long"].summary
    old, lengths = int(facts["old_length"]), [int(facts["old_length"]), *map(int, facts["lengths"])]
    before, after = (Way(name, load_model(inputs[name].path, run.device).eval()) for name in ("base", "long"))
    tokenizer, reader = Tokenizer.load(inputs["long"].path), ShardReader(inputs["shards"])
    haystack = filler(texts(inputs["shards"], inputs["long"].path, config), tokenizer)
    stretched = config.factor * lengths[-1]
    ways = [Way(name, reshaped(after.model, rule(after.model.config, config.factor))) for name, rule in RULES.items()]

    keys: list[dict[str, Any]] = []
    measured = [(way, length, config.keys) for way in (before, after) for length in lengths]
    measured += [(way, stretched, config.stretched_keys) for way in ways]
    with run.progress(len(measured), "pass keys by length", unit="length") as bar:
        for way, length, count in measured:
            keys.append(_keys(way, tokenizer, haystack, length, count, config, run.seed))
            bar.advance(1, found=round(keys[-1]["found"], 3))

    short = texts(inputs["shards"], inputs["long"].path, config.model_copy(update={"document_tokens": old}))
    spent = [document_bits(way.model, short, reader.eos_id, length=old) for way in (before, after)]
    sizes = [document.bytes for document in short]
    gap = paired_difference(spent[1], spent[0], weights=sizes, seed=run.seed)
    bits = [float(one.sum() / sum(sizes)) for one in spent]

    edges = sorted({0, *lengths, *(lengths[-1] * 2**i for i in range(1, config.factor)), stretched})
    edges = [edge for edge in edges if edge <= stretched]
    by_position = partial(loss_by_position, reader=reader, edges=edges, windows=config.windows)
    losses = {way.name: by_position(way.model, length=lengths[-1]) for way in (before, after)}
    losses |= {f"{way.name}, {stretched:,} tokens": by_position(way.model, length=stretched) for way in ways}

    content = {
        "old_length": old,
        "lengths": lengths,
        "stretched": stretched,
        "passkeys": keys,
        "bits_per_byte": {"before": bits[0], "after": bits[1], **gap.as_dict()},
        "loss_by_position": {"edges": edges, "losses": losses},
    }
    (run.output / "long.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    found = {(row["way"], row["length"]): row["found"] for row in keys}
    return {
        "passkeys": {f"{way}/{length}": share for (way, length), share in found.items()},
        "short_bits_per_byte": bits,
        "effects": [
            effect(f"pass keys at {stretched:,} tokens without training, YaRN + DCA against plain RoPE",
                   found["YaRN + DCA", stretched], found["plain RoPE", stretched]),
            effect(f"bits per byte of at most {old} tokens, after extension and before", bits[1], bits[0],
                   unit="bits/byte", better="lower", low=gap.low, high=gap.high),
        ],
    }  # fmt: skip


def _keys(
    way: Way, tokenizer: "Tokenizer", haystack: Sequence[str], length: int, count: int, config: LongContextConfig,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Share of keys found, with its interval, by depth (None where no key lay), and of one of several."""
    from components.evaluation.passkey import passkey_outcomes, passkey_problems
    from components.evaluation.statistics import wilson

    def outcomes(count: int, needles: int) -> tuple[list[float], list[bool]]:
        problems = passkey_problems(tokenizer, haystack, [length], count, seed, needles)
        step = max(1, TOKENS_AT_ONCE // length)
        found = [
            right
            for begin in range(0, count, step)
            for right in passkey_outcomes(way.model, tokenizer, problems[begin : begin + step])
        ]
        return [problem.depth for problem in problems], found

    depths, found = outcomes(count, 1)
    share = wilson(sum(found), len(found))
    bands: list[list[bool]] = [[] for _ in range(DEPTHS)]
    for depth, right in zip(depths, found, strict=True):
        bands[min(DEPTHS - 1, int(depth * DEPTHS))].append(right)
    several = outcomes(config.needle_texts, config.needles)[1]
    return {
        "way": way.name,
        "length": length,
        "found": share.value,
        "low": share.low,
        "high": share.high,
        "n": share.n,
        "by_depth": [sum(band) / len(band) if band else None for band in bands],
        "of_several": sum(several) / len(several) if several else None,
    }


def loss_by_position(
    model: "Transformer", reader: "ShardReader", length: int, edges: Sequence[int], windows: int
) -> list[float | None]:
    """Mean loss, nats a token, of held-out windows of ``length`` between neighbouring ``edges``; None where none is."""
    total, count = np.zeros(len(edges) - 1), np.zeros(len(edges) - 1)
    for losses, labelled in _losses(model, reader, length, windows):
        band = np.searchsorted(edges, np.flatnonzero(labelled), side="right") - 1
        np.add.at(total, band, losses[labelled])
        np.add.at(count, band, 1)
    return [float(t / c) if c else None for t, c in zip(total, count, strict=True)]


def _losses(
    model: "Transformer", reader: "ShardReader", length: int, windows: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each held-out window the losses (length,) and which of them count (length,) bool."""
    import torch

    from components.training.language_modelling import mark_padding
    from model.loss import IGNORE, token_log_probs

    with torch.inference_mode():
        for domain in reader.validation:
            for number, tokens in enumerate(reader.validation_batches(domain, length, 1)):
                if number == windows:
                    break
                window = mark_padding(tokens, reader.eos_id).to(model.output_weight.device)
                labels = window[:, 1:].masked_fill(window[:, 1:] < 0, IGNORE)
                spent = -token_log_probs(model(window[:, :-1].clamp(min=0)), model.output_weight, labels)
                yield spent[0].double().cpu().numpy(), (labels[0] != IGNORE).cpu().numpy()


__all__ = ["LongContextConfig", "loss_by_position", "measure_long_context"]
