"""Hypothesis: no request that the API's own schema can produce, valid or broken, gets a 500 or ends the server.

Schemathesis makes the requests from ``/openapi.json`` of a ``qwenforge serve`` process: half of them as the schema
wants them, half that it forbids. Most would be refused for their length or model, so the model is the served one, and
answers are short. Needs ``pip install -e '.[test]'``.

    qwenforge bench fuzz [--cases 2000]          the pocket shape, random weights; CI sends 600
    qwenforge bench fuzz --checkpoint rl         an alias, a digest or a folder
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings")
MODES = ("positive", "negative")
LIMITS = ("max_tokens", "max_completion_tokens")


def main(given: list[str] | None = None) -> int:
    """Print how many answers there were of each status; exit code 1 when one is 500 or above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="requests, over all paths and both kinds")
    parser.add_argument("--checkpoint", default="", help="what is served")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    from benchmarks.serve import random_checkpoint, serving

    began = time.perf_counter()
    found: dict[str, Counter[int]] = {}
    with TemporaryDirectory() as scratch:
        served = arguments.checkpoint or str(random_checkpoint(Path(scratch) / "pocket"))
        home = None if arguments.checkpoint else Path(scratch) / "home"
        with serving(served, arguments.threads, home) as (port, _):
            url = f"http://127.0.0.1:{port}"
            model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
            share = -(-arguments.cases // (len(PATHS) * len(MODES)))
            for path in PATHS:
                for mode in MODES:
                    found[f"{path} {mode}"] = statuses = fuzz(url, path, mode, share, model)
                    print(f"{path:<22} {mode:<9} {sum(statuses.values()):>5} {said(statuses)}", flush=True)
            alive = httpx.get(f"{url}/health").status_code == 200
    total = sum(found.values(), Counter())
    worst = max(total)
    print(f"{sum(total.values()):,} cases in {time.perf_counter() - began:.0f} s: {said(total)}; "
          f"{sum(number for status, number in total.items() if status >= 500)} of 500 or above; "
          f"the server is {'well' if alive else 'gone'}")  # fmt: skip
    if arguments.json:
        result = {"cases": sum(total.values()), "statuses": {name: dict(each) for name, each in found.items()}}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if worst < 500 and alive else 1


def fuzz(url: str, path: str, mode: str, cases: int, model: str, headers: dict[str, str] | None = None) -> Counter[int]:
    """Send about ``cases`` requests of one kind; number of answers by status. The same ones at every call."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.generation import GenerationMode

    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST"]
    statuses: Counter[int] = Counter()

    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    @settings(
        max_examples=cases, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def send(case: Any) -> None:
        if isinstance(case.body, dict):
            # what the schema allows is long or for another model, mostly: let some reach the engine
            case.body |= {"model": model} if "model" in case.body else {}
            case.body |= {name: 2 for name in LIMITS if isinstance(case.body.get(name), int)}
            if "messages" in case.body and not any(map(case.body.get, LIMITS)):
                case.body[LIMITS[-1]] = 2  # or random weights, which never end an answer, fill the context
        statuses[case.call(headers=headers, timeout=600).status_code] += 1

    send()
    return statuses


def said(statuses: Counter[int]) -> str:
    return ", ".join(f"{number} x {status}" for status, number in sorted(statuses.items()))
