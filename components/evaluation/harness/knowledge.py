"""MMLU (arXiv 2009.03300) as lm-eval asks it: the question, four lettered options, and the likeliest letter."""

from pathlib import Path

from components.evaluation.harness.data import field, read_rows
from components.evaluation.harness.task import Question, Task
from components.stage import StageError

LETTERS = ("A", "B", "C", "D")


def questions(folder: Path | None) -> list[Question]:
    """The 1,000 questions of the pinned package; its records hold the options in the question, and "Answer:" last."""
    found = []
    for number, row in enumerate(read_rows("mmlu", folder)):
        where = f"mmlu, record {number + 1}"
        text, answer = str(field(row, "question", where)), field(row, "answer", where)
        if "choices" in row:  # the form in which MMLU itself is published
            options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=True)]
            text = "\n".join([text.strip(), *options])
            answer = LETTERS[answer] if isinstance(answer, int) else answer
        if answer not in LETTERS:
            raise StageError(f"{where}: the answer is {answer!r}, not one of A, B, C, D")
        found.append(
            Question(
                id=str(number),
                prompt=text.removesuffix("Answer:").rstrip() + "\nAnswer:",
                target=f" {answer}",
                choices=tuple(f" {letter}" for letter in LETTERS),
                reference=LETTERS.index(answer),
                group=str(row.get("subject", "")),
            )
        )
    return found


MMLU = Task("mmlu", "likelihood", questions)
