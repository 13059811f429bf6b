"""Learns domains from labelled documents and labels all of them."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from threadpoolctl import threadpool_limits

from components.data.documents import Document, read_documents, write_documents
from components.data.domain_seeds import HINTS, seed_label, without_seeds
from components.data.domains import DOMAINS
from components.data.features import EXCERPT, ngrams
from components.data.judging import make_teacher
from components.stage import Artifact, Inputs, Run, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.domains import DomainsConfig

BATCH = 2_000
FOLDS = 4


@dataclass(frozen=True)
class Labelled:
    """A text and its domain; ``by`` says who knows: ``source``, ``seed words`` or ``judge``."""

    id: str
    text: str
    domain: str
    by: str


def write_classified(config: "DomainsConfig", inputs: Inputs, run: Run) -> Summary:
    """See ``components.data.domains.classify_domains``."""
    labelled = _labelled(inputs["documents"], config, run)
    known = {item.domain for item in labelled}
    if len(known) < 2 or len({item.id for item in labelled}) < 2 * FOLDS:
        few = f"domains: {len(labelled)} labels of {len(known)} domain(s) are too few to learn from"
        if config.judge != "bundled":
            raise StageError(f"{few}; raise domains.judged_documents")
        run.info(
            f"{few}: documents that neither their source nor seed words tell the domain of are 'other'; give sources "
            "a domain_hint, or set domains.judge to a language model"
        )
        return {**_classify_all(None, config, inputs["documents"], run), "effects": []}
    with threadpool_limits(1):  # sums in one order on every machine; more threads only wait for each other here
        model = _fit(labelled)
        effects = _effects(labelled, run.seed)
        summary = _classify_all(model, config, inputs["documents"], run)
    return {**summary, "effects": effects}


def _fit(labelled: Sequence[Labelled]) -> OneVsRestClassifier:
    model = OneVsRestClassifier(
        LogisticRegression(C=20.0, solver="liblinear", random_state=0, max_iter=100, class_weight="balanced")
    )
    return model.fit(ngrams([item.text for item in labelled]), [item.domain for item in labelled])


def _classify_all(model: OneVsRestClassifier | None, config: "DomainsConfig", corpus: Artifact, run: Run) -> Summary:
    sources: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def classified() -> Iterator[Document]:
        documents = read_documents(corpus)
        total = int(corpus.summary.get("documents", 0))
        with run.progress(total, "domains", unit="documents") as progress:
            while batch := list(islice(documents, BATCH)):
                for document, (domain, source) in zip(batch, _decide(batch, model, config), strict=True):
                    document.domain = domain
                    sources[source] += 1
                    sizes[domain] += len(document.text.encode())
                    yield document
                progress.advance(len(batch))

    count = write_documents(run.output, classified())
    total = sum(sizes.values())
    return {
        "documents": count,
        "shares": {domain: round(sizes[domain] / total, 6) for domain in sorted(sizes)},
        "decided_by": dict(sorted(sources.items())),
    }


def _labelled(corpus: Artifact, config: "DomainsConfig", run: Run) -> list[Labelled]:
    """Texts with a label: of each domain and kind of label the first few by id, which is a random order.

    Seed words are left out of the texts that they label: the classifier has to know what stands around them.
    """
    if config.judge != "bundled":
        return _taught(corpus, config, run)
    groups: dict[tuple[str, str], list[Labelled]] = defaultdict(list)
    most = {"source": config.per_source_domain, "seed words": config.per_domain}
    for document in read_documents(corpus):
        domain, by = known_label(document, config.minimum_words)
        if domain:
            text = without_seeds(document.text) if by == "seed words" else document.text[:EXCERPT]
            groups[domain, by].append(Labelled(document.id, text, domain, by))
    return [
        item
        for _, items in sorted(groups.items())
        if len(items) >= 8
        for item in sorted(items, key=lambda item: item.id)[: most[items[0].by]]
    ]


def known_label(document: Document, minimum_words: int) -> tuple[str, str]:
    """Domain and who says so: the source, else seed words, else nobody."""
    hint = "code" if document.language == "code" else HINTS.get(document.meta.get("domain_hint", ""))
    if hint:
        return hint, "source"
    seed = seed_label(document.text, minimum_words)
    return (seed, "seed words") if seed else ("", "nobody")


def _taught(corpus: Artifact, config: "DomainsConfig", run: Run) -> list[Labelled]:
    teacher = make_teacher("endpoint" if config.judge == "endpoint" else "checkpoint", config.teacher, run)
    documents = list(read_documents(corpus))
    chosen = random.Random(f"{run.seed}-domains").sample(documents, min(config.judged_documents, len(documents)))
    letters = [chr(ord("A") + number) for number in range(len(DOMAINS))]
    menu = "\n".join(f"{letter}. {domain}" for letter, domain in zip(letters, DOMAINS, strict=True))
    prompts = [
        f"Which domain does the text belong to?\n{menu}\n\n<text>\n{document.text[:EXCERPT]}\n</text>\n\n"
        "Answer with one letter."
        for document in chosen
    ]
    names = dict(zip(letters, DOMAINS, strict=True))
    scores = teacher.score_all(prompts, letters)
    return [
        Labelled(document.id, document.text[:EXCERPT], names[max(letters, key=score.__getitem__)], "judge")
        for document, score in zip(chosen, scores, strict=True)
    ]


def _decide(
    batch: Sequence[Document], model: OneVsRestClassifier | None, config: "DomainsConfig"
) -> Iterator[tuple[str, str]]:
    """Domain of each document and who decided. With a language model as judge, its classifier decides on all."""
    if model is None:
        for document in batch:
            known, by = known_label(document, config.minimum_words)
            yield known or "other", by
        return
    probabilities = model.predict_proba(ngrams([document.text for document in batch]))
    for document, row, place in zip(batch, probabilities, probabilities.argmax(axis=1), strict=True):
        known, by = known_label(document, config.minimum_words) if config.judge == "bundled" else ("", "nobody")
        if known:
            yield known, by
        elif row[place] >= config.minimum_confidence:
            yield str(model.classes_[place]), "classifier"
        else:
            yield "other", "nobody"


def _effects(labelled: Sequence[Labelled], seed: int) -> list[dict]:
    """Cross-validated accuracy beside always naming the commonest domain, for each kind of label."""
    predicted: dict[str, str] = {}  # id -> domain
    for fold in range(FOLDS):
        held_out = [item for item in labelled if int(item.id[:8], 16) % FOLDS == fold]
        model = _fit([item for item in labelled if int(item.id[:8], 16) % FOLDS != fold])
        if held_out:
            domains = model.predict(ngrams([item.text for item in held_out]))
            predicted |= {item.id: str(domain) for item, domain in zip(held_out, domains, strict=True)}
    effects = []
    for number, by in enumerate(sorted({item.by for item in labelled})):
        items = [item for item in labelled if item.by == by]
        labels = np.array([item.domain for item in items])
        counts = Counter(labels.tolist())
        majority = min(counts, key=lambda domain: (-counts[domain], domain))
        right, guess = np.array([predicted[item.id] for item in items]) == labels, labels == majority
        gain = right.astype(float) - guess
        picks = np.random.default_rng([seed, number]).integers(len(gain), size=(1000, len(gain)))
        low, high = np.quantile(gain[picks].mean(axis=1), [0.025, 0.975])
        note = f"{len(labels)} labels of {len(counts)} domains, held out in turn; the baseline is always '{majority}'"
        if by == "seed words":
            note += "; the seed words themselves are left out of the texts"
        name = f"accuracy of domains ({by})"
        effects.append(effect(name, right.mean(), guess.mean(), low=float(low), high=float(high), note=note))
    return effects
