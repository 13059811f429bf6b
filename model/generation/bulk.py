"""Answers to many prompts at once, through the engine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from model.generation.engine import Engine
from model.generation.pages import PAGE, fitting_pages
from model.generation.request import Request

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

# Nobody waits for single tokens here: long chunks of prompts cost the fewest steps.
_CHUNK_TOKENS = 2048


@dataclass(slots=True)
class Generation:
    """One answer."""

    tokens: list[int] = field(default_factory=list)
    """New tokens, the stop token included where one came."""
    log_probs: list[float] = field(default_factory=list)
    """log p of each token at the given temperature (1 for greedy), before top-k and top-p cut the tail."""
    finished: bool = False
    """The answer ended by itself: before ``max_new_tokens`` and the context's end."""
    text: str = ""
    """Without the stop string that ended it; empty where no tokenizer was given."""
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    """For each token the likeliest ones and their log p, where ``top_log_probs`` asks for them."""
    asked: list[tuple[float, ...]] = field(default_factory=list)
    """For each token the log p of the tokens of ``log_probs_of``."""


def generate(
    model: "Transformer | Engine", prompts: Sequence[Sequence[int]], *, max_new_tokens: int, seed: int = 0,
    samples_per_prompt: int = 1, batch_rows: int = 256, context: int | None = None,
    tokenizer: "Tokenizer | None" = None, **options: Any,
) -> list[Generation]:  # fmt: skip
    """``samples_per_prompt`` answers to each prompt, in the prompts' order (a prompt's samples are neighbours).

    ``options``: further fields of ``Request`` (temperature, top_p, stop_ids, ...). ``batch_rows``: answers that are
    written at once. Each beginning that prompts share is read once, a whole prompt too, however many answers it gets.
    ``model`` may be an idle engine, which keeps what it has read for the next call; it decides ``batch_rows``,
    ``context`` and ``tokenizer`` itself. ``context``: allow longer texts than the model is made for.
    """
    if samples_per_prompt < 1 or batch_rows < 1:
        raise ValueError(f"samples_per_prompt {samples_per_prompt} and batch_rows {batch_rows} must be at least 1")
    requests: list[Request] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for index, prompt in enumerate(prompts):
        key = tuple(prompt)
        for _ in range(samples_per_prompt):
            try:
                requests.append(
                    Request(prompt=key, max_new_tokens=max_new_tokens, seed=seed, sample=seen[key], **options)
                )
            except ValueError as error:
                raise ValueError(str(error).replace("the prompt", f"prompt {index}", 1)) from None
            seen[key] += 1
    if not requests:
        return []
    if isinstance(model, Engine):
        engine = model
        if engine.busy:
            raise ValueError("generate needs an idle engine: other requests' tokens would be lost")
    else:
        pages = _pages(requests, batch_rows, context or model.config.context_length)
        weight = model.output_weight
        pages = min(pages, fitting_pages(model.config, weight.dtype, weight.device))
        engine = Engine(
            model, tokenizer, max_running=batch_rows, pages=pages, chunk_tokens=_CHUNK_TOKENS, context=context
        )  # fmt: skip
    return run(engine, requests, samples_per_prompt)


def run(engine: Engine, requests: Sequence[Request], samples: int) -> list[Generation]:
    """Add all, step until nothing is left."""
    answers: dict[int, Generation] = {}
    try:
        for index, request in enumerate(requests):
            try:
                answers[engine.add(request)] = Generation()
            except ValueError as error:
                raise ValueError(str(error).replace("the prompt", f"prompt {index // samples}", 1)) from None
        while engine.busy:
            for event in engine.step():
                answer = answers[event.id]
                if event.error is not None:
                    raise ValueError(f"answer {event.id}: {event.error}")
                if event.token is not None:
                    answer.tokens.append(event.token)
                    answer.log_probs.append(event.log_prob)
                if event.top:
                    answer.top.append(event.top)
                if event.asked:
                    answer.asked.append(event.asked)
                answer.text += event.text
                answer.finished = event.finish == "stop"
    finally:
        for id in answers:
            engine.cancel(id)
    return list(answers.values())


def _pages(requests: Sequence[Request], rows: int, context: int) -> int:
    """Pages that the ``rows`` longest answers need together, one more each while a shared page is copied."""
    lengths = (min(len(request.prompt) + request.max_new_tokens, context) for request in requests)
    return sum(sorted(-(-length // PAGE) + 1 for length in lengths)[-rows:])
