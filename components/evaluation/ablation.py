"""The same small model on two mixtures at equal tokens: what the one gains over the other on held-out text by domain.

The report's claim (section 3.1) is that better filtered and better balanced data make a better model. Each side is
trained from several seeds; a pair that shares a seed shares its initial weights. Bits per byte of the same held-out
documents are compared in pairs, with intervals over documents and seeds (``paired_difference_over_seeds``).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from components.scaling.sweep import SweepShape
from components.stage import QuietRun, Run, StageError
from components.training.config import TrainingConfig
from model.config import ModelConfig

if TYPE_CHECKING:
    from components.data.ablation_arms import Corpora
    from components.data.mixture import MixtureConfig
    from components.evaluation.held_out import HeldOutDocument

ALL = "all domains"


class AblationConfig(TrainingConfig):
    """The model, its training, and what it is measured on."""

    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = Field(8e-3, gt=0)
    final_learning_rate_ratio: float = Field(0.02, ge=0, le=1)
    schedule: Literal["cosine", "constant", "wsd"] = "wsd"
    decay_ratio: float = Field(0.4, gt=0, le=1)
    beta2: float = Field(0.98, ge=0, lt=1)
    shape: SweepShape = SweepShape(
        hidden_size=96, intermediate_size=288, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1
    )
    tokens: int = Field(1_000_000, ge=1, description="training tokens of every model")
    sequence_length: int = Field(256, ge=8)
    batch_tokens: int = Field(2048, ge=8, description="tokens an update")
    seeds: int = Field(3, ge=2, description="models of each side")
    held_out_documents: int = Field(
        200,
        ge=0,
        description="wanted of every domain: where shards.held_out_share of it is fewer, up to a fifth is taken",
    )
    tokens_per_domain: int = Field(40_000, ge=1, description="most held-out tokens scored of a domain")
    document_tokens: int = Field(1_024, ge=2, description="tokens scored of a document, from its start")


@dataclass(frozen=True)
class Side:
    """One of the two: ``raw``, ``rebalanced``, or another corpus or mixture in ``path``."""

    name: str
    path: Path | None = None


@dataclass(frozen=True)
class Training:
    """One model: everything that decides it, and where its result is kept."""

    shards: Path
    held_out: tuple[Path, ...]
    tokenizer: Path
    state: Path
    seed: int
    device: str
    config: AblationConfig

    @property
    def result(self) -> Path:
        return self.state.with_suffix(".json")


def ablate(
    config: AblationConfig, mixture: "MixtureConfig", corpora: "Corpora", tokenizer: Path, sides: tuple[Side, Side],
    run: Run,
) -> dict[str, Any]:  # fmt: skip
    """Make both mixtures, train, measure; the result is also written to ``ablation.json``.

    What is finished lies in ``run.state``, the checkpoints of models in training too: a killed run goes on from there.
    """
    from components.data.pool import available_workers, map_shards

    with run.progress(3, "mixtures") as bar:
        held_out, folders, shares = _corpora(config, mixture, corpora, tokenizer, sides, run)
        bar.advance()
        shards = []
        for folder in folders:
            shards.append(_shards(config, folder, tokenizer, run))
            bar.advance()
    trainings = [
        Training(
            shards[side], held_out, tokenizer, run.state / f"model-{sides[side].name}-{seed}", run.seed + seed,
            run.device, config,
        )
        for seed in range(config.seeds)
        for side in (0, 1)
    ]  # fmt: skip
    todo = [training for training in trainings if not training.result.is_file()]
    # On a CPU small trainings scale with processes better than with threads; on an accelerator they take turns.
    workers = available_workers() if run.device == "cpu" else 1
    with run.progress(len(trainings), "train", unit="model", start=len(trainings) - len(todo)) as bar:
        for name in map_shards(train_and_score, todo, workers):
            bar.advance(1, model=name)
    scored = [json.loads(training.result.read_text(encoding="utf-8")) for training in trainings]
    documents = held_out_documents(held_out, tokenizer, config)
    result = {
        "sides": [
            {"name": side.name, **_facts(shards[index]), "trained_tokens": [s["tokens"] for s in scored[index::2]]}
            for index, side in enumerate(sides)
        ],
        "seeds": [training.seed for training in trainings[::2]],
        "parameters": model_config(config, shards[0]).num_parameters(),
        "shares": shares,
        "domains": compare(documents, [s["bits"] for s in scored[::2]], [s["bits"] for s in scored[1::2]]),
    }
    (run.output / "ablation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _corpora(
    config: AblationConfig, mixture: "MixtureConfig", corpora: "Corpora", tokenizer: Path, sides: tuple[Side, Side],
    run: Run,
) -> tuple[tuple[Path, ...], list[Path], dict[str, Any]]:  # fmt: skip
    """Folders of held-out documents, the folder of each side, and the mixture solver's shares."""
    from components.data import ablation_arms as arms
    from model.tokenizer import Tokenizer

    held_out = arms.hold_out(corpora, run.state / "held-out")
    folders: list[Path] = []
    shares: dict[str, Any] = {}
    for side in sides:
        target = run.state / side.name
        if side.path is not None:
            folders.append(arms.foreign(corpora, side.path, held_out, target))
        elif side.name == "raw":
            folders.append(arms.raw(corpora, held_out, target))
        else:
            # About one epoch and no more: of a larger mixture less would be chosen for its quality. Held-out text has
            # a few more bytes a token than the mixture.
            texts = [d.text for d in arms.read_documents(held_out)]
            encoded = sum(map(len, Tokenizer.load(tokenizer).encode_batch(texts)))
            ratio = sum(len(text.encode()) for text in texts) / max(1, encoded)
            budget = mixture.model_copy(update={"budget_bytes": round(1.1 * ratio * config.tokens)})
            folder, shares = arms.rebalanced(corpora, budget, run.seed, held_out, target)
            folders.append(folder)
    lost = run.state / "lost"
    return (held_out, lost) if lost.is_dir() else (held_out,), folders, shares


