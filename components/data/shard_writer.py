"""Writes the token files of the ``shards`` stage: encode in resumable parts, then place every document."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.data.code_layout import FillInTheMiddle, encode_documents
from components.data.columns import Stored
from components.data.documents import Document, is_held_out, read_documents
from components.data.packing import cut_shares, pack_documents
from components.data.shard_reader import ShardReader
from components.stage import Artifact, Inputs, Run, StageError, Summary, effect
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from components.data.shards import ShardsConfig


ENCODED_AT_ONCE = 500
"""Documents: a token takes a hundred times its final memory while its document is encoded."""

COLUMNS = {"part": "int32", "start": "int64", "tokens": "int32", "bytes": "int32", "copies": "int32", "is_code": "bool"}
ROWS_AT_ONCE = 10_000
"""Of a table, as Python's own numbers, which take ten times the memory."""


def write_shards(config: "ShardsConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.shards.tokenize``."""
    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    parts = _encode_parts(inputs["documents"], tokenizer, config.documents_per_part, run)
    if not parts:
        raise StageError("shards: the mixture holds no documents; lower the thresholds of the earlier stages")
    documents, named = _read_parts(parts, config.held_out_share)
    tokens = [Stored(part.with_suffix(".npy")) for part in parts]
    held_out = _hold_out(named, config.held_out_tokens)

    facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "dtype": dtype, "eos_id": tokenizer.eos_id}
    training = np.ones(len(documents), dtype=bool)
    training[named.index[named["id"].isin(held_out["id"])]] = False  # no other copy of theirs either
    rows = np.repeat(np.flatnonzero(training), documents["copies"].to_numpy()[training])
    order = np.random.default_rng([run.seed, 0]).permutation(len(rows))
    arrange = FillInTheMiddle(tokenizer, config.fill_in_the_middle_share, run.seed)
    facts["train"] = _write(run.output / "train", documents, rows[order], tokens, dtype, arrange)
    (run.output / "validation").mkdir()
    facts["validation"] = {
        domain: _write(run.output / "validation" / str(domain), documents, members.index.to_numpy(), tokens, dtype)
        for domain, members in held_out.groupby("domain", sort=True)
    }
    (run.output / "shards.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    return _summary(ShardReader(run.output), config.window_lengths, arrange.count)


def _encode_parts(mixture: Artifact, tokenizer: Tokenizer, per_part: int, run: Run) -> list[Path]:
    """Stems of the encoded parts in ``run.state``: ``.npy`` token ids, ``.parquet`` a row for each document.

    The table is moved into place last, so a part whose table exists is whole and is not encoded again.
    """
    stems: list[Path] = []
    documents = iter(read_documents(mixture))
    with run.progress(int(mixture.summary.get("documents", 0)), "tokenize", unit="documents") as progress:
        while (first := next(documents, None)) is not None:
            stem = run.state / f"part-{len(stems):05d}"
            part = chain([first], islice(documents, per_part - 1))
            if stem.with_suffix(".parquet").exists():
                count = sum(1 for _ in part)
            else:
                count = _encode_part(part, tokenizer, stem)
            stems.append(stem)
            progress.advance(count)
    return stems


def _encode_part(documents: Iterator[Document], tokenizer: Tokenizer, stem: Path) -> int:
    """Write one part, of which tokens and facts are in memory, but few documents; returns how many there were."""
    facts: list[tuple[Any, ...]] = []
    tokens: list[np.ndarray] = []
    for document, ids in encode_ahead(documents, tokenizer):
        tokens.append(ids)
        size, is_code = len(document.text.encode()), document.language == "code"
        facts.append((document.id, document.domain or "other", document.copies, is_code, size, len(ids)))
    table = pd.DataFrame(facts, columns=["id", "domain", "copies", "is_code", "bytes", "tokens"])
    table["part"] = int(stem.name.removeprefix("part-"))
    table["start"] = table["tokens"].cumsum() - table["tokens"]
    partial = stem.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.concatenate(tokens))
    partial.replace(stem.with_suffix(".npy"))
    table.to_parquet(partial)
    partial.replace(stem.with_suffix(".parquet"))
    return len(table)


