"""What is asked of the engine, and what it says while it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Finish = Literal["stop", "length", "error"]
"""``stop``: a stop token, a stop string or the end of a grammar; ``length``: ``max_new_tokens`` or the end of the
context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer to be written. Two requests with equal fields get equal answers, whatever else is in the batch."""

    prompt: Sequence[int]
    """Token ids, at least one."""
    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Keep the fewest tokens that hold this share of the mass (arXiv 1904.09751); 1 keeps all."""
    top_k: int = 0
    """Keep the likeliest; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the text holds, prompt included, are divided by it, or multiplied where negative
    (CTRL, arXiv 1909.05858, section 4.1)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the answer holds."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that the answer holds it."""
    stop_ids: Sequence[int] = ()
    """Tokens that end the answer; the one that came is part of its tokens."""
    stop_strings: Sequence[str] = ()
    """Texts that end the answer, also where they span tokens; they are no part of its text."""
    seed: int = 0
    sample: int = 0
    """Number among the answers to this prompt under this seed: each draws from a random stream of its own."""
    top_log_probs: int = 0
    """How many of the likeliest alternatives to report for each token."""
    log_probs_of: Sequence[int] = ()
    """Tokens whose log p to report at each place, whichever is chosen: the letters of a multiple choice."""
    json_schema: Mapping[str, Any] | str | None = None
    """The answer is JSON that this schema accepts ({"type": "object"}: any object)."""
    regex: str | None = None
    """The answer matches this regular expression as a whole."""
    pooled: bool = False
    """No answer is written: the only event brings the prompt's ``embedding``."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt has no tokens")
        for name, least in (("max_new_tokens", 1), ("sample", 0), ("top_log_probs", 0), ("top_k", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")
        # written so that NaN fails as well
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} is out of range: from 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} is out of range: above 0, at most 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty {self.repetition_penalty} is out of range: above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(getattr(self, name)) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name)} is not a finite number")
        if isinstance(self.stop_strings, str) or not all(self.stop_strings):
            raise ValueError("stop_strings is a list of texts, none of them empty")
        if self.json_schema is not None and self.regex is not None:
            raise ValueError("json_schema and regex exclude each other: give one of them")

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    @property
    def constrained(self) -> bool:
        return self.json_schema is not None or self.regex is not None


@dataclass(frozen=True, slots=True)
class Event:
    """One new token of one request; the last one says why the answer ended."""

    id: int
    """What ``Engine.add`` returned."""
    token: int | None
    """None where an error came before a token, and of a ``pooled`` request."""
    log_prob: float
    """log p of the token under the model's own distribution at the request's temperature (1 for greedy): before
    penalties, grammar, top-k and top-p."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens of the same distribution, likeliest first, with their log p."""
    asked: tuple[float, ...] = ()
    """log p of the request's ``log_probs_of``, in the same distribution."""
    text: str = ""
    """New text, whole characters only; empty where the engine has no tokenizer."""
    finish: Finish | None = None
    stop: int | str | None = None
    """The token or the text that ended the answer."""
    embedding: Sequence[float] | None = None
    """(hidden_size,) the mean over the prompt of the hidden states after the final norm, of a ``pooled`` request."""
    error: str | None = None
    """With ``finish == "error"``: what went wrong with this request (the others go on)."""
