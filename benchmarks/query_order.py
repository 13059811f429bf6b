"""Hypothesis: queries in order of the variance of their answers' reward reach a pass rate in fewer updates than queries
in a random order (report, section 4.3).

Peer: the same stage, policy, queries and seeds, with the order shuffled. An update takes the next eight queries of the
order, eight answers each, so that updates cost both the same; the pool holds three times as many queries as are used.
Both are measured on the same held-out prompts every few updates; the pass rate that both must reach lies half way from
the policy's own to the best that any run reached. To order the queries takes four answers each before the first update:
that is no update, and is told beside the updates as answers sampled.

    qwenforge bench query_order [--json FILE]
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.post_training import WINDOW, prepare_rl, random_order, rl_inputs, run_in

ORDERS = ("variance", "random")
QUERIES, GROUP, LONGEST, SCORING = 8, 8, 32, 4


def main(arguments: list[str] | None = None) -> int:
    """Print updates to the pass rate, by order and seed; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=32)
    parser.add_argument("--evaluate-every", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=96, help="held out, 4 answers each")
    parser.add_argument("--teach", type=int, default=120, help="updates of fine-tuning before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    given.queries = 3 * QUERIES * given.updates
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare_rl(
            folder, queries=given.queries, teach=given.teach, threads=given.threads, heldout=given.prompts
        )  # fmt: skip
        curves: dict[str, list[list[float]]] = {order: [] for order in ORDERS}  # (seeds, measurements)
        for seed in range(given.seeds):
            for order in ORDERS:
                curves[order].append(_curve(folder, order, seed, given))
    start = float(np.mean([curve[0] for order in ORDERS for curve in curves[order]]))
    best = float(np.max([curve for order in ORDERS for curve in curves[order]]))
    if best <= start:
        raise SystemExit(f"no run rose above the policy's own pass rate of {start:.1%}: raise --teach or --updates")
    goal = (start + best) / 2
    reached = {order: [_updates_to(goal, c, given.evaluate_every) for c in curves[order]] for order in ORDERS}
    saved = np.array(reached["random"]) - np.array(reached["variance"])
    answers = {
        order: [QUERIES * GROUP * count + given.queries * SCORING * (order == "variance") for count in reached[order]]
        for order in ORDERS
    }
    areas = {order: np.mean(curves[order], axis=1) for order in ORDERS}
    gain = areas["variance"] - areas["random"]
    result: dict[str, Any] = {
        "goal": goal,
        "start": start,
        "updates_to_goal": reached,
        "answers_to_goal": answers,
        "updates_saved": float(saved.mean()),
        "updates_saved_interval": _interval(saved),
        "mean_pass_rate": {order: float(values.mean()) for order, values in areas.items()},
        "mean_pass_rate_gain_interval": _interval(gain),
        "curves": curves,
    }
    print(f"from {start:.1%} to a held-out pass rate of {goal:.1%}, seed by seed; {given.updates + 1}: never")
    for order in ORDERS:
        print(f"  {order}: {reached[order]} updates; mean pass rate {result['mean_pass_rate'][order]:.1%}")
        print(f"    {np.mean(answers[order]):,.0f} answers sampled on the way, those for ordering included")
    low, high = result["updates_saved_interval"]
    print(f"variance saves {saved.mean():.1f} updates ({low:.1f} to {high:.1f}, 95%, Student's t over seeds)")
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(json.dumps({"host": describe_host(), **result}, indent=1) + "\n")
    return 0


def _curve(folder: Path, order: str, seed: int, given: argparse.Namespace) -> list[float]:
    """Held-out pass rates, from before the first update on."""
    from components.preference.grpo import GRPOConfig, train_grpo

    config = GRPOConfig(
        steps=given.updates, queries_per_rollout=QUERIES, group_size=GROUP, max_new_tokens=LONGEST,
        sequence_length=WINDOW, learning_rate=2e-4, schedule="constant", warmup_ratio=0.0, advantage_scaling="none",
        reward_model_weight=0.0, scoring_samples=SCORING, evaluate_every=given.evaluate_every,
        evaluation_prompts=given.prompts, checkpoint_every=10 * given.updates,
    )  # fmt: skip
    run = run_in(folder / f"{order}-{seed}")
    run.seed = seed
    if order == "random":  # what stands there is not computed again
        (run.state / "order.json").write_text(json.dumps(random_order(folder, seed)))
    curve = [point["pass_rate"] for point in train_grpo(config, rl_inputs(folder), run)["heldout_curve"]]
    print(f"{order}, seed {seed}: {' '.join(f'{rate:.1%}' for rate in curve)}", flush=True)
    return curve


def _updates_to(goal: float, curve: list[float], every: int) -> int:
    """Updates after which the curve is at ``goal`` for the first time; one more than there were where it never is."""
    found = (step * every for step, rate in enumerate(curve) if rate >= goal)
    return next(found, (len(curve) - 1) * every + 1)


def _interval(values: np.ndarray) -> list[float]:
    """95% interval of the mean."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.inf
    return [float(values.mean() - half), float(values.mean() + half)]


if __name__ == "__main__":
    raise SystemExit(main())
