"""The n-gram baseline equals a dictionary implementation of the formulas and is a distribution."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from components.evaluation.kneser_ney import KneserNey, documents_stream

EOS = 0
VOCABULARY = 12


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    steps = rng.dirichlet(np.full(VOCABULARY - 1, 0.15), size=VOCABULARY)
    made = []
    for _ in range(60):
        token, document = EOS, []
        for _ in range(int(rng.integers(1, 25))):
            token = 1 + int(rng.choice(VOCABULARY - 1, p=steps[token]))
            document.append(token)
        made.append(np.array(document))
    return made


def naive_probability(documents: list[np.ndarray], order: int, history: list[int], word: int) -> float:
    """Interpolated modified Kneser-Ney by dictionaries, straight from Chen and Goodman."""
    raw: dict[int, Counter] = {k: Counter() for k in range(1, order + 1)}
    for document in documents:
        sentence = [EOS, *map(int, document), EOS]
        for end in range(1, len(sentence)):
            for k in range(1, order + 1):
                if end - k + 1 >= 0:
                    raw[k][tuple(sentence[end - k + 1 : end + 1])] += 1
    count = {order: raw[order]}
    for k in range(1, order):
        lefts = defaultdict(set)
        for gram in raw[k + 1]:
            lefts[gram[1:]].add(gram[0])
        count[k] = Counter(
            {g: raw[k][g] if k > 1 and g[0] == EOS else len(lefts[g]) for g in raw[k] if g in lefts or g[0] == EOS}
        )

    def discounts(k: int) -> list[float]:
        n = Counter(count[k].values())
        if n[1] and n[2]:
            y = n[1] / (n[1] + 2 * n[2])
            third = 3 - 4 * y * n[4] / n[3] if n[3] else 1.5
            raw_estimates = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], third]
        else:
            raw_estimates = [0.5, 1.0, 1.5]
        return [0.0] + [min(max(d, 0.05 * r), 0.95 * r) for r, d in enumerate(raw_estimates, 1)]

    def probability(k: int, context: tuple[int, ...]) -> float:
        if k == 0:
            return 1 / VOCABULARY
        lower = probability(k - 1, context[1:])
        followers = {g[-1]: c for g, c in count[k].items() if g[:-1] == context}
        if not followers:
            return lower
        d = discounts(k)
        total = sum(followers.values())
        own = max(followers.get(word, 0) - d[min(followers.get(word, 0), 3)], 0)
        return own / total + sum(d[min(c, 3)] for c in followers.values()) / total * lower

    context = (EOS, *history)[-(order - 1) :] if order > 1 else ()
    return probability(len(context) + 1, tuple(context))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_dictionary_implementation(documents: list[np.ndarray], order: int) -> None:
    train, held_out = documents[:50], documents[50:]
    stream = np.concatenate([np.append(document, EOS) for document in train])
    model = KneserNey.train(stream, vocab_size=VOCABULARY, eos_id=EOS, order=order)
    scored = model.log2_probabilities(documents_stream(held_out, EOS))
    expected = []
    for document in held_out:
        expected.append(0.0)
        for i, word in enumerate(document):
            expected.append(np.log2(naive_probability(train, order, [int(t) for t in document[:i]], int(word))))
    np.testing.assert_allclose(scored, expected, atol=1e-10)


def test_probabilities_sum_to_one_in_seen_and_unseen_contexts(documents: list[np.ndarray]) -> None:
    stream = np.concatenate([np.append(document, EOS) for document in documents])
    model = KneserNey.train(stream, vocab_size=VOCABULARY, eos_id=EOS)
    contexts = [[], *[list(map(int, document[:n])) for document in documents[:20] for n in range(1, 7)]]
    contexts += [list(map(int, np.random.default_rng(1).integers(1, VOCABULARY, 6))) for _ in range(50)]
    for context in contexts:
        distribution = model.distribution(context)
        assert distribution.sum() == pytest.approx(1, abs=1e-12)
        assert (distribution > 0).all()


def test_scoring_and_distribution_agree(documents: list[np.ndarray]) -> None:
    stream = np.concatenate([np.append(document, EOS) for document in documents[:50]])
    model = KneserNey.train(stream, vocab_size=VOCABULARY, eos_id=EOS)
    document = documents[55]
    scored = model.log2_probabilities(documents_stream([document], EOS))
    one_by_one = [model.distribution(list(map(int, document[:i])))[w] for i, w in enumerate(document)]
    np.testing.assert_allclose(2 ** scored[1:], one_by_one)


def test_longer_contexts_help_on_a_source_that_has_them() -> None:
    rng = np.random.default_rng(2)
    successor = {}
    document = [int(t) for t in rng.integers(1, VOCABULARY, 3)]
    while len(document) < 30_000:  # a third-order source with 10% noise
        key = tuple(document[-3:])
        successor.setdefault(key, int(rng.integers(1, VOCABULARY)))
        document.append(successor[key] if rng.random() < 0.9 else int(rng.integers(1, VOCABULARY)))
    train, held_out = np.array([*document[:27_000], EOS]), documents_stream([np.array(document[27_000:])], EOS)
    bits = [
        -KneserNey.train(train, vocab_size=VOCABULARY, eos_id=EOS, order=order).log2_probabilities(held_out).mean()
        for order in (1, 2, 3, 4, 5)
    ]
    assert bits[3] < bits[2] < bits[1] and bits[3] < 1.5
    assert bits[4] < bits[3] + 0.1  # one order too many costs little


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one training token"):
        KneserNey.train(np.zeros(0, dtype=np.uint16), vocab_size=4, eos_id=0)
