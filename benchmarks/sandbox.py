"""Hypothesis: the sandbox adds at most 30 ms to a Python run at the median, with every core kept busy.

Peer: a plain subprocess of the same interpreter, with no isolation and no limits. The programs are HumanEval's 164
reference solutions with their tests; a second round breaks each solution, and all of those must fail.

    qwenforge bench sandbox --runs 200
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from components.sandbox.human_eval import broken_program, program, read_problems
from components.sandbox.job import Limits
from components.sandbox.pool import SandboxPool
from components.sandbox.run import python_job
from infra.hardware import describe_host

LIMITS = Limits(timeout=10)


def main(given: list[str] | None = None) -> int:
    """Print rates, latencies and the verdicts on HumanEval; exit code 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=164, help="programs timed each way")
    parser.add_argument("--turns", type=int, default=4, help="parts of the runs, in which the two ways take turns")
    parser.add_argument("--workers", type=int, help="programs at a time; as many as there are cores by default")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)

    problems = read_problems()
    with SandboxPool(arguments.workers) as pool:
        right = [result.status for result in pool.map(python_job(program(p), LIMITS) for p in problems)]
        wrong = [result.status for result in pool.map(python_job(broken_program(p), LIMITS) for p in problems)]
        sources = [program(problems[i % len(problems)]) for i in range(arguments.runs)]
        size = -(-len(sources) // arguments.turns)
        plain: list[float] = []
        boxed: list[float] = []
        rates: dict[str, list[float]] = {"plain": [], "sandbox": []}
        for start in range(0, len(sources), size):
            part = sources[start : start + size]
            for name, seconds, times in (
                ("plain", *timed(part, pool.workers, run_plainly)),
                ("sandbox", *timed(part, pool.workers, lambda source: pool.run(python_job(source, LIMITS)))),
            ):
                (plain if name == "plain" else boxed).extend(times)
                rates[name].append(len(part) / seconds)
    overheads = [b - p for b, p in zip(boxed, plain, strict=True)]
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(), "host": describe_host(), "isolation": pool.isolation,
        "workers": pool.workers, "runs": len(sources),
        "references passed": right.count("passed"), "broken failed": sum(status != "passed" for status in wrong),
        "problems": len(problems),
        "runs/s": {name: median(values) for name, values in rates.items()},
        "milliseconds a run": {
            name: [1000 * q for q in quantiles(times, n=4)] for name, times in (("plain", plain), ("sandbox", boxed))
        },
        "overhead in milliseconds at the median": 1000 * median(overheads),
    }  # fmt: skip
    for name, value in result.items():
        print(f"{name}: {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    correct = result["references passed"] == result["broken failed"] == len(problems)
    return 0 if correct and result["overhead in milliseconds at the median"] <= 30 else 1


def timed(sources: list[str], workers: int, run: Any) -> tuple[float, list[float]]:
    """Wall clock of all, and of each, in seconds, with ``workers`` at a time."""

    def one(source: str) -> float:
        begin = time.perf_counter()
        run(source)
        return time.perf_counter() - begin

    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        times = list(threads.map(one, sources))
    return time.perf_counter() - begin, times


def run_plainly(source: str) -> None:
    """The peer: the same interpreter and flags, the source as it is."""
    subprocess.run([sys.executable, "-I", "-S", "-c", source], capture_output=True, timeout=30, check=False)


if __name__ == "__main__":
    raise SystemExit(main())