def encode_ahead(documents: Iterator[Document], tokenizer: Tokenizer) -> Iterator[tuple[Document, np.ndarray]]:
    """Every document with its tokens and the end token, (tokens,) uint32. The next few are encoded, which takes all
    cores, while these are put to use, which takes one."""
    with ThreadPoolExecutor(1) as ahead:
        batches = iter(lambda: list(islice(documents, ENCODED_AT_ONCE)), [])
        waiting: deque[tuple[list[Document], Future[list[list[int]]]]] = deque()
        for batch in chain(batches, [[]]):
            if batch:
                waiting.append((batch, ahead.submit(encode_documents, batch, tokenizer)))
            while len(waiting) > bool(batch):
                ready, encoded = waiting.popleft()
                for document, ids in zip(ready, encoded.result(), strict=True):
                    ids.append(tokenizer.eos_id)
                    yield document, np.array(ids, dtype=np.uint32)


def _read_parts(parts: Sequence[Path], share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Where each document's tokens are and how they are used, thirty bytes each; and id, domain and tokens of the few
    that ``is_held_out`` names, by their row."""
    tables, named = [], []
    first = 0
    for part in parts:
        table = pd.read_parquet(part.with_suffix(".parquet"))
        table.index = pd.RangeIndex(first, first + len(table))
        first += len(table)
        chosen = np.array([is_held_out(id, share) for id in table["id"]], dtype=bool)
        named.append(table.loc[chosen, ["id", "domain", "tokens"]])
        tables.append(table[list(COLUMNS)].astype(COLUMNS))
    return pd.concat(tables), pd.concat(named)


def _hold_out(named: pd.DataFrame, most_tokens: int) -> pd.DataFrame:
    """The rows of ``named`` that are validation: in order of id up to ``most_tokens`` a domain.

    Ids are hashes, so their order is a random one that does not depend on the order of the documents. A document
    longer than an eighth of ``most_tokens`` is left to training: a few such would be all that a domain is measured on.
    """
    named = named[named["tokens"] <= max(most_tokens // 8, 1)]
    named = named.drop_duplicates("id").sort_values("id")
    return named[named.groupby("domain")["tokens"].cumsum() <= most_tokens]


def _write(
    stem: Path,
    documents: pd.DataFrame,
    rows: np.ndarray,
    parts: Sequence[Stored],
    dtype: str,
    arrange: FillInTheMiddle | None = None,
) -> dict[str, int]:
    """Write ``stem.bin`` and ``stem.offsets.npy`` of some rows of ``documents`` in the given order; their counts."""
    sizes = []
    with stem.parent.joinpath(f"{stem.name}.bin").open("wb") as file:
        for part, start, size, is_code in _columns(documents, rows, "part", "start", "tokens", "is_code"):
            ids = parts[part][start : start + size]
            if arrange is not None and is_code:
                ids = arrange(ids)
            file.write(ids.astype(dtype).tobytes())
            sizes.append(len(ids))
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    np.save(stem.parent / f"{stem.name}.offsets.npy", offsets)
    size = int(documents["bytes"].to_numpy()[rows].sum(dtype=np.int64))
    return {"tokens": int(offsets[-1]), "documents": len(rows), "bytes": size}


def _columns(documents: pd.DataFrame, rows: np.ndarray, *names: str) -> Iterable[tuple[Any, ...]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = documents.iloc[rows[start : start + ROWS_AT_ONCE]]
        yield from zip(*(some[name].tolist() for name in names), strict=True)


def _summary(reader: ShardReader, lengths: Sequence[int], rearranged: int) -> Summary:
    train, validation = reader.facts["train"], reader.facts["validation"]
    packing = {}
    effects = []
    for length in lengths:
        windows = pack_documents(reader.train.offsets, length)  # the reader would keep them
        packing[str(length)] = {"windows": len(windows), "padding_share": round(windows.padding_share, 6)}
        packed, concatenated = cut_shares(reader.train.offsets, windows)
        effects.append(
            effect(
                f"fitting documents cut at {length} tokens",
                packed,
                concatenated,
                better="lower",
                note="best-fit packing against concatenating and cutting; "
                f"{windows.padding_share:.2%} of positions are padding",
            )
        )
    return {
        "tokens": train["tokens"],
        "documents": train["documents"],
        "bytes": train["bytes"],
        "bytes_per_token": round(train["bytes"] / max(1, train["tokens"]), 4),
        "held_out_tokens": {domain: facts["tokens"] for domain, facts in validation.items()},
        "fill_in_the_middle": rearranged,
        "packing": packing,
        "effects": effects,
    }
