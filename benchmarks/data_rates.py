"""What one core does of each data stage, and what a document takes on disk: what ``qwenforge plan`` extrapolates from.

Rates are bytes of text over processor time, on documents of the pocket corpus and with the published vocabulary. What a
stage learns first (classifiers, an index) is not counted: on a large corpus it is nothing.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.data.clean import CleanConfig, clean_document
from components.data.code_layout import encode_documents
from components.data.contamination import EvaluationIndex
from components.data.decontaminate import DecontaminateConfig, read_items
from components.data.deduplicate import DeduplicateConfig
from components.data.documents import Document, new_document, read_documents, write_documents
from components.data.features import ngrams
from components.data.minhash import WordHasher, candidate_pairs, estimated_similarity, shingle_hashes, signatures
from components.data.quality import QualityConfig
from components.data.quality_judges import bundled_labels
from components.data.quality_model import fit_judge
from components.data.tokenizer_training import published
from components.data.words import comparable_words

Step = Callable[[list[Document]], Any]


def measure(documents: list[Document], folder: Path, turns: int = 3) -> dict[str, Any]:
    """``rates`` (stage -> bytes a second of one core), ``bytes_per_token``, ``document_bytes``, and ``stored_share``:
    bytes on disk over bytes of text."""
    size = sum(len(document.text.encode()) for document in documents)
    tokenizer = published()
    tokens = sum(map(len, encode_documents(documents, tokenizer)))
    write_documents(folder / "stored", documents)
    stored = sum(file.stat().st_size for file in (folder / "stored").iterdir())
    rates = {name: size / seconds(step, documents, turns) for name, step in steps(documents, folder, tokenizer)}
    return {
        "rates": {name: round(rate) for name, rate in rates.items()},
        "bytes_per_token": round(size / tokens, 4),
        "document_bytes": round(size / len(documents), 1),
        "stored_share": round(stored / size, 4),
    }


def seconds(step: Step, documents: list[Document], turns: int) -> float:
    """The least processor time of a few turns, after one that warms up. Stages may change documents: each gets new
    ones."""
    spent = []
    for _ in range(turns + 1):
        mine = [new_document(d.text, source=d.source, language=d.language, meta=dict(d.meta)) for d in documents]
        begin = time.process_time()
        step(mine)
        spent.append(time.process_time() - begin)
    return min(spent[1:])


def steps(documents: list[Document], folder: Path, tokenizer: Any) -> Iterator[tuple[str, Step]]:
    """Every stage that reads the whole corpus, by its id."""
    from sklearn.linear_model import LogisticRegression

    cleaning, shape = CleanConfig(), DeduplicateConfig()
    judge = fit_judge(QualityConfig(), documents, bundled_labels(documents, len(documents) // 4, random.Random(0)))
    texts = [document.text for document in documents]
    domains = LogisticRegression(solver="liblinear").fit(ngrams(texts), np.arange(len(texts)) % 2)
    index = EvaluationIndex(read_items(DecontaminateConfig()))

    def sign(documents: list[Document]) -> int:
        hasher = WordHasher()
        shingles = (shingle_hashes(hasher(comparable_words(d.text)), shape.shingle) for d in documents)
        signature = signatures(shingles, shape.bands * shape.rows)
        return len(estimated_similarity(signature, candidate_pairs(signature, shape.bands)))

    def passed_on(documents: list[Document]) -> int:
        write_documents(folder / "passed-on", documents)
        return sum(1 for _ in read_documents(folder / "passed-on"))

    yield "reading and writing", passed_on
    yield "clean", lambda documents: [clean_document(document, cleaning) for document in documents]
    yield "deduplicate", sign
    yield "quality", judge.scores
    yield "domains", lambda documents: domains.predict_proba(ngrams([document.text for document in documents]))
    yield "decontaminate", lambda documents: [index.match(comparable_words(document.text)) for document in documents]
    yield "shards", lambda documents: encode_documents(documents, tokenizer)
