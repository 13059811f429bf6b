"""What deduplication finds and what it takes by mistake, measured on the corpus at hand.

Recall: near copies with a share of their words edited are planted, and looked for with the same signatures, bands and
threshold. Precision: of documents dropped as near copies, the exact Jaccard similarity to the one kept in their place.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.data.deduplicate import DeduplicateConfig
from components.data.documents import read_documents
from components.data.minhash import WordHasher, shingle_hashes, signatures
from components.data.near_copies import near_pairs, save_signatures
from components.data.statistics import share_above
from components.data.words import comparable_words

MIN_PROBE_WORDS = 50
CHECKED = 400
"""Dropped documents whose similarity is computed exactly."""


def measure(
    config: DeduplicateConfig, corpus: Path, states: Sequence[Path], state: Path, cluster: np.ndarray,
    keep: np.ndarray, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Keyword arguments of two effects: recall on planted near copies, share of drops that were no duplicates.

    ``states`` hold the corpus's signatures, ``state`` will hold the probes'; ``cluster`` and ``keep`` (documents,) as
    found without the probes.
    """
    rng = random.Random(f"{seed}-deduplicate-probe")
    dropped = np.flatnonzero(~keep)
    checked = sorted(int(dropped[i]) for i in rng.sample(range(len(dropped)), min(CHECKED, len(dropped))))
    kept_of = np.zeros(int(cluster.max(initial=-1)) + 1, dtype=np.int64)
    kept_of[cluster[keep]] = np.flatnonzero(keep)
    kept_for = {i: int(kept_of[cluster[i]]) for i in checked}
    originals = sorted(rng.sample(range(len(keep)), min(4 * config.probes, len(keep))))
    wanted = {*originals, *checked, *kept_for.values()}
    words = {i: comparable_words(d.text) for i, d in enumerate(read_documents(corpus)) if i in wanted}

    effects = []
    planted = [i for i in originals if len(words[i]) >= MIN_PROBE_WORDS][: config.probes]
    if planted:
        probes = [edited(words[i], config.probe_edits, rng) for i in planted]
        same = sum(probe == words[i] for probe, i in zip(probes, planted, strict=True))
        found = find(config, states, state, cluster, probes, planted)
        effects.append({
            "name": "planted near copies found", **share_above(found, len(planted), same / len(planted)),
            "note": f"{len(planted)} documents with {config.probe_edits:.0%} of their words edited; "
            "baseline: exact deduplication",
        })  # fmt: skip
    if checked:
        wrong = sum(
            jaccard(words[i], words[kept_for[i]], config.shingle) < config.min_similarity - 0.15 for i in checked
        )
        effects.append({
            "name": "dropped though not alike", "better": "lower",
            **share_above(wrong, len(checked), 1 - len(checked) / len(keep) if len(keep) else 0.0),
            "note": f"exact similarity to the kept document over 0.15 below the limit, {len(checked)} drops checked; "
            "baseline: dropping documents at random",
        })  # fmt: skip
    return effects


def find(
    config: DeduplicateConfig, states: Sequence[Path], state: Path, cluster: np.ndarray, probes: list[list[str]],
    planted: list[int],
) -> int:  # fmt: skip
    """How many probes pair with a document of their original's cluster."""
    hasher = WordHasher()
    shingles = [shingle_hashes(hasher(words), config.shingle) for words in probes]
    signature = signatures(shingles, config.bands * config.rows)
    save_signatures(state, signature, config.bands, [bytes(16)] * len(probes), [0] * len(probes))
    documents = len(cluster)
    pairs, _ = near_pairs([*states, state], config.min_similarity, since=documents)
    targets = cluster[np.array(planted)]
    hits = {
        int(probe) - documents for match, probe in pairs
        if match < documents and cluster[match] == targets[probe - documents]
    }  # fmt: skip
    return len(hits)


def edited(words: list[str], share: float, rng: random.Random) -> list[str]:
    """A copy in which ``share`` of the words are replaced by, dropped for, or followed by another word."""
    result: list[str] = []
    chosen = set(rng.sample(range(len(words)), max(1, round(share * len(words)))))
    for index, word in enumerate(words):
        if index not in chosen:
            result.append(word)
            continue
        kind = rng.randrange(3)
        if kind == 0:
            result.append(rng.choice(words))
        elif kind == 1:
            result += [word, rng.choice(words)]
    return result


def jaccard(a: list[str], b: list[str], n: int) -> float:
    """Exact Jaccard similarity of two texts' n-word shingle sets."""
    first, second = ({tuple(w[i : i + n]) for i in range(max(1, len(w) - n + 1))} for w in (a, b))
    return len(first & second) / max(1, len(first | second))
