"""Writes the token files of the ``shards`` stage: encode in resumable parts, then place every document."""

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.data.code_layout import FillInTheMiddle, encode_documents
from components.data.columns import Stored
from components.data.documents import Document, is_held_out, read_documents
from components.data.packing import cut_shares
from components.data.shard_reader import ShardReader
from components.stage import Artifact, Inputs, Run, StageError, Summary, effect
from model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from components.data.shards import ShardsConfig


ENCODED_AT_ONCE = 500
"""Documents: a token takes a hundred times its final memory while its document is encoded."""

ROWS_AT_ONCE = 10_000
"""Of a table, as Python's own numbers, which take ten times the memory."""


def write_shards(config: "ShardsConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.shards.tokenize``."""
    tokenizer = Tokenizer.load(inputs["tokenizer"].path)
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    parts = _encode_parts(inputs["documents"], tokenizer, config.documents_per_part, run)
    if not parts:
        raise StageError("shards: the mixture holds no documents; lower the thresholds of the earlier stages")
    documents = pd.concat([pd.read_parquet(part.with_suffix(".parquet")) for part in parts], ignore_index=True)
    tokens = [Stored(part.with_suffix(".npy")) for part in parts]
    documents["held_out"] = _hold_out(documents, config.held_out_share, config.held_out_tokens)

    facts: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "dtype": dtype, "eos_id": tokenizer.eos_id}
    held_out_ids = set(documents.loc[documents["held_out"], "id"])
    training = documents[~documents["id"].isin(held_out_ids)]
    entries = training.loc[training.index.repeat(training["copies"])]
    order = np.random.default_rng([run.seed, 0]).permutation(len(entries))
    arrange = FillInTheMiddle(tokenizer, config.fill_in_the_middle_share, run.seed)
    facts["train"] = _write(run.output / "train", entries.iloc[order], tokens, dtype, arrange)
    (run.output / "validation").mkdir()
    facts["validation"] = {
        domain: _write(run.output / "validation" / str(domain), rows.sort_values("id"), tokens, dtype)
        for domain, rows in documents[documents["held_out"]].groupby("domain", sort=True)
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
        while batch := list(islice(documents, per_part)):
            stem = run.state / f"part-{len(stems):05d}"
            if not stem.with_suffix(".parquet").exists():
                _encode_part(batch, tokenizer, stem)
            stems.append(stem)
            progress.advance(len(batch))
    return stems


def _encode_part(batch: Sequence[Document], tokenizer: Tokenizer, stem: Path) -> None:
    encoded: list[np.ndarray] = []
    for start in range(0, len(batch), ENCODED_AT_ONCE):
        lists = encode_documents(batch[start : start + ENCODED_AT_ONCE], tokenizer)
        encoded += [np.array(ids, dtype=np.uint32) for ids in lists]
    table = pd.DataFrame(
        {
            "id": [document.id for document in batch],
            "domain": [document.domain or "other" for document in batch],
            "copies": [document.copies for document in batch],
            "is_code": [document.language == "code" for document in batch],
            "bytes": [len(document.text.encode()) for document in batch],
            "tokens": [len(ids) + 1 for ids in encoded],  # with the end token
        }
    )
    table["part"] = int(stem.name.removeprefix("part-"))
    table["start"] = table["tokens"].cumsum() - table["tokens"]
    flat = np.empty(int(table["tokens"].sum()), dtype=np.uint32)
    for start, ids in zip(table["start"], encoded, strict=True):
        flat[start : start + len(ids)] = ids
        flat[start + len(ids)] = tokenizer.eos_id
    partial = stem.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, flat)
    partial.replace(stem.with_suffix(".npy"))
    table.to_parquet(partial)
    partial.replace(stem.with_suffix(".parquet"))


def _hold_out(documents: pd.DataFrame, share: float, most_tokens: int) -> pd.Series:
    """Which rows are validation: those that ``is_held_out`` names, in order of id up to ``most_tokens`` a domain.

    Ids are hashes, so their order is a random one that does not depend on the order of the documents. A document
    longer than an eighth of ``most_tokens`` is left to training: a few such would be all that a domain is measured on.
    """
    named = documents[documents["id"].map(lambda id: is_held_out(id, share))]
    named = named[named["tokens"] <= max(most_tokens // 8, 1)]
    named = named.drop_duplicates("id").sort_values("id")
    within = named.groupby("domain")["tokens"].cumsum() <= most_tokens
    return documents.index.isin(named.index[within])


def _write(
    stem: Path,
    rows: pd.DataFrame,
    parts: Sequence[Stored],
    dtype: str,
    arrange: FillInTheMiddle | None = None,
) -> dict[str, int]:
    """Write ``stem.bin`` and ``stem.offsets.npy`` from encoded rows in the given order; return their counts."""
    sizes = []
    with stem.parent.joinpath(f"{stem.name}.bin").open("wb") as file:
        for part, start, size, is_code in _columns(rows, "part", "start", "tokens", "is_code"):
            ids = parts[part][start : start + size]
            if arrange is not None and is_code:
                ids = arrange(ids)
            file.write(ids.astype(dtype).tobytes())
            sizes.append(len(ids))
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
    np.save(stem.parent / f"{stem.name}.offsets.npy", offsets)
    return {"tokens": int(offsets[-1]), "documents": len(rows), "bytes": int(rows["bytes"].sum())}


def _columns(rows: pd.DataFrame, *names: str) -> Iterable[tuple[Any, ...]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        some = rows.iloc[start : start + ROWS_AT_ONCE]
        yield from zip(*(some[name].tolist() for name in names), strict=True)


def _summary(reader: ShardReader, lengths: Sequence[int], rearranged: int) -> Summary:
    train, validation = reader.facts["train"], reader.facts["validation"]
    packing = {}
    effects = []
    for length in lengths:
        windows = reader.windows(length)
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
