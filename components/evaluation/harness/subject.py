"""The checkpoint that is asked: log-likelihoods of given continuations, and written answers."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import load_model
from model.generation import Engine, generate
from model.tokenizer import Tokenizer

ROWS = 32
"""Answers written at once, on a CPU."""
AT_A_TIME = 4 * ROWS
"""Answers handed to the engine at a time: enough to keep it busy while some of them end, and a bar moving."""
BATCH_TOKENS = 2_048
"""Most tokens of one forward pass where continuations of several tokens are scored."""
LOGITS = 16 * 1024 * 1024
"""Most logits held at once (elements)."""

HELD = 64 * 1024
"""Tokens of all texts together that are held at once where they are longer than the model's context."""
TEMPLATE = 64
"""Tokens that a conversation puts around a text."""

Tokens = Sequence[int]
Advance = Callable[[int], None]


class Subject:
    """A checkpoint with its tokenizer. Prompts that are too long lose their beginning, as in lm-eval; ``truncated``
    counts them."""

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        self.model = load_model(Path(folder), device=device).eval()
        self.tokenizer = Tokenizer.load(folder)
        self.context = self.model.config.context_length
        self.trained = self.model.config.max_position_embeddings
        self.truncated = 0
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """One for all tasks: beginnings that prompts share (the examples) are read once."""
        if self._engine is None:
            rows = ROWS if self.model.output_weight.device.type == "cpu" else 8 * ROWS
            beyond = self.context if self.context > self.model.config.context_length else None
            if beyond:
                rows = max(1, min(rows, HELD // beyond))
            self._engine = Engine(self.model, self.tokenizer, max_running=rows, chunk_tokens=2_048, context=beyond)
        return self._engine

    @contextmanager
    def reaching(self, length: int) -> Iterator[None]:
        """Inside, texts of ``length`` tokens are read in their template, although the model's own context may be
        shorter; 0: nothing changes."""
        own, engine = self.context, self._engine
        if not length or length + TEMPLATE <= own:
            yield
            return
        self.context, self._engine = length + TEMPLATE, None
        try:
            yield
        finally:
            self.context, self._engine = own, engine

    # ---- likelihood -------------------------------------------------------------------------------------

    def log_likelihoods(
        self, pairs: Sequence[tuple[Tokens, Tokens]], advance: Advance = lambda done: None
    ) -> list[tuple[float, bool]]:
        """For each (context, continuation) of token ids, neither empty: log p of the continuation, and whether greedy
        generation would write it.

        Continuations of one token (letters) of the same context cost one reading of it, and what contexts share is
        read once; longer ones are scored by a forward pass each.
        """
        results: dict[int, tuple[float, bool]] = {}
        single: dict[tuple[int, ...], list[int]] = defaultdict(list)
        longer: list[int] = []
        for index, (context, continuation) in enumerate(pairs):
            if not context or not continuation:
                raise ValueError(f"pair {index}: context and continuation need at least one token each")
            if len(continuation) == 1 and len(context) < self.context:  # the engine keeps a place for its own token
                single[tuple(context)].append(index)
            else:
                longer.append(index)
        self._score_single(single, pairs, results, advance)
        self._score_longer(longer, pairs, results, advance)
        return [results[index] for index in range(len(pairs))]

    def _score_single(
        self, groups: dict[tuple[int, ...], list[int]], pairs: Sequence[tuple[Tokens, Tokens]],
        results: dict[int, tuple[float, bool]], advance: Advance,
    ) -> None:  # fmt: skip
        by_choices: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
        for context, members in groups.items():
            by_choices[tuple(pairs[index][1][0] for index in members)].append(context)
        for choices, contexts in by_choices.items():
            answers = generate(self.engine, contexts, max_new_tokens=1, log_probs_of=choices)
            for context, answer in zip(contexts, answers, strict=True):
                for index, token, value in zip(groups[context], choices, answer.asked[0], strict=True):
                    results[index] = (value, token == answer.tokens[0])
            advance(len(contexts) * len(choices))

    @torch.inference_mode()
    def _score_longer(
        self, members: list[int], pairs: Sequence[tuple[Tokens, Tokens]],
        results: dict[int, tuple[float, bool]], advance: Advance,
    ) -> None:  # fmt: skip
        """Texts of about the same length share a forward pass; padding stands after them, where attention does not
        look back from."""
        texts = {}
        for index in members:
            context, continuation = pairs[index]
            continuation = continuation[-self.context :]
            texts[index] = ([*self._fit(context, len(continuation) - 1), *continuation], len(continuation))
        waiting = sorted(members, key=lambda index: len(texts[index][0]))
        while waiting:
            width = len(texts[waiting[-1]][0]) - 1  # the last token predicts nothing
            count = max(1, BATCH_TOKENS // width)
            batch, waiting = waiting[-count:], waiting[:-count]
            inputs = torch.zeros(len(batch), width, dtype=torch.long)
            for row, index in enumerate(batch):
                tokens = texts[index][0][:-1]
                inputs[row, : len(tokens)] = torch.tensor(tokens)
            hidden = self.model(inputs.to(self.model.output_weight.device))  # (B, T, H)
            for row, index in enumerate(batch):
                tokens, size = texts[index]
                states = hidden[row, len(tokens) - 1 - size : len(tokens) - 1]
                results[index] = self._continuation(states, torch.tensor(tokens[-size:], device=hidden.device))
            advance(len(batch))

    def _continuation(self, states: Tensor, targets: Tensor) -> tuple[float, bool]:
        """``states`` (T, H) predict ``targets`` (T,)."""
        total, greedy = 0.0, True
        step = max(1, LOGITS // self.model.config.vocab_size)
        for begin in range(0, len(targets), step):
            logits = (states[begin : begin + step] @ self.model.output_weight.T).float()
            wanted = targets[begin : begin + step]
            chosen = logits.gather(1, wanted[:, None])[:, 0]
            total += float((chosen - logits.logsumexp(1)).double().sum())
            greedy = greedy and bool((logits.argmax(1) == wanted).all())
        return total, greedy

    def rolling(self, texts: Sequence[str], advance: Advance = lambda done: None) -> list[float]:
        """log p of each whole text after an end-of-text token, in windows that overlap by one token where it is longer
        than the context; 0.0 for an empty one."""
        pairs: list[tuple[Tokens, Tokens]] = []
        owners: list[int] = []
        for index, text in enumerate(texts):
            ids = self.tokenizer.encode(text)
            before = [self.tokenizer.eos_id]
            for begin in range(0, len(ids), self.context):
                part = ids[begin : begin + self.context]
                if begin and len(part) < self.context:  # as much context as there is room for
                    before = ids[begin + len(part) - self.context - 1 : begin]
                pairs.append((before, part))
                owners.append(index)
                before = part[-1:]
        totals = [0.0] * len(texts)
        for index, (value, _) in zip(owners, self.log_likelihoods(pairs, advance), strict=True):
            totals[index] += value
        return totals

    # ---- generation -------------------------------------------------------------------------------------

    def write(
        self, prompts: Sequence[Tokens], *, max_new_tokens: int, until: Sequence[str] = (), temperature: float = 0.0,
        top_p: float = 1.0, samples: int = 1, seed: int = 0, advance: Advance = lambda done: None,
    ) -> list[list[str]]:  # fmt: skip
        """``samples`` answers to each prompt, without the text of ``until`` that ended them."""
        stops = tuple({self.tokenizer.im_end_id, self.tokenizer.eos_id})
        room = min(max_new_tokens, self.context // 2)
        answers: list[list[str]] = []
        step = max(1, AT_A_TIME // samples)
        fitted = [self._fit(prompt, room) for prompt in prompts]
        for begin in range(0, len(fitted), step):
            part = fitted[begin : begin + step]
            written = generate(
                self.engine, part, max_new_tokens=room, samples_per_prompt=samples, temperature=temperature,
                top_p=top_p, seed=seed, stop_ids=stops, stop_strings=tuple(until),
            )  # fmt: skip
            answers += [[one.text for one in written[i : i + samples]] for i in range(0, len(written), samples)]
            advance(len(part))
        return answers

    def _fit(self, context: Tokens, room: int) -> Tokens:
        """The end of ``context`` that leaves ``room`` for what follows."""
        most = max(1, self.context - room)
        if len(context) > most:
            self.truncated += 1
            return context[len(context) - most :]
        return context


__all__ = ["Subject", "Tokens"]