def _shards(config: AblationConfig, corpus: Path, tokenizer: Path, run: Run) -> Path:
    """Token files of one side; nothing is held out of them, since that has been taken out already."""
    from components.data.shards import ShardsConfig, tokenize

    folder = corpus.with_name(f"{corpus.name}-shards")
    if not (folder / "shards.json").is_file():  # written last
        state = corpus.with_name(f"{corpus.name}-encoded")
        for needed in (folder, state):
            needed.mkdir(exist_ok=True)
        tokenize(
            ShardsConfig(
                held_out_share=0, fill_in_the_middle_share=0, window_lengths=(config.sequence_length,)
            ),
            {"documents": _Folder("mixture", corpus), "tokenizer": _Folder("tokenizer", tokenizer)},
            QuietRun(folder, state, run.seed),
        )  # fmt: skip
    return folder


@dataclass(frozen=True)
class _Folder:
    """A folder as an artifact."""

    kind: str
    path: Path
    digest: str = ""

    @property
    def summary(self) -> dict[str, Any]:
        return {}


def held_out_documents(
    folders: tuple[Path, ...], tokenizer: Path, config: AblationConfig
) -> "list[HeldOutDocument]":  # fmt: skip
    """Held-out documents of each domain in the order of their ids, as many as ``tokens_per_domain`` has room for."""
    import numpy as np

    from components.data.documents import read_documents
    from components.evaluation.held_out import HeldOutDocument, token_bytes
    from model.tokenizer import Tokenizer

    encoder = Tokenizer.load(tokenizer)
    sizes = token_bytes(tokenizer, encoder.vocab_size)
    left: dict[str, int] = {}
    found = []
    # Ids are hashes: their order is a random one.
    for document in sorted((d for f in folders for d in read_documents(f)), key=lambda d: (d.domain, d.id)):
        tokens = np.array(encoder.encode(document.text)[: config.document_tokens], dtype=np.int64)
        room = left.setdefault(document.domain, config.tokens_per_domain)
        if 0 < len(tokens) <= room:
            left[document.domain] = room - len(tokens)
            found.append(HeldOutDocument(document.id, document.domain, tokens, int(sizes[tokens].sum())))
    if not found:
        raise StageError("ablation: no held-out document fits; raise ablation.tokens_per_domain")
    return found


