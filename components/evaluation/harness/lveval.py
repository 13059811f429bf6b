"""LV-Eval (arXiv 2402.05136): questions about long texts with confusing facts, scored by keywords first.

An answer that names too few of the annotated keywords scores nothing, however many common words it shares with the
reference; else it scores its F1. The data is the user's: ``NAME_16k.jsonl`` to ``NAME_256k.jsonl`` as published.
"""

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from components.evaluation.harness.data import field, parse
from components.evaluation.harness.task import Question, Scores, Task
from components.stage import StageError

LEVELS = ("16k", "32k", "64k", "128k", "256k")
RECALL = 0.2
"""Share of the keywords' words below which an English answer scores nothing."""
SETS = {
    "hotpotwikiqa_mixup": "some passages", "loogle_SD_mixup": "one passage", "loogle_CR_mixup": "one passage",
    "loogle_MIR_mixup": "one passage", "multifieldqa_en_mixup": "one passage",
}  # fmt: skip
"""The English sets with keywords, and what their questions are said to be relevant to."""
COMMON = frozenset({
    "and", "to", "of", "in", "her", "was", "with", "for", "it", "from", "is", "that", "his", "he", "by", "she", "they",
    "or", "at", "because", "be", "on", "are", "their", "what", "as", "had", "were", "about", "being", "this", "who",
    "but", "have", "has", "when", "which", "does",
})  # fmt: skip
"""Words that are no keywords, as the owners list them."""
SOLE = "Only give me the answer and do not output any other explanation and evidence."


def questions(name: str, folder: Path | None) -> list[Question]:
    """Of all lengths that ``folder`` has. StageError where it has none."""
    files = [folder / f"{name}_{level}.jsonl" for level in LEVELS] if folder else []
    found = [question for file in files if file.is_file() for question in _of_file(name, file)]
    if not found:
        raise StageError(f"task lveval_{name} needs {name}_16k.jsonl or longer in the folder of --data")
    return found


def _of_file(name: str, file: Path) -> Iterator[Question]:
    level = file.stem.rpartition("_")[2]
    relevant = f"Questions and answers are only relevant to {SETS[name]}."
    please = "Please answer the following question based on the"
    first = "Answer the question based on the given passages." if name == "hotpotwikiqa_mixup" else (
        f"{please} given passages."
    )  # fmt: skip
    for number, row in enumerate(parse(file.read_bytes(), str(file))):
        where = f"{file.name}, record {number + 1}"
        yield Question(
            id=f"{level}/{number}",
            prompt=f"{first} {relevant} {SOLE}\n\nArticle: {field(row, 'context', where)}\n\n{please} above passages. "
            f"{relevant} {SOLE}\n\nQuestion: {field(row, 'input', where)}\nAnswer:",
            reference=(list(field(row, "answers", where)), row.get("answer_keywords") or row.get("gold_ans")),
            group=level,
        )


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scores:
    """``f1``: with keyword recall, the best over the reference answers."""
    scores = []
    for question, given in zip(questions, answers, strict=True):
        references, keywords = question.reference
        best = [max(keyword_f1(text, reference, keywords) for reference in references) for text in given]
        scores.append({"f1": sum(best) / len(best)})
    return scores


def keyword_f1(answer: str, reference: str, keywords: str | None) -> float:
    """F1 of the words of two texts; 0 where ``answer`` has less than ``RECALL`` of the keywords' words."""
    said, wanted = Counter(words(answer)), Counter(words(reference))
    if keywords and (needed := words(keywords)):
        hits = said & Counter(needed)
        if sum(count for word, count in hits.items() if word not in COMMON) / len(needed) < RECALL:
            return 0.0
    same = (said & wanted).total()
    return 2 * same / (said.total() + wanted.total()) if same else 0.0


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles."""
    plain = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _task(name: str) -> Task:
    load: Any = partial(questions, name)
    return Task(f"lveval_{name}", "generation", load, judge, max_new_tokens=64, has_examples=False)


LVEVAL: tuple[Task, ...] = tuple(_task(name) for name in SETS)

__all__ = ["LVEVAL", "judge", "keyword_f1"]
