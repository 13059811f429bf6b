"""LV-Eval's keyword recall: the owners' own examples, and F1 as rouge-score counts it."""

import json
from pathlib import Path

import pytest

from components.evaluation.harness.lveval import keyword_f1, words
from components.evaluation.harness.measure import Settings, questions_of
from components.evaluation.harness.tasks import TASKS
from components.stage import StageError


@pytest.mark.parametrize(("answer", "reference", "keywords", "plain", "score"), [
    # From the owners' error cases: what plain F1 gives is printed there.
    ("There is no mention of Martin or independent publishing of digital books in the passage. The passage appears to "
     "be about a research paper on contour completion using deep structure priors.",
     "Martin began independent publishing her books as digital books in 2020.", "2020", 0.30769230769230765, 0.0),
    ("Low mechanical flexibility.", "Increased mechanical flexibility.", "Increased mechanical flexibility.",
     0.6666666666666666, 0.6666666666666666),
    ("In 2020.", "Martin began independent publishing her books as digital books in 2020.", "2020", None, 4 / 13),
])  # fmt: skip
def test_owners_cases(answer: str, reference: str, keywords: str, plain: float | None, score: float) -> None:
    if plain is not None:
        assert keyword_f1(answer, reference, None) == pytest.approx(plain, abs=1e-12)
    assert keyword_f1(answer, reference, keywords) == pytest.approx(score, abs=1e-12)


def test_f1_is_that_of_rouge_score() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1"])
    for answer, reference in (("red green blue", "blue red red yellow"), ("one two", "three"), ("x y x", "x x y")):
        expected = scorer.score(reference, answer)["rouge1"].fmeasure
        assert keyword_f1(answer, reference, None) == pytest.approx(expected)


def test_common_words_are_no_keywords() -> None:
    assert keyword_f1("she was in it", "she was in the house", "in the house") == 0.0
    assert keyword_f1("the house", "she was in the house", "in the house") > 0
    assert words("The U.S.-based, an owl!") == ["usbased", "owl"]


def test_published_files_are_read_by_length(tmp_path: Path) -> None:
    row = {"input": "Who?", "context": "A long text.", "answers": ["Ann", "Ann Lee"], "answer_keywords": "Ann"}
    for level in ("16k", "64k"):
        (tmp_path / f"hotpotwikiqa_mixup_{level}.jsonl").write_text(json.dumps(row))
    task = TASKS["lveval_hotpotwikiqa_mixup"]
    _, questions = questions_of(task, Settings(folder=tmp_path))
    assert [question.group for question in questions] == ["16k", "64k"]
    assert questions[0].prompt.startswith("Answer the question based on the given passages. Questions and answers are")
    assert questions[0].prompt.endswith("\n\nQuestion: Who?\nAnswer:")
    assert task.judge is not None
    assert task.judge(questions, [["Ann Lee"], ["Bob"]]) == [{"f1": 1.0}, {"f1": 0.0}]
    with pytest.raises(StageError, match=r"needs loogle_SD_mixup_16k\.jsonl"):
        questions_of(TASKS["lveval_loogle_SD_mixup"], Settings(folder=tmp_path))
