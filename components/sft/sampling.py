"""Answers of a model to prompts, judged by the verifier: used to build pairs, to reward and to measure."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from components.sft.conversation_store import Conversation
from components.sft.problems import Message, Verdict
from components.sft.tasks import verify
from model.generation import generate
from model.tokenizer import Tokenizer
from model.transformer import Transformer

Tokens = list[int]


@dataclass(frozen=True)
class Answer:
    """One sampled answer. ``tokens`` ends with <|im_end|> where the model ended by itself."""

    text: str
    prompt: Tokens
    tokens: Tokens
    log_probs: list[float]
    finished: bool


def sample_answers(
    model: Transformer, tokenizer: Tokenizer, prompts: list[list[Message]], *, samples: int = 1,
    temperature: float = 1.0, max_new_tokens: int = 64, seed: int = 0,
) -> list[list[Answer]]:  # fmt: skip
    """``samples`` answers to every prompt, in the order of the prompts."""
    encoded = [tokenizer.render_chat(messages) for messages in prompts]
    longest = max(map(len, encoded), default=0) + max_new_tokens
    generations = generate(
        model, encoded, max_new_tokens=max_new_tokens, temperature=temperature,
        stop_ids=(tokenizer.im_end_id, tokenizer.eos_id), seed=seed, samples_per_prompt=samples, batch_rows=512,
        # a base model is asked as well, whose context may be shorter than a task: its answer shows it
        context=max(model.config.context_length, longest),
    )  # fmt: skip
    answers = [
        Answer(tokenizer.decode(g.tokens), encoded[i // samples], g.tokens, g.log_probs, g.finished)
        for i, g in enumerate(generations)
    ]
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]


def judge(conversation: Conversation, answer: Answer) -> Verdict:
    """The verifier's verdict; an answer that the model did not end has failed."""
    if not answer.finished:
        return Verdict(False, False)
    return verify((conversation.task, conversation.answer), answer.text)


@dataclass(frozen=True)
class Outcome:
    """Shares over the samples of each prompt, both (prompts,) float64."""

    correct: np.ndarray
    format: np.ndarray

    def of(self, prompts: slice) -> "Outcome":
        """Of some of the prompts."""
        return Outcome(self.correct[prompts], self.format[prompts])

    def summary(self, conversations: list[Conversation]) -> dict[str, Any]:
        """Means, and correctness by task."""
        tasks = sorted({c.task for c in conversations})
        of_task = {task: [i for i, c in enumerate(conversations) if c.task == task] for task in tasks}
        return {
            "correct": float(self.correct.mean()),
            "format": float(self.format.mean()),
            "correct_by_task": {task: float(self.correct[places].mean()) for task, places in of_task.items()},
        }


def measure(
    model: Transformer, tokenizer: Tokenizer, conversations: list[Conversation], *, samples: int = 1,
    temperature: float = 1.0, max_new_tokens: int = 64, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Verified shares on conversations; greedy where ``temperature`` is 0."""
    answers = sample_answers(
        model, tokenizer, [c.prompt for c in conversations], samples=samples, temperature=temperature,
        max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    return outcome_of(verdicts_of(conversations, answers))


def verdicts_of(conversations: list[Conversation], answers: list[list[Answer]]) -> np.ndarray:
    """(prompts, samples, 2) float64: correct and well-formed, by ``judge``."""
    verdicts = [[judge(c, a) for a in given] for c, given in zip(conversations, answers, strict=True)]
    return np.array(verdicts, dtype=np.float64)


def outcome_of(verdicts: np.ndarray) -> Outcome:
    """Shares over the samples of ``verdicts_of``."""
    return Outcome(verdicts[:, :, 0].mean(1), verdicts[:, :, 1].mean(1))


def spread(conversations: list[Conversation], limit: int) -> list[Conversation]:
    """At most ``limit`` conversations, spread evenly over the list and so over the tasks."""
    if len(conversations) <= limit:
        return conversations
    return [conversations[i * len(conversations) // limit] for i in range(limit)]
