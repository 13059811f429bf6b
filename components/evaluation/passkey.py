"""Passkey retrieval: can the model copy a number from anywhere in its context? (report, section 5: 1M tokens, 100%)

A key is hidden at a chosen depth of held-out text, and the continuation of "The pass key of NAME is" must be exactly
its digits. Names and numbers of the test never occur in training (``components/data/retrieval.py``).
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from components.data.retrieval import RetrievalDocument, retrieval_document
from model.generation import generate
from model.tokenizer import Tokenizer
from model.transformer import Transformer

MAX_ANSWER_TOKENS = 10


@dataclass(frozen=True)
class PasskeyProblem:
    """``prompt`` token ids of at most ``length`` less the answer; ``answer`` the digits."""

    item: str
    length: int
    depth: float
    prompt: list[int]
    answer: str


def passkey_problems(
    tokenizer: Tokenizer, filler: Sequence[str], lengths: Sequence[int], per_length: int, seed: int, needles: int = 1
) -> list[PasskeyProblem]:
    """``per_length`` problems of each length, their keys at depths spread evenly from start to end.

    ``needles`` keys are hidden at even distances, and one of them is asked for, any one: its depth is not known then.
    """
    problems = []
    for length in lengths:
        for number in range(per_length):
            depth = (number + 0.5) / per_length
            item = f"{length}/{number}"
            draw = f"{seed}-passkey-{item}" if needles == 1 else f"{seed}-{needles}-needles-{item}"
            document, prompt = problem_of_length(tokenizer, filler, length, depth, draw, needles)
            problems.append(PasskeyProblem(item, length, depth, prompt, document.questions[0].answer.strip()))
    return problems


def passkey_outcomes(
    model: Transformer,
    tokenizer: Tokenizer,
    problems: Sequence[PasskeyProblem],
    *,
    advance: Callable[[int], None] = lambda problems: None,
) -> list[bool]:
    """Whether greedy generation gives exactly the digits, for each problem."""
    outcomes: list[bool] = []
    for _, of_length in groupby(problems, key=lambda problem: problem.length):
        batch = list(of_length)
        answers = generate(
            model,
            [problem.prompt for problem in batch],
            max_new_tokens=MAX_ANSWER_TOKENS,
            stop_ids=(tokenizer.eos_id, tokenizer.im_end_id),
            # how a model does beyond its context is part of the question
            context=max(model.config.context_length, max(len(problem.prompt) for problem in batch) + MAX_ANSWER_TOKENS),
        )
        outcomes += [is_right(tokenizer.decode(a.tokens), p.answer) for a, p in zip(answers, batch, strict=True)]
        advance(len(batch))
    return outcomes


def is_right(continuation: str, answer: str) -> bool:
    """The first thing said is the number, no digit less and none more."""
    found = re.match(r"\s*(\d+)", continuation)
    return found is not None and found.group(1) == answer


def sentences(text: str) -> list[str]:
    """Sentences of some length, the filler that keys are hidden in."""
    parts = re.split(r"(?<=[.!?。])\s+", text)
    return [part.strip() for part in parts if 20 <= len(part.strip()) <= 300]


def problem_of_length(
    tokenizer: Tokenizer, filler: Sequence[str], length: int, depth: float, seed: str, needles: int = 1
) -> tuple[RetrievalDocument, list[int]]:
    """The longest document found whose prompt and answer fit ``length`` tokens.

    A generator of the same seed draws the same key and the same place in the filler, so the number of characters can
    be corrected by the tokens that came out.
    """
    depths = [(depth + index / needles) % 1 for index in range(needles)]
    characters, best = 3.0 * length, None
    for _ in range(6):
        document = retrieval_document(
            random.Random(seed), filler, int(characters), needles, 1, side="evaluation", depths=depths
        )
        prompt = tokenizer.encode(document.prompt())
        goal = length - MAX_ANSWER_TOKENS
        if len(prompt) <= goal and (best is None or len(prompt) > len(best[1])):
            best = document, prompt
        if goal * 0.95 <= len(prompt) <= goal:
            break
        characters *= 0.98 * goal / len(prompt)
    # The shortest document holds no more filler than one sentence; if even that is too long it is what there is.
    return best or (document, prompt)