def model_config(config: AblationConfig, shards: Path) -> ModelConfig:
    from components.data.shard_reader import ShardReader

    return ModelConfig(
        vocab_size=ShardReader(shards).vocab_size, max_position_embeddings=config.sequence_length,
        tie_word_embeddings=True, **config.shape.model_dump(),
    )  # fmt: skip


def train_and_score(training: Training) -> str:
    """Train one model and write the bits that it needs for each held-out document. Its name is returned."""
    import torch

    from components.data.shard_reader import ShardReader
    from components.evaluation.bits_per_byte import document_bits
    from components.training.checkpoint import write_atomically
    from components.training.language_modelling import next_token_loss, uniform_batches
    from components.training.loop import train
    from model.transformer import Transformer

    config, threads = training.config, torch.get_num_threads()
    if training.device == "cpu":
        torch.set_num_threads(1)  # others train beside this one
    training.state.mkdir(parents=True, exist_ok=True)
    try:
        reader = ShardReader(training.shards)
        model = Transformer(model_config(config, training.shards)).init_weights(training.seed).to(training.device)
        rows = max(1, round(config.batch_tokens / config.sequence_length))
        # Padding is not trained on, and one side may need more of it.
        filled = rows * config.sequence_length * (1 - reader.windows(config.sequence_length).padding_share)
        history = train(
            model, next_token_loss,
            uniform_batches(reader, training.seed, rows, config.sequence_length, training.device),
            config=config, steps=max(1, round(config.tokens / filled)),
            run=QuietRun(training.state, training.state, training.seed, training.device),
        )  # fmt: skip
        documents = held_out_documents(training.held_out, training.tokenizer, config)
        bits = document_bits(model, documents, reader.eos_id, length=config.sequence_length)
    finally:
        torch.set_num_threads(threads)
    result = {"tokens": history[-1]["tokens"], "loss": history[-1]["loss"], "bits": bits.tolist()}
    write_atomically(training.result, json.dumps(result).encode())
    return training.state.name.removeprefix("model-")


def compare(
    documents: "list[HeldOutDocument]", first: list[list[float]], second: list[list[float]]
) -> list[dict[str, Any]]:
    """A row for each domain, then one for all: bits per byte of both sides, second minus first with its interval.

    ``first`` and ``second`` hold the bits of every document, (seeds, documents) each.
    """
    import numpy as np

    from components.data.ablation_arms import LOST
    from components.evaluation.statistics import paired_difference_over_seeds

    one, two = np.array(first), np.array(second)
    sizes = np.array([document.bytes for document in documents])
    domains = np.array([document.domain or "other" for document in documents])
    groups = {str(name): domains == name for name in np.unique(domains) if name != LOST}
    groups[ALL] = domains != LOST
    if (domains == LOST).any():
        groups[LOST] = domains == LOST
    rows = []
    for name, chosen in groups.items():
        size = sizes[chosen].sum()
        gap = paired_difference_over_seeds(two[:, chosen], one[:, chosen], sizes[chosen])
        rows.append(
            {
                "domain": name, "documents": int(chosen.sum()), "bytes": int(size),
                "first": float(one[:, chosen].sum() / size / len(one)),
                "second": float(two[:, chosen].sum() / size / len(two)),
                "difference": gap.value,  # a single document has no interval
                "low": gap.low if np.isfinite(gap.low) else None, "high": gap.high if np.isfinite(gap.high) else None,
            }
        )  # fmt: skip
    return rows


def _facts(shards: Path) -> dict[str, Any]:
    train = json.loads((shards / "shards.json").read_text(encoding="utf-8"))["train"]
    return {"documents": train["documents"], "bytes": train["bytes"], "tokens": train["tokens"]}
