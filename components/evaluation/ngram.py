"""Stage ``ngram``: what a strong n-gram model of the same training shards reaches on the held-out documents.

Pre-training is worth its compute only where it beats this baseline, which costs seconds.
"""

import json

from pydantic import Field

from components.evaluation.held_out import HeldOutConfig, held_out_documents
from components.stage import Inputs, Run, Summary, effect


class NgramConfig(HeldOutConfig):
    """Order of the model and how much it trains on; the held-out part must equal that of ``evaluate``."""

    order: int = Field(5, ge=1, le=8, description="tokens of an n-gram")
    max_training_tokens: int = Field(
        30_000_000, ge=1, description="first tokens of the training shards that are counted (about 150 bytes each)"
    )


def score_ngram(config: NgramConfig, inputs: Inputs, run: Run) -> Summary:
    """Inputs ``shards`` and ``tokenizer``; writes ``evaluation.json`` and ``items.parquet`` as ``evaluate`` does."""
    import numpy as np

    from components.data.shard_reader import ShardReader
    from components.evaluation.items import Items
    from components.evaluation.kneser_ney import KneserNey, documents_stream
    from components.evaluation.statistics import paired_difference

    reader = ShardReader(inputs["shards"])
    documents = held_out_documents(inputs["shards"].path, inputs["tokenizer"].path, config)
    training = _without_repeats(reader, config.max_training_tokens)
    stream = documents_stream([document.tokens for document in documents], reader.eos_id)
    ends = np.cumsum([len(document.tokens) + 1 for document in documents])
    bits = {}
    with run.progress(2, "n-gram model", unit="order") as bar:
        for order in sorted({1, config.order}):
            model = KneserNey.train(training, vocab_size=reader.vocab_size, eos_id=reader.eos_id, order=order)
            total = np.concatenate([[0.0], -np.cumsum(model.log2_probabilities(stream))])
            bits[order] = np.diff(total[np.concatenate([[0], ends])])
            bar.advance()
    items = Items()
    for document, spent in zip(documents, bits[config.order], strict=True):
        items.add("bits_per_byte", document.domain, document.item, spent, weight=document.bytes)
    metrics = items.metrics(run.seed)
    sizes = [document.bytes for document in documents]
    against = paired_difference(bits[config.order], bits[1], weights=sizes, seed=run.seed)
    items.write(run.output)
    (run.output / "evaluation.json").write_text(json.dumps({"metrics": metrics}, indent=1, sort_keys=True))
    value = metrics["bits_per_byte"]["value"]
    return {
        "metrics": metrics,
        "order": config.order,
        "ngrams": model.sizes,
        "training_tokens": len(training),
        "effects": [
            effect(
                f"bits per byte of the order-{config.order} model over a unigram model", value, value - against.value,
                unit="bits/byte", better="lower", low=against.low, high=against.high,
            )
        ],
    }  # fmt: skip


def _without_repeats(reader, max_tokens: int):  # type: ignore[no-untyped-def]
    """Training tokens (n,) with every document once.

    Up-sampled copies add nothing that a count model does not know, and hide how often n-grams are truly met once or
    twice, which is what its discounts are estimated from.
    """
    import numpy as np

    offsets, tokens = reader.train.offsets, np.asarray(reader.train.tokens[:max_tokens])
    seen: set[bytes] = set()
    kept = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        document = tokens[start:end]
        if len(document) and (digest := document.tobytes()) not in seen:
            seen.add(digest)
            kept.append(document)
        if end >= max_tokens:
            break
    return np.concatenate(kept)
