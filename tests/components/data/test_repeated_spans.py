"""Repeated spans against a search by plain comparison; the cut in the stage; the best of near copies."""

import json
import random

import numpy as np
import pytest
from support import make_artifact, make_run

from components.data import repeated_spans
from components.data.deduplicate import DeduplicateConfig, deduplicate
from components.data.documents import new_document, read_documents, write_documents
from components.data.keep_best import best_by_quality
from components.data.repeated_spans import find_cuts, merge, read_cuts, sign_windows, without

NOTICE = (
    "This page uses cookies to give you the best experience. By going on you accept our terms of use, our privacy "
    "notice and the storage of cookies on your device, which you may withdraw at any time in your browser."
)


def find(texts, n, tmp_path, files=3, keep=None):
    """Cuts of ``texts`` in several files, as the stage finds them."""
    keep = np.ones(len(texts), dtype=bool) if keep is None else np.array(keep)
    jobs, first = [], 0
    for number, part in enumerate(np.array_split(np.arange(len(texts)), files)):
        documents = [new_document(texts[i], source="s", language="en") for i in part]
        write_documents(tmp_path / f"{number}", documents)
        file = tmp_path / f"{number}" / "documents-00000.parquet"
        jobs.append((n, file, first, keep[first : first + len(part)], tmp_path / f"spans-{number}"))
        first += len(part)
    for job in jobs:
        sign_windows(job)
    merge([job[-1] for job in jobs], tmp_path / "repeated")
    for job in jobs:
        find_cuts((job, tmp_path / "repeated"))
    return read_cuts([job[-1] for job in jobs])


def covered_by_comparison(texts, n):
    """Words of every text that stand in a window of n words which an earlier text has."""
    seen, covered = set(), []
    for text in texts:
        words = text.split()
        here = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        covered.append({i + k for i, window in enumerate(here) if window in seen for k in range(n)})
        seen.update(here)
    return covered


@pytest.mark.parametrize("at_once", [1 << 24, 50])
def test_finds_what_plain_comparison_finds(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(repeated_spans, "WINDOWS_AT_ONCE", at_once)
    rng = random.Random(3)
    phrases = [[rng.choice("abcdefgh") + str(rng.randrange(3)) for _ in range(rng.randrange(3, 25))] for _ in range(12)]
    texts = [" ".join(w for _ in range(rng.randrange(0, 6)) for w in rng.choice(phrases)) for _ in range(40)]
    cuts = find(texts, 10, tmp_path)
    for index, (text, expected) in enumerate(zip(texts, covered_by_comparison(texts, 10), strict=True)):
        places = np.cumsum([0] + [len(word) + 1 for word in text.split()])
        found = {
            i for start, end in cuts.get(index, []) for i, at in enumerate(places[:-1]) if start <= at < end
        }  # fmt: skip
        assert found == expected
    assert any(cuts.values())


def test_documents_that_do_not_count_keep_no_span_and_lose_none(tmp_path):
    texts = [f"{NOTICE} one", f"{NOTICE} two", f"{NOTICE} three"]
    assert set(find(texts, 10, tmp_path, files=2, keep=[False, True, True])) == {2}


def test_the_cut_leaves_no_hole_of_lines():
    text = f"Before.\n\n{NOTICE}\n\nAfter."
    start = text.index("This page")
    assert without(text, [(start, start + len(NOTICE))]) == "Before.\n\nAfter."


def corpus(tmp_path):
    rng = random.Random(5)
    bodies = [" ".join(rng.choices([f"w{i}" for i in range(3_000)], k=200)) for _ in range(8)]
    texts = [f"{body}\n\n{NOTICE}" if i % 2 else body for i, body in enumerate(bodies)]
    texts += [f"w1 w2 w3\n{NOTICE}", "是" * 5 + "的好天气" * 3]
    languages = ["en"] * 9 + ["zh"]
    pairs = zip(texts, languages, strict=True)
    write_documents(tmp_path / "in", (new_document(text, source="s", language=language) for text, language in pairs))
    return {"documents": make_artifact("corpus", tmp_path / "in")}, texts


def test_the_stage_cuts_a_notice_out_of_all_but_the_first(tmp_path):
    inputs, texts = corpus(tmp_path)
    run = make_run(tmp_path / "cut")
    summary = deduplicate(DeduplicateConfig(probes=0, repeated_span_words=20), inputs, run)
    kept = [document.text for document in read_documents(run.output)]
    assert [NOTICE in text for text in kept] == [False, True, False, False, False, False, False, False, False]
    assert kept[3] == texts[3].removesuffix(NOTICE).strip()
    assert summary["by_reason"]["only repeated spans"] == 1  # three words and the notice
    assert summary["documents_out"] == 9
    rows = [json.loads(line) for line in (run.output / "repeated-spans.jsonl").read_text().splitlines()]
    assert rows == [{"cut": 4, "text": NOTICE}]


def test_off_by_default_and_then_no_part_of_the_cache_key(tmp_path):
    inputs, texts = corpus(tmp_path)
    run = make_run(tmp_path / "off")
    summary = deduplicate(DeduplicateConfig(probes=0), inputs, run)
    assert [document.text for document in read_documents(run.output)] == texts
    assert "only repeated spans" not in summary["by_reason"]
    assert not (run.output / "repeated-spans.jsonl").exists()
    assert {"keep", "repeated_span_words"}.isdisjoint(DeduplicateConfig().model_dump())
    assert {"keep", "repeated_span_words"} <= DeduplicateConfig(
        keep="quality", repeated_span_words=50
    ).model_dump().keys()


def test_spans_that_are_phrases_are_refused():
    with pytest.raises(ValueError, match="expected 0 or at least 10, got 4"):
        DeduplicateConfig(repeated_span_words=4)


def test_the_best_of_a_cluster_is_kept_unless_it_is_a_fragment():
    cluster = np.array([0, 0, 0, 1, 2, 2])
    lengths = np.array([100, 90, 30, 10, 50, 50])
    scores = np.array([0.4, 0.6, 0.9, np.nan, 0.5, 0.5])
    assert best_by_quality(cluster, lengths, scores).tolist() == [False, True, False, True, True, False]


def test_the_stage_keeps_the_clean_one_of_two_copies(tmp_path):
    rng = random.Random(1)
    words = ["river", "valley", "stone", "the", "of", "and", "light", "winter", "house", "people", "walked", "slowly"]

    def sentence():
        return " ".join(rng.choices(words, k=10)).capitalize() + "."

    bodies = ["\n".join(" ".join(sentence() for _ in range(3)) for _ in range(6)) for _ in range(120)]
    furniture = "\n".join(["Click here to subscribe to our newsletter", "Accept all cookies", "Read more »"] * 2)
    texts = [f"{bodies[0]}\n{furniture}", *bodies]  # the soiled copy is the longer one, and comes first
    write_documents(tmp_path / "in", (new_document(text, source="s", language="en") for text in texts))
    inputs = {"documents": make_artifact("corpus", tmp_path / "in")}
    kept = {}
    for keep in ("longest", "quality"):
        run = make_run(tmp_path / keep)
        deduplicate(DeduplicateConfig(probes=0, keep=keep), inputs, run)
        kept[keep] = {document.text for document in read_documents(run.output)}
    assert texts[0] in kept["longest"] and bodies[0] not in kept["longest"]
    assert bodies[0] in kept["quality"] and texts[0] not in kept["quality"]
