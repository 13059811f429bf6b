"""Factory 9, response filtering: a critic and several scorers; only what all of them find flawless stays.

The scorers look at different things: whether the answer is right and its steps hold, the form, repetition, length,
language, refusals and leaked control tokens, and whether the response goes on after its answer. A model is one more
scorer: ``check(candidates, critics=[...])`` takes functions from a prompt and a response to a reason or "".
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from components.sft.factories import mathematics
from components.sft.factories.factory import Candidate, Factory, Verdict, accept, reject
from components.sft.problems import final_answer

Critic = Callable[[str, str], str]
_REFUSAL = re.compile(r"\b(I'm sorry|I cannot|As an AI)\b", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[a-z_]+\|>|</?tool_call>")


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """Mathematics with defects of every kind."""
    problems = mathematics.write(rng, 0.0)
    defects: dict[str, Callable[[str], str]] = {
        "wrong": lambda t: re.sub(r"Answer: .*", "Answer: -7", t),
        "repetition": lambda t: "\n".join([*[t.splitlines()[0]] * 6, *t.splitlines()]),
        "refusal": lambda t: f"I'm sorry, this is hard.\n{t}",
        "control": lambda t: t.replace("\n", "<|im_end|>\n", 1),
        "rambling": lambda t: f"{t}\nIs there anything else that you would like to know?",
        "empty": lambda t: "",
        "language": lambda t: f"首先我们来计算这个问题的答案。\n{t}",
        "length": lambda t: " ".join(f"word{i}" for i in range(900)) + f"\n{t}",
    }
    while True:
        problem = next(problems)
        planted = rng.choice(sorted(defects)) if rng.random() < planted_share else ""
        response = defects[planted](problem.response) if planted else problem.response
        yield Candidate(problem.task, problem.messages, response, problem.answer, {}, planted)


def check(candidates: Sequence[Candidate], critics: Sequence[Critic] = ()) -> list[Verdict]:
    """Every scorer's word on every response; the first that finds a flaw names the reason."""
    verdicts = []
    for candidate in candidates:
        prompt, response = candidate.messages[-1]["content"], candidate.response
        found = {name: scorer(prompt, response) for name, scorer in SCORERS.items()}
        found["correctness"] = mathematics.check(candidate).reason
        found |= {f"critic {number}": critic(prompt, response) for number, critic in enumerate(critics)}
        flaws = {name: reason for name, reason in found.items() if reason}
        if flaws:
            verdicts.append(reject(next(iter(flaws)), flaws=flaws))
        else:
            verdicts.append(accept(scorers=list(found)))
    return verdicts


def _repetition(prompt: str, response: str) -> str:
    lines = Counter(line.strip() for line in response.splitlines() if line.strip())
    return "a line occurs more than three times" if lines and max(lines.values()) > 3 else ""


def _length(prompt: str, response: str) -> str:
    words = len(response.split())
    return "" if 1 <= words <= 600 else f"{words} words"


def _language(prompt: str, response: str) -> str:
    """Letters outside ASCII where the prompt has none."""
    foreign = sum(ord(c) > 0x2E80 for c in response)
    return "another language than the prompt's" if foreign and not any(ord(c) > 0x2E80 for c in prompt) else ""


def _form(prompt: str, response: str) -> str:
    return "" if final_answer(response) is not None else "no answer on the last line"


SCORERS: dict[str, Critic] = {
    "form": _form, "repetition": _repetition, "length": _length, "language": _language,
    "refusal": lambda prompt, response: "refuses" if _REFUSAL.search(response) else "",
    "control tokens": lambda prompt, response: "control token in the text" if _CONTROL.search(response) else "",
}  # fmt: skip

FACTORY = Factory(9, "filtering", write, check)
