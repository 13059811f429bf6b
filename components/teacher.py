"""Language models that judge and write for the data stages, behind one protocol.

``score`` is a distribution, not a drawn word: it reads the probabilities that the model gives to each choice, so a
rating is an expectation and needs one pass a document.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any, Protocol

from components.stage import StageError

if TYPE_CHECKING:
    import httpx

    from model.generation import Generation

KEPT_AT_ONCE = 256
"""Questions to a local model after which its answers are written down."""
Message = dict[str, str]
Scores = dict[str, float]


class Teacher(Protocol):
    """What a stage may ask of a large model. The ``_all`` forms do many prompts at once and keep their order."""

    def complete(self, messages: Sequence[Message], *, max_tokens: int = 512, temperature: float = 0.0) -> str: ...
    def score(self, messages: Sequence[Message], choices: Sequence[str]) -> Scores:
        """Probability of each choice as the answer's first token; they sum to 1."""
        ...

    def complete_all(self, prompts: Sequence[str], *, max_tokens: int = 512) -> list[str]: ...
    def score_all(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]: ...

    usage: "Usage"

    def sample_all(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[list[str]]:
        """``samples`` different answers to each conversation."""
        ...


@dataclass
class Usage:
    """Tokens of all answers of ``sample_all``, those that were kept from before too: what they cost altogether."""

    prompt_tokens: int = 0
    answer_tokens: int = 0


class EndpointTeacher:
    """Any OpenAI-compatible server. Answers are cached on disk by what was asked, so a killed stage asks no question
    twice; the key is read from ``OPENAI_API_KEY``; a spent token budget is an error, never a silent half."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        cache: Path,
        budget_tokens: int,
        concurrency: int = 16,
        transport: "httpx.BaseTransport | None" = None,
    ) -> None:
        import httpx

        key = os.environ.get("OPENAI_API_KEY")
        self.client = httpx.Client(
            base_url=endpoint.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=120,
            transport=transport,
        )
        self.endpoint, self.model, self.cache = endpoint, model, cache
        self.budget_tokens, self.used_tokens = budget_tokens, 0
        self.usage = Usage()
        self.concurrency = concurrency
        self._lock = Lock()
        cache.mkdir(parents=True, exist_ok=True)

    def complete(self, messages: Sequence[Message], *, max_tokens: int = 512, temperature: float = 0.0) -> str:
        reply = self._ask({"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature})
        return str(reply["choices"][0]["message"]["content"])

    def score(self, messages: Sequence[Message], choices: Sequence[str]) -> Scores:
        request = {"messages": list(messages), "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20}
        content = (self._ask(request)["choices"][0].get("logprobs") or {}).get("content")
        if not content:
            raise StageError(f"teacher: {self.endpoint} returns no logprobs for {self.model}; use a server that does")
        masses = dict.fromkeys(choices, 0.0)
        for entry in content[0]["top_logprobs"]:
            token = entry["token"].strip()
            if token in masses:
                masses[token] += math.exp(entry["logprob"])
        return _distribution(masses)

    def complete_all(self, prompts: Sequence[str], *, max_tokens: int = 512) -> list[str]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(lambda prompt: self.complete(_user(prompt), max_tokens=max_tokens), prompts))

    def score_all(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(lambda prompt: self.score(_user(prompt), choices), prompts))

    def sample_all(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[list[str]]:
        requests = [
            {"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature, "seed": seed + sample}
            for messages in conversations
            for sample in range(samples)
        ]
        with ThreadPoolExecutor(self.concurrency) as pool:
            replies = list(pool.map(self._ask, requests))
        for reply in replies:
            said = reply.get("usage") or {}
            self.usage.prompt_tokens += int(said.get("prompt_tokens", 0))
            self.usage.answer_tokens += int(said.get("completion_tokens", 0))
        answers = [str(reply["choices"][0]["message"]["content"] or "") for reply in replies]
        return [answers[start : start + samples] for start in range(0, len(answers), samples)]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        request = {"model": self.model, **request}
        text = json.dumps(request, sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(f"{self.endpoint} {text}".encode()).hexdigest()
        file = self.cache / f"{digest}.json"
        if file.exists():
            return json.loads(file.read_text())
        with self._lock:
            if self.used_tokens >= self.budget_tokens:
                raise StageError(
                    f"teacher: the budget of {self.budget_tokens:,} tokens is spent; raise teacher.budget_tokens "
                    "and run again (what was answered is kept)"
                )
        reply = self._post(request)
        with self._lock:
            self.used_tokens += int(reply.get("usage", {}).get("total_tokens", len(text) // 4))
        # threads may ask equal questions at once
        partial = file.with_suffix(f".{os.getpid()}-{get_ident()}.partial")
        partial.write_text(json.dumps(reply))
        partial.replace(file)
        return reply

    def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        import httpx
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        def passing(error: BaseException) -> bool:
            if isinstance(error, httpx.HTTPStatusError):
                return error.response.status_code in (408, 409, 429) or error.response.status_code >= 500
            return isinstance(error, httpx.TransportError)

        retrying = Retrying(
            retry=retry_if_exception(passing),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            stop=stop_after_attempt(6),
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    response = self.client.post("chat/completions", json=request)
                    response.raise_for_status()
                    return response.json()
        except httpx.HTTPStatusError as error:
            detail = error.response.text[:200]
            raise StageError(f"teacher: {self.endpoint} answers {error.response.status_code}: {detail}") from error
        except httpx.TransportError as error:
            raise StageError(
                f"teacher: cannot reach {self.endpoint}: {error}; start it or set teacher.endpoint"
            ) from error
        raise AssertionError("unreachable")


class CheckpointTeacher:
    """A local Hugging Face model folder through this project's own generation.

    With ``cache`` what ``complete_all`` and ``score_all`` answer is kept there by model and prompt, which holds the
    document: a killed stage asks no question twice.
    """

    def __init__(
        self, folder: Path | None, device: str = "cpu", batch_size: int = 16, cache: Path | None = None
    ) -> None:
        if folder is None or not (folder / "config.json").is_file():
            raise StageError(f"teacher: no checkpoint at {folder}; set teacher.checkpoint to a Hugging Face folder")
        from model.checkpoint import load_model
        from model.generation import Engine
        from model.tokenizer import Tokenizer

        self.tokenizer = Tokenizer.load(folder)
        # one engine for all questions: what their prompts begin with alike is read once
        self.engine = Engine(load_model(folder, device=device).eval(), max_running=batch_size)
        self.cache = cache
        self.usage = Usage()
        self._identity = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(folder.glob("*.*"))]
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)

    def complete(self, messages: Sequence[Message], *, max_tokens: int = 512, temperature: float = 0.0) -> str:
        return self._complete([messages], max_tokens, temperature)[0]

    def score(self, messages: Sequence[Message], choices: Sequence[str]) -> Scores:
        return self._score([messages], choices)[0]

    def complete_all(self, prompts: Sequence[str], *, max_tokens: int = 512) -> list[str]:
        question = ["complete", max_tokens]
        return self._kept(prompts, question, lambda some: self._complete(list(map(_user, some)), max_tokens, 0.0))

    def score_all(self, prompts: Sequence[str], choices: Sequence[str]) -> list[Scores]:
        return self._kept(prompts, ["score", *choices], lambda some: self._score(list(map(_user, some)), choices))

    def sample_all(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> list[list[str]]:
        question = ["sample", samples, max_tokens, temperature, seed]
        kept = self._kept(
            [json.dumps(list(messages), ensure_ascii=False) for messages in conversations], question,
            lambda some: self._sample([json.loads(text) for text in some], samples, max_tokens, temperature, seed),
        )  # fmt: skip
        for answers in kept:
            self.usage.prompt_tokens += samples * answers["prompt_tokens"]
            self.usage.answer_tokens += answers["answer_tokens"]
        return [answers["texts"] for answers in kept]

    def _kept(self, prompts: Sequence[str], question: list[Any], ask: Callable[[list[str]], list[Any]]) -> list[Any]:
        """Answers in the order of the prompts, those that are not kept yet from ``ask``, a few at a time."""
        if self.cache is None:
            return ask(list(prompts))
        facts = [json.dumps([self._identity, question, prompt], ensure_ascii=False) for prompt in prompts]
        files = [self.cache / f"{hashlib.sha256(fact.encode()).hexdigest()}.json" for fact in facts]
        missing = [number for number, file in enumerate(files) if not file.exists()]
        for start in range(0, len(missing), KEPT_AT_ONCE):
            some = missing[start : start + KEPT_AT_ONCE]
            for number, answer in zip(some, ask([prompts[n] for n in some]), strict=True):
                partial = files[number].with_suffix(f".{os.getpid()}.partial")
                partial.write_text(json.dumps(answer), encoding="utf-8")
                partial.replace(files[number])
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    @property
    def _stops(self) -> tuple[int, int]:
        return self.tokenizer.im_end_id, self.tokenizer.eos_id

    def _complete(self, batch: Sequence[Sequence[Message]], max_tokens: int, temperature: float) -> list[str]:
        answers = self._generate(batch, max_new_tokens=max_tokens, temperature=temperature, stop_ids=self._stops)
        return [self.tokenizer.decode(answer.tokens) for answer in answers]

    def _sample(
        self, batch: Sequence[Sequence[Message]], samples: int, max_tokens: int, temperature: float, seed: int
    ) -> list[dict[str, Any]]:
        answers = iter(
            self._generate(
                batch, max_new_tokens=max_tokens, temperature=temperature, stop_ids=self._stops, seed=seed,
                samples_per_prompt=samples,
            )
        )  # fmt: skip
        found = []
        for messages in batch:
            own = [next(answers) for _ in range(samples)]
            found.append({
                "texts": [self.tokenizer.decode(answer.tokens) for answer in own],
                "prompt_tokens": len(self._rendered(messages)),
                "answer_tokens": sum(len(answer.tokens) for answer in own),
            })  # fmt: skip
        return found

    def _score(self, batch: Sequence[Sequence[Message]], choices: Sequence[str]) -> list[Scores]:
        firsts = [self.tokenizer.encode(choice)[0] for choice in choices]
        answers = self._generate(batch, max_new_tokens=1, log_probs_of=firsts)
        masses = [[math.exp(log_prob) for log_prob in answer.asked[0]] for answer in answers]
        return [_distribution(dict(zip(choices, of_prompt, strict=True))) for of_prompt in masses]

    def _generate(self, batch: Sequence[Sequence[Message]], **options: Any) -> "list[Generation]":
        from model.generation import generate

        return generate(self.engine, [self._rendered(messages) for messages in batch], **options)

    def _rendered(self, messages: Sequence[Message]) -> list[int]:
        return self.tokenizer.render_chat(list(messages), add_generation_prompt=True)


def _user(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


def _distribution(masses: Scores) -> Scores:
    """Masses over the choices alone; uniform where the model named none of them."""
    total = sum(masses.values())
    return {choice: mass / total if total else 1 / len(masses) for choice, mass in masses.items()}
