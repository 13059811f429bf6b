"""Answers that must be JSON of a schema, or match a regular expression, through llguidance.

Chosen among the maintained libraries because it compiles nothing ahead (a mask costs tens of microseconds from the
first token on, where index-building ones take seconds a schema at 151,936 tokens), and is 8 MB without dependencies.
"""

import json
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from torch import Tensor

from model.generation.request import Request
from model.tokenizer import Tokenizer

# Unbounded blanks between JSON tokens are what small models fall into and never leave.
_JSON_OPTIONS = {"whitespace_pattern": r"[ \n]{0,16}"}


class GrammarError(ValueError):
    """A schema or expression that cannot be compiled, or that got stuck."""


class Grammars:
    """What all grammars of one tokenizer share; building it reads the whole vocabulary once."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        """``rows``: of the model's vocabulary, which may be larger than the tokenizer's."""
        self.rows = rows
        self.ends = (tokenizer.im_end_id, tokenizer.eos_id)
        """Tokens that are allowed, and end the answer, where the grammar is satisfied."""
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), eos_token=list(self.ends))

    def start(self, request: Request) -> "Grammar":
        """The state of a new answer; GrammarError where schema or expression is bad."""
        if request.regex is not None:
            kind, source = "regex", LLMatcher.grammar_from_regex(request.regex)
        else:
            kind, schema = "json_schema", request.json_schema
            try:
                text = schema if isinstance(schema, str) else json.dumps(schema)
                source = LLMatcher.grammar_from_json_schema(text, defaults=_JSON_OPTIONS)  # type: ignore[arg-type]
            except (ValueError, TypeError) as error:
                raise GrammarError(f"{kind} is not a JSON schema: {_first_line(error)}") from error
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"{kind} cannot be compiled: {_first_line(matcher.get_error())}")
        return Grammar(matcher, self.rows, self.ends)


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher, rows: int, ends: tuple[int, ...]) -> None:
        self._matcher, self._rows, self.ends = matcher, rows, ends

    def allowed(self) -> Tensor:
        """(V,) bool: tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.zeros(self._rows, bool)
        known = np.unpackbits(bits, bitorder="little")[: self._rows]
        allowed[: len(known)] = known
        if self._matcher.is_error() or not allowed.any():
            raise GrammarError(f"the grammar allows no token: {_first_line(self._matcher.get_error())}")
        return torch.from_numpy(allowed)

    def accept(self, token: int) -> bool:
        """Take the token that was chosen; whether the answer is complete now."""
        if token in self.ends:
            return True
        if not self._matcher.consume_token(token):
            raise GrammarError(f"the grammar got stuck: {_first_line(self._matcher.get_error())}")
        return self._matcher.is_stopped()


class _Vocabulary:
    """The tokenizer as the library wants to see it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.im_end_id, None
        self.tokens = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        self.special_token_ids = list(tokenizer.control.values())
        self._tokenizer = tokenizer

    def __call__(self, text: Any) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]
