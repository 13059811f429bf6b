"""Factory 4, instruction following: instruction, verification code and unit tests that cross-validate.

The writer gives an instruction (families after IFEval, arXiv 2311.07911), the source of a verifier for it, unit tests
for that verifier, and a response. In the sandbox the verifier must agree with every unit test, the tests must hold
a case of either kind, and only then does the verifier's word on the response count.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.sandbox.job import Limits
from components.sandbox.pool import SandboxPool, shared_pool
from components.sandbox.run import python_job
from components.sft.factories.factory import Candidate, Factory, Verdict, accept, reject
from components.sft.problems import WORDS, user

LIMITS = Limits(timeout=10)
TOPIC = 5
"""Words that the texts of a record are made of."""


@dataclass(frozen=True)
class Demand:
    """One instruction with the body of ``def check(text)``, and texts that keep and break it."""

    name: str
    instruction: str
    verifier: str
    keep: tuple[str, ...]
    breach: tuple[str, ...]
    slip: tuple[str, str]
    """Part of the verifier and what a careless writer puts there; the unit tests must notice."""


def demands(rng: random.Random, topic: list[str]) -> list[Demand]:
    """One of each family, with fresh numbers and words; the texts are made of the five words of ``topic``."""
    n, word, other = rng.randrange(2, 5), *rng.sample([w for w in WORDS if w not in topic], 2)
    line = " ".join(topic)
    sentences = [f"The {topic[i % 5]} is near the {topic[(i + 1) % 5]}." for i in range(n + 1)]
    bullets = [f"* {topic[i % 5]}" for i in range(n + 1)]
    paragraphs = [f"About the {topic[i % 5]}." for i in range(n + 1)]
    return [
        Demand("sentences", f"Write exactly {n} sentences.", f"return text.count('.') == {n}",
               (" ".join(sentences[:n]),), (" ".join(sentences[: n - 1]), " ".join(sentences)), ("==", ">=")),
        Demand("bullets", f"Answer with exactly {n} bullet points, each on a line that begins with '* '.",
               f"return sum(l.startswith('* ') for l in text.splitlines()) == {n}",
               ("\n".join(bullets[:n]),), ("\n".join(bullets), line), ("==", "<=")),
        Demand("keyword", f"Use the word {word} at least {n} times.",
               f"return text.lower().split().count('{word}') >= {n}",
               (" ".join([word] * n), f"{line} " + " ".join([word] * (n + 1))), (" ".join([word] * (n - 1)), line),
               (">=", ">")),
        Demand("forbidden", f"Do not use the word {word}.", f"return '{word}' not in text.lower().split()",
               (line, f"{word}s {line}"), (f"{line} {word}", word.upper()), (".lower()", "")),
        Demand("lower case", "Write in lower case only.", "return text == text.lower() and bool(text.strip())",
               (line,), (line.title(), line.upper(), " "), ("and bool(text.strip())", "")),
        Demand("ending", f"End with the words 'and {word} {other}'.",
               f"return text.rstrip().endswith('and {word} {other}')",
               (f"{line} and {word} {other}", f"{line} and {word} {other}\n"), (f"and {word} {other} {line}",),
               (".rstrip()", "")),
        Demand("length", f"Use at most {n + 4} words.", f"return len(text.split()) <= {n + 4}",
               (" ".join((topic * 2)[: n + 4]), line), (" ".join((topic * 3)[: n + 5]),), ("<=", "<")),
        Demand("json", f"Answer with a JSON object with the single key {word}.",
               f"import json\n    try:\n        return list(json.loads(text)) == ['{word}']\n    except ValueError:\n"
               "        return False", (json.dumps({word: line}),), (json.dumps({other: line}), line, '{"' + word),
               ("except ValueError:\n        return False", "except KeyError:\n        return False")),
        Demand("title", "Give a title in double angular brackets, such as <<title>>, on the first line.",
               "first = text.splitlines()[0] if text else ''\n    return first.startswith('<<') and "
               "first.endswith('>>')",
               (f"<<{line}>>\n{word}",), (line, "", f"{word}\n<<{line}>>"), ("if text else ''", "")),
        Demand("paragraphs", f"Write {n} paragraphs with a blank line between.",
               f"return len([p for p in text.split('\\n\\n') if p.strip()]) == {n}",
               ("\n\n".join(paragraphs[:n]),), ("\n\n".join(paragraphs), "\n".join(paragraphs[:n])),
               ("'\\n\\n'", "'\\n'")),
    ]  # fmt: skip


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """A planted error is a wrong verifier or a response that breaks the instruction."""
    while True:
        topic = rng.sample(WORDS, TOPIC)
        demand = rng.choice(demands(rng, topic))
        planted = rng.choice(("verifier", "response")) if rng.random() < planted_share else ""
        body = demand.verifier.replace(*demand.slip) if planted == "verifier" else demand.verifier
        tests = [[text, True] for text in demand.keep] + [[text, False] for text in demand.breach]
        response = rng.choice(demand.breach if planted == "response" else demand.keep)
        facts = {"verifier": f"def check(text):\n    {body}\n", "tests": tests}
        prompt = f"Write something with words such as {', '.join(topic)}. {demand.instruction}"
        yield Candidate(demand.name, user(prompt), response, demand.name, facts, planted)


def check(candidates: Sequence[Candidate], pool: SandboxPool | None = None) -> list[Verdict]:
    """Run each verifier on its unit tests and on the response."""
    jobs = (python_job(_program(candidate), LIMITS) for candidate in candidates)
    verdicts = []
    for candidate, result in zip(candidates, (pool or shared_pool()).map(jobs), strict=True):
        if result.status != "passed":
            verdicts.append(reject(f"verifier {result.status}", stderr=result.stderr[-200:]))
            continue
        said = json.loads(result.stdout)
        expected = [holds for _, holds in candidate.facts["tests"]]
        agreed = sum(a is b for a, b in zip(said["tests"], expected, strict=True))
        facts = {"unit_tests": len(expected), "agreed": agreed, "response": said["response"]}
        if set(expected) != {True, False}:
            verdicts.append(reject("tests of one kind", **facts))
        elif agreed < len(expected):
            verdicts.append(reject("verifier and tests disagree", **facts))
        elif said["response"] is not True:
            verdicts.append(reject("instruction not followed", **facts))
        else:
            verdicts.append(accept(**facts, verifier=candidate.facts["verifier"]))
    return verdicts


def _program(candidate: Candidate) -> str:
    texts = [text for text, _ in candidate.facts["tests"]]
    return (
        f"{candidate.facts['verifier']}\nimport json\n"
        f"tests = [check(text) for text in {texts!r}]\n"
        f"print(json.dumps({{'tests': tests, 'response': check({candidate.response!r})}}))"
    )


FACTORY = Factory(4, "instructions", write, check)
