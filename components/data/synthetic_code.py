"""Code: small Python functions composed of known operations, with a docstring and asserts that must run.

The expected values in the asserts come from the operations' meaning (Python callables here), the function's body
from their source text; the sandbox says whether the two agree.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from components.data.candidates import ACCEPTED, Candidate
from components.sandbox.run import run_many

GROUP = 50
"""Functions run by one snippet: they are ours and end, and starting a process costs more than all of them."""


@dataclass(frozen=True)
class Operation:
    """One step: ``words`` for the docstring, ``source`` over ``values``, and what it means."""

    name: str
    words: str
    source: str
    meaning: Callable[[Any, int], Any]


STEPS = (
    Operation(
        "even", "keep the even numbers", "[x for x in values if x % 2 == 0]", lambda v, k: [x for x in v if x % 2 == 0]
    ),
    Operation(
        "odd", "keep the odd numbers", "[x for x in values if x % 2 == 1]", lambda v, k: [x for x in v if x % 2 == 1]
    ),
    Operation(
        "above", "keep the numbers above {k}", "[x for x in values if x > {k}]", lambda v, k: [x for x in v if x > k]
    ),
    Operation(
        "below", "keep the numbers below {k}", "[x for x in values if x < {k}]", lambda v, k: [x for x in v if x < k]
    ),
    Operation(
        "multiples",
        "keep the multiples of {k}",
        "[x for x in values if x % {k} == 0]",
        lambda v, k: [x for x in v if x % k == 0],
    ),
    Operation("squared", "square each number", "[x * x for x in values]", lambda v, k: [x * x for x in v]),
    Operation("shifted", "add {k} to each number", "[x + {k} for x in values]", lambda v, k: [x + k for x in v]),
    Operation("scaled", "multiply each number by {k}", "[x * {k} for x in values]", lambda v, k: [x * k for x in v]),
    Operation("negated", "negate each number", "[-x for x in values]", lambda v, k: [-x for x in v]),
    Operation("sorted", "sort the numbers in rising order", "sorted(values)", lambda v, k: sorted(v)),
    Operation(
        "descending",
        "sort the numbers in falling order",
        "sorted(values, reverse=True)",
        lambda v, k: sorted(v, reverse=True),
    ),
    Operation("reversed", "reverse the order", "values[::-1]", lambda v, k: v[::-1]),
    Operation("unique", "drop repeated numbers", "list(dict.fromkeys(values))", lambda v, k: list(dict.fromkeys(v))),
    Operation("first", "take the first {k}", "values[:{k}]", lambda v, k: v[:k]),
    Operation("last", "take the last {k}", "values[-{k}:]", lambda v, k: v[-k:]),
)
ENDS = (
    Operation("sum", "return their sum", "sum(values)", lambda v, k: sum(v)),
    Operation("count", "return how many there are", "len(values)", lambda v, k: len(v)),
    Operation(
        "maximum",
        "return the largest, or None if there is none",
        "max(values, default=None)",
        lambda v, k: max(v, default=None),
    ),
    Operation(
        "minimum",
        "return the smallest, or None if there is none",
        "min(values, default=None)",
        lambda v, k: min(v, default=None),
    ),
    Operation("numbers", "return the list", "values", lambda v, k: v),
    Operation("text", "return them joined by commas", '",".join(map(str, values))', lambda v, k: ",".join(map(str, v))),
    Operation(
        "range",
        "return the difference of the largest and the smallest, or 0",
        "max(values) - min(values) if values else 0",
        lambda v, k: max(v) - min(v) if v else 0,
    ),
    Operation(
        "average",
        "return their average, or None if there is none",
        "sum(values) / len(values) if values else None",
        lambda v, k: sum(v) / len(v) if v else None,
    ),
)


def write(error_share: float, rng: random.Random) -> Iterator[Candidate]:
    """Endless candidates; in a share of them the body does another step than the docstring says."""
    while True:
        chosen = [*rng.sample(STEPS, rng.choice((1, 2, 2, 3))), rng.choice(ENDS)]
        constants = [rng.randrange(2, 10) for _ in chosen]
        written = list(chosen)
        if rng.random() < error_share:
            place = rng.randrange(len(chosen))
            pool = ENDS if place == len(chosen) - 1 else STEPS
            written[place] = rng.choice([step for step in pool if step.name != chosen[place].name])
        text, agrees = _function(chosen, written, constants, rng)
        yield Candidate(text, "+".join(step.name for step in chosen[:1]), agrees)


def verify(candidates: list[Candidate]) -> list[str]:
    """Run each candidate with its asserts in the sandbox."""
    groups = [candidates[start : start + GROUP] for start in range(0, len(candidates), GROUP)]
    results = run_many([_group_snippet(group) for group in groups], own_code=True, output_bytes=100_000)
    verdicts: list[str] = []
    for group, result in zip(groups, results, strict=True):
        if result.status != "passed":  # one of them took the others along: ask one by one
            singles = run_many([candidate.text for candidate in group], own_code=True)
            verdicts += [ACCEPTED if single.status == "passed" else single.status for single in singles]
        else:
            verdicts += json.loads(result.stdout)
    return verdicts


def _group_snippet(group: list[Candidate]) -> str:
    return "\n".join(
        [
            "import json",
            "verdicts = []",
            f"for source in {[candidate.text for candidate in group]!r}:",
            "    try:",
            "        exec(source, {})",
            f"        verdicts.append({ACCEPTED!r})",
            "    except Exception as error:",
            "        verdicts.append(type(error).__name__)",
            "print(json.dumps(verdicts))",
        ]
    )


def _function(
    chosen: list[Operation], written: list[Operation], constants: list[int], rng: random.Random
) -> tuple[str, bool]:
    """Source text of a function with its asserts, and whether body and meaning agree on the asserted inputs."""
    name = "_".join(dict.fromkeys(part.name for part in [chosen[-1], *chosen[:-1]]))
    words = ", ".join(step.words.format(k=k) for step, k in zip(chosen, constants, strict=True))
    lines = [f"def {name}(values):", f'    """{words[0].upper()}{words[1:]}."""']
    for step, k in zip(written[:-1], constants, strict=False):
        lines.append(f"    values = {step.source.format(k=k)}")
    lines += [f"    return {written[-1].source.format(k=constants[-1])}", "", ""]
    agrees = True
    for _ in range(3):
        values = [rng.randrange(0, 20) for _ in range(rng.randrange(3, 8))]
        expected = _apply(chosen, constants, values)
        agrees = agrees and expected == _apply(written, constants, values)
        lines.append(f"assert {name}({values}) == {expected!r}")
    return "\n".join(lines), agrees


def _apply(steps: list[Operation], constants: list[int], values: list[int]) -> Any:
    result: Any = values
    for step, k in zip(steps, constants, strict=True):
        result = step.meaning(result, k)
    return result
