"""The held-out documents that every model is scored on, and the config that picks them.

Bits per byte can be compared only between models that predicted the same tokens of the same bytes, so the n-gram
baseline and all checkpoints take their documents from here.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from components.stage import StageConfig, StageError

if TYPE_CHECKING:
    import numpy as np


class HeldOutConfig(StageConfig):
    """How much held-out text is scored; equal settings give equal documents."""

    tokens_per_domain: int = Field(4_000, ge=1, description="most tokens of one domain")
    document_tokens: int = Field(1_024, ge=2, description="tokens scored of a document, from its start")


@dataclass(frozen=True)
class HeldOutDocument:
    """The first tokens of one validation document, (tokens,) int64 without its end token, and their UTF-8 bytes."""

    item: str
    domain: str
    tokens: "np.ndarray"
    bytes: int


def held_out_documents(
    shards: Path, tokenizer: Path, config: HeldOutConfig, written_with: Path | None = None
) -> list[HeldOutDocument]:
    """Documents by domain in alphabetical order, in file order until the next would pass ``tokens_per_domain``.

    ``written_with``: the tokenizer of the shards, where ``tokenizer`` is another; the documents are then the same ones,
    byte for byte, in its tokens.
    """
    from components.data.shard_reader import ShardReader

    if written_with is not None:
        return _retold(held_out_documents(shards, written_with, config), written_with, tokenizer)

    reader = ShardReader(shards)
    sizes = token_bytes(tokenizer, reader.vocab_size)
    documents = []
    for domain, file in reader.validation.items():
        left = config.tokens_per_domain
        for index, tokens in enumerate(file.documents()):
            tokens = tokens[:-1][: config.document_tokens]
            if len(tokens) == 0 or sizes[tokens].sum() == 0:
                continue
            # One document a domain is always scored, so that no domain goes missing.
            if len(tokens) > left and left < config.tokens_per_domain:
                break
            left -= len(tokens)
            documents.append(HeldOutDocument(f"{domain}/{index}", domain, tokens, int(sizes[tokens].sum())))
    if not documents:
        raise StageError(f"{shards}: no held-out documents to score; raise shards.held_out_share")
    return documents


def same_vocabulary(first: Path, second: Path) -> bool:
    """Whether two tokenizer folders give texts the same ids."""
    parts = ("model", "added_tokens", "normalizer", "pre_tokenizer")
    one, other = (json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (first, second))
    return all(one.get(part) == other.get(part) for part in parts)


def _retold(documents: list[HeldOutDocument], before: Path, after: Path) -> list[HeldOutDocument]:
    """The same bytes in the tokens of another vocabulary; control tokens, which stand for none, are left out."""
    import numpy as np

    from model.tokenizer import Tokenizer

    old, new = Tokenizer.load(before), Tokenizer.load(after)
    control = set(old.control.values())
    return [
        replace(document, tokens=np.array(new.encode_bytes(data), dtype=np.int64))
        for document in documents
        if (data := old.decode_bytes(token for token in document.tokens.tolist() if token not in control))
    ]


def token_bytes(tokenizer: Path, vocab_size: int) -> "np.ndarray":
    """UTF-8 bytes that each token stands for, (vocab_size,) int64; control tokens stand for none.

    A byte-level vocabulary writes every byte as one character, so a token's length is its number of bytes.
    """
    import numpy as np

    data = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    sizes = np.zeros(vocab_size, dtype=np.int64)
    for token, rank in data["model"]["vocab"].items():
        if rank < vocab_size:
            sizes[rank] = len(token)
    for added in data.get("added_tokens", []):
        if added["id"] < vocab_size:
            sizes[added["id"]] = 0
    return sizes
