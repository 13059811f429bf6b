"""What a benchmark is: questions, the form in which they are asked, and a judge of the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.stage import StageError
from model.tokenizer import Tokenizer

Kind = Literal["likelihood", "generation", "rolling"]
"""``likelihood``: the likeliest of given continuations is the answer; ``generation``: the answer is written;
``rolling``: a whole text is predicted token by token."""


@dataclass(frozen=True)
class Question:
    """One item of a benchmark."""

    id: str
    """Equal in every evaluation, so that any two can be compared."""
    prompt: str
    """What is asked; of a ``rolling`` task, the text itself."""
    target: str = ""
    """The right answer as it would follow ``prompt`` in running text, its leading space or line break included; what
    a question shows where it is one of the examples."""
    choices: tuple[str, ...] = ()
    """Of a ``likelihood`` task: the continuations."""
    reference: Any = None
    """What the judge needs; of a ``likelihood`` task, the index of the right choice."""
    group: str = ""
    system: str = ""
    """System message in a conversation; leads the text otherwise."""
    prefix: str = ""
    """How the answer begins in a conversation: it is given, not generated."""
    tools: tuple[dict[str, Any], ...] = ()
    """Functions that may be called; conversations only."""
    length: int = 0
    """Of a task that is made for a length of context: that length in tokens, which may be beyond the model's own."""


Scores = list[dict[str, float]]
"""For each question ``{metric: score}``, averaged over the samples of its answer."""


@dataclass(frozen=True)
class Task:
    """``load(folder)``: its questions, from the user's ``folder`` or a pinned package. ``judge(questions, answers)``:
    the scores of (questions, samples) written answers."""

    name: str
    kind: Kind
    load: Callable[[Path | None], list[Question]]
    judge: Callable[[Sequence[Question], Sequence[Sequence[str]]], Scores] | None = None
    until: tuple[str, ...] = ()
    """Texts that end an answer."""
    max_new_tokens: int = 256
    conversations_only: bool = False
    conversation: Callable[[Question], Question] = lambda question: question
    """How a question is put in a conversation, where that differs."""
    has_examples: bool = True
    """A right answer is known, so that questions can be shown with theirs."""
    sized: Callable[[Tokenizer, int, int, Path | None], list[Question]] | None = None
    """``sized(tokenizer, length, count, folder)``: questions made for a length of context; ``load`` is not called."""
    examples: int = 0
    """Questions of each length, where no limit is given."""


@dataclass(frozen=True)
class Form:
    """How questions are put: after ``examples``, as running text or as a conversation in the checkpoint's template."""

    examples: tuple[Question, ...] = ()
    chat: bool = False


def prompt_tokens(tokenizer: Tokenizer, question: Question, form: Form) -> list[int]:
    """The ids of everything that comes before the answer."""
    if not form.chat:
        return tokenizer.encode(running_text(question, form.examples))
    messages: list[dict[str, Any]] = [{"role": "system", "content": question.system}] if question.system else []
    for example in form.examples:
        messages.append({"role": "user", "content": example.prompt})
        messages.append({"role": "assistant", "content": example.prefix + example.target.strip()})
    messages.append({"role": "user", "content": question.prompt})
    ids = tokenizer.render_chat(messages, tools=list(question.tools) or None)
    return ids + tokenizer.encode(question.prefix) if question.prefix else ids


def running_text(question: Question, examples: Sequence[Question]) -> str:
    """Examples with their answers, a blank line after each, and the question (lm-eval's form without a template)."""
    shown = "".join(f"{example.prompt}{example.target}\n\n" for example in examples)
    return (f"{question.system}\n\n" if question.system else "") + shown + question.prompt


def choice_tokens(tokenizer: Tokenizer, question: Question, form: Form) -> list[tuple[list[int], list[int]]]:
    """(ids before, ids of the choice) for each choice, cut as lm-eval cuts them: a space between the two belongs to
    the choice in running text; an answer in a conversation has none before it."""
    before = prompt_tokens(tokenizer, question, form)
    if form.chat:
        return [(before, tokenizer.encode(choice.strip())) for choice in question.choices]
    text = running_text(question, form.examples)
    return [split_pair(tokenizer, text, choice) for choice in question.choices]


def split_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Ids of ``context`` and of what ``continuation`` adds to them; spaces at the seam go to the continuation."""
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    whole, before = tokenizer.encode(kept + continuation), tokenizer.encode(kept)
    return before, whole[len(before) :]


def take_examples(task: Task, questions: list[Question], shots: int) -> tuple[tuple[Question, ...], list[Question]]:
    """The first ``shots`` questions as examples, and the others, which remain to be asked."""
    if shots and not task.has_examples:
        raise StageError(f"task {task.name}: it has no written answers to show, so it is asked without examples")
    if shots >= len(questions):
        raise StageError(f"task {task.name}: {shots} examples leave none of its {len(questions)} questions to ask")
    return tuple(questions[:shots]), questions[shots:]


__all__ = [
    "Form", "Kind", "Question", "Scores", "Task", "choice_tokens", "prompt_tokens", "running_text", "split_pair",
    "take_examples",
]  # fmt: skip
