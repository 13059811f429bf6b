"""Hypothesis: SIGKILL at any moment costs nothing but time: the digests are those of an undisturbed run.

Runs a recipe once undisturbed and once with a SIGKILL during each of the named stages (a random moment of the
first seconds that are given with it), in two fresh homes, and compares the digests of all stages.

    qwenforge bench kill_and_resume recipes/pocket.toml --stages quality:10 pretrain:200 grpo:120
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory


def main(given: list[str] | None = None) -> int:
    """Print one line a kill and the comparison; exit code 1 when any digest differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument(
        "--stages", nargs="+", metavar="STAGE:SECONDS", default=["quality:10", "pretrain:200", "grpo:120"]
    )
    parser.add_argument("--set", action="append", default=[], metavar="K=V", dest="overrides")
    parser.add_argument("--undisturbed", type=Path, help="home of a finished run of this recipe, to save one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    command = [sys.executable, "-m", "flows.cli", "run", arguments.recipe, "--json"]
    for override in arguments.overrides:
        command += ["--set", override]

    with TemporaryDirectory() as folder:
        expected = finish(command, arguments.undisturbed or Path(folder) / "undisturbed")
        home = Path(folder) / "killed"
        rng = random.Random(arguments.seed)
        kills = []
        for moment in arguments.stages:
            stage, _, latest = moment.partition(":")
            delay = rng.uniform(0.5, float(latest or 8))
            kills.append({"stage": stage, "after": round(delay, 2), "killed": kill_in(command, home, stage, delay)})
            print(
                f"SIGKILL {delay:.1f} s into {stage}: {'done' if kills[-1]['killed'] else 'it had ended'}", flush=True
            )
        actual = finish(command, home)
    different = sorted(stage for stage in expected if expected[stage] != actual.get(stage))
    result = {"recipe": arguments.recipe, "kills": kills, "stages": len(expected), "different": different}
    print(f"{len(expected) - len(different)} of {len(expected)} stages have the digest of the undisturbed run")
    if arguments.json:
        arguments.json.write_text(json.dumps(result | {"date": datetime.now(UTC).date().isoformat()}, indent=1) + "\n")
    return 1 if different else 0


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "QWENFORGE_HOME": str(home)}


def finish(command: list[str], home: Path) -> dict[str, str]:
    """Run to the end; digests by stage."""
    done = subprocess.run(command, env=environment(home), stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)["stages"]


def kill_in(command: list[str], home: Path, stage: str, delay: float) -> bool:
    """Start, wait until ``stage`` has begun, kill the whole process group ``delay`` seconds later."""
    process = subprocess.Popen(
        command, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(rf"\s*{re.escape(stage)} \(\d+/\d+\)", line):
            time.sleep(delay)
            break
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    return alive


if __name__ == "__main__":
    raise SystemExit(main())
