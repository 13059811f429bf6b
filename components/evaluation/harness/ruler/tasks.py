"""RULER's thirteen tasks, at every length that is asked for."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from components.evaluation.harness.data import read_rows
from components.evaluation.harness.ruler.answering import FILES, answer, read_collection
from components.evaluation.harness.ruler.counting import COMMON, common_words, frequent_words, vocabulary
from components.evaluation.harness.ruler.example import Example, Make, fitted, largest
from components.evaluation.harness.ruler.needles import SETTINGS, NeedleTask, hide
from components.evaluation.harness.ruler.tracking import shown, track
from components.evaluation.harness.task import Question, Scores, Task
from components.stage import StageError
from model.tokenizer import Tokenizer

EXAMPLES = 500
"""Of each task and length, as the owners have."""
SHOWN = 500
"""Most tokens of the example before a chain of variables; a quarter of short lengths."""
SIZES = 1_000_000

Count = Callable[[str], int]
Maker = Callable[[Count, int, Path | None], tuple[Callable[[int], Make], range]]
"""``maker(tokens, length, folder)``: what makes example ``number``, and the sizes that it may have."""


def questions_of_length(
    name: str, maker: Maker, room: int, tokenizer: Tokenizer, length: int, count: int, folder: Path | None
) -> list[Question]:
    """``count`` questions of which each leaves ``room`` of ``length`` tokens for its answer."""

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text))

    try:
        make_number, sizes = maker(tokens, length, folder)
        size = largest(make_number(0), tokens, length - room, sizes, f"{name}-{length}-size")
    except ImportError:
        raise StageError(f"task {name} needs the word lists of wonderwords: pip install -e '.[eval]'") from None
    except StageError as error:
        raise StageError(f"task {name} at {length:,} tokens: {error}") from None
    found = []
    for number in range(count):
        item = f"{length}/{number}"
        example = fitted(make_number(number), tokens, length - room, size, sizes, f"{name}-{item}")
        found.append(Question(item, example.prompt, f" {', '.join(example.answers)}", reference=example,
                              group=str(length), length=length))  # fmt: skip
    return found


def in_conversation(question: Question) -> Question:
    """The answer's beginning is given, not asked."""
    example: Example = question.reference
    return replace(question, prompt=example.text, prefix=example.prefix)


def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]], *, any_answer: bool = False) -> Scores:
    """A metric named like the length: the share of the answers that the text holds, or whether it holds any of them.

    The second is RULER's for question answering, whose answers are several spellings of one (lm-eval takes the share).
    """
    scores = []
    for question, given in zip(questions, answers, strict=True):
        example: Example = question.reference
        points = []
        for text in given:
            said = re.sub(r"[\x00-\x1f]", "\n", text.strip()).strip().lower()
            hits = [reference.lower() in said for reference in example.answers]
            points.append(float(any(hits)) if any_answer else sum(hits) / len(hits))
        scores.append({str(question.length): sum(points) / len(points)})
    return scores


# ---- makers ---------------------------------------------------------------------------------------------


def needles(task: NeedleTask, tokens: Count, length: int, folder: Path | None) -> tuple[Callable[[int], Make], range]:
    words = prose(folder) if task.haystack == "essay" else []
    # In prose a size is words, and some are needed for any sentence to end.
    sizes = range(20, len(words)) if words else range(task.needles, SIZES)
    return (lambda number: lambda size, rng: hide(task, size, rng, words)), sizes


def chains(tokens: Count, length: int, folder: Path | None) -> tuple[Callable[[int], Make], range]:
    most, sizes = min(SHOWN, length // 4), range(1, SIZES)
    try:
        before = largest(lambda size, rng: Example(shown(size, rng), "", ()), tokens, most, sizes, "example")
    except StageError:  # lengths that the owners do not have: the question stands alone
        before = 0

    def make(size: int, rng: Random) -> Example:
        return track(size, rng, example=shown(before, rng) if before else "")

    return (lambda number: make), sizes


def common(tokens: Count, length: int, folder: Path | None) -> tuple[Callable[[int], Make], range]:
    return (lambda number: partial(common_words, length=length)), range(COMMON + 1, len(vocabulary()) + 1)


def frequent(tokens: Count, length: int, folder: Path | None) -> tuple[Callable[[int], Make], range]:
    # Below 28 words the third one of the asked would not appear (28 * 4^-2 / zeta(2) = 1.06).
    return (lambda number: partial(frequent_words, length=length)), range(28, SIZES)


def documents(name: str, tokens: Count, length: int, folder: Path | None) -> tuple[Callable[[int], Make], range]:
    collection = read_collection(name, folder)
    least = max(len(question.needed) for question in collection.questions)
    return (lambda number: partial(answer, collection, number)), range(least, len(collection.documents) + 1)


def prose(folder: Path | None) -> list[str]:
    """Words of the essays that RULER hides needles in (``paul_graham_essays.jsonl`` in the user's folder), or of
    Wikipedia, which a pinned package carries."""
    own = "paul_graham_essays"
    if folder is not None and (folder / f"{own}.jsonl").is_file():
        texts = [str(row.get("text", "")) for row in read_rows(own, folder)]
    else:
        texts = [str(row[key]) for row in read_rows("ruler-haystack", None) for key in ("0", "1", "2") if key in row]
    return " ".join(texts).split()


def _task(name: str, maker: Maker, room: int, *, any_answer: bool = False) -> Task:
    return Task(
        name, "generation", _unsized, partial(judge, any_answer=any_answer), max_new_tokens=room,
        conversation=in_conversation, has_examples=False, sized=partial(questions_of_length, name, maker, room),
        examples=EXAMPLES,
    )  # fmt: skip


def _unsized(folder: Path | None) -> list[Question]:
    raise StageError("this task is made for a length and a vocabulary")


RULER: tuple[Task, ...] = (
    *(_task(name, partial(needles, setting), 128) for name, setting in SETTINGS.items()),
    _task("ruler_vt", chains, 30),
    _task("ruler_cwe", common, 120),
    _task("ruler_fwe", frequent, 50),
    *(_task(name, partial(documents, name), 32, any_answer=True) for name in FILES),
)

__all__ = ["RULER", "judge", "prose", "questions_of_length"]
