"""Bits per byte of the Python reference (``pydoc_data.topics``), a text that every interpreter carries: a fixed
measure of language modelling that needs no data, is fair to any vocabulary, and moves before any task does."""

from pathlib import Path

from components.evaluation.harness.task import Question, Task

CHARACTERS = 1_200
"""Of each topic: many short documents tell more than a few long ones."""


def questions(folder: Path | None) -> list[Question]:
    """The beginning of each topic, in the order of their names."""
    from pydoc_data.topics import topics

    return [Question(id=name, prompt=topics[name][:CHARACTERS], group="python") for name in sorted(topics)]


PYTHON_REFERENCE = Task("python_reference", "rolling", questions, has_examples=False)
