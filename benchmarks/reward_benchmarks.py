"""Hypothesis: a reward model's answers to RewardBench, RMB and PPE are better than those of a rule about length.

With ``--data`` the files of the real benchmarks, which a user has put into a folder (JSON, JSON lines or Parquet, as
published). Without it own held-out sets in the same forms, of a finished recipe: its held-out pairs (RewardBench), and
for each held-out prompt eight answers of its SFT policy, judged by the verifier (PPE best-of-k), from which a right one
and up to three wrong ones are taken (RMB best-of-n). Peers: the longest answer, the shortest answer.

    qwenforge bench reward_benchmarks [--recipe RECIPE] [--model REWARD_MODEL] [--data FOLDER] [--json FILE]
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.preference.reward_benchmarks import Question, Score
    from components.stage import Artifact

RULES: "dict[str, Score]" = {
    "longest": lambda talks: [float(len(talk[-1]["content"])) for talk in talks],
    "shortest": lambda talks: [-float(len(talk[-1]["content"])) for talk in talks],
}
ANSWERS, LOSERS = 8, 3


def main(arguments: list[str] | None = None) -> int:
    """Print accuracy by benchmark and category; write the figures to ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/pocket.toml"))
    parser.add_argument("--model", default="", help="reward model: digest or folder; the recipe's by default")
    parser.add_argument("--data", type=Path, help="folder with files of RewardBench, RMB or PPE")
    parser.add_argument("--limit", type=int, help="questions of each benchmark and category")
    parser.add_argument("--prompts", type=int, default=240, help="held-out prompts that are answered for the own sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args(arguments)
    found = measure_all(given)
    print_found(found)
    if given.json:
        from infra.hardware import describe_host

        given.json.write_text(json.dumps({"host": describe_host(), **found}, indent=1) + "\n")
    return 0


def measure_all(given: argparse.Namespace) -> dict[str, Any]:
    """Of the reward model and of both rules."""
    from components.preference.reward_benchmarks import measure, read_benchmarks
    from components.preference.reward_scoring import load_reward_model, score
    from components.stage import StageError
    from flows.checkpoints import find_checkpoint
    from flows.errors import UsageError
    from flows.recipe import load_whole_recipe
    from flows.resolve import resolve
    from flows.stages import PIPELINE
    from infra.hardware import resolve_device
    from infra.settings import load_settings
    from infra.store import open_store

    settings = load_settings()
    store, device = open_store(settings), resolve_device(settings.device)
    inputs: dict[str, Artifact] = {}
    if not (given.model and given.data):
        recipe = load_whole_recipe(given.recipe, [], "the own held-out sets of the reward model")
        done = {row.stage.id: row.digest for row in resolve(PIPELINE, recipe, recipe.seed, store)}
        needed = {"reward"} if given.data else {"reward", "pairs", "sft", "conversations"}
        if missing := [stage.id for stage in PIPELINE if stage.id in needed and not done[stage.id]]:
            raise UsageError(f"not there yet: {', '.join(missing)}; first: qwenforge run {given.recipe}")
        inputs = {stage: store.open(digest) for stage in needed if (digest := done[stage])}
    folder = (find_checkpoint(given.model, settings, store) if given.model else inputs["reward"]).path
    try:
        model, tokenizer = load_reward_model(folder, device)
        questions = read_benchmarks(given.data, given.limit) if given.data else own_questions(inputs, given, device)
    except (StageError, ValueError, OSError) as error:
        raise UsageError(str(error)) from None
    scorers: dict[str, Score] = {"reward model": lambda talks: score(model, tokenizer, talks), **RULES}
    return {"data": str(given.data or "own"), "found": {name: measure(questions, by) for name, by in scorers.items()}}


def own_questions(inputs: "dict[str, Artifact]", given: argparse.Namespace, device: str) -> "list[Question]":
    """Held-out pairs and answers, as rows of the benchmarks whose form they have."""
    import random

    from components.preference.pair_store import read_pairs
    from components.preference.reward_benchmarks import question_of
    from components.sft.conversation_store import read_conversations
    from components.sft.sampling import judge, sample_answers, spread
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    rng = random.Random(given.seed)
    rows: list[dict[str, Any]] = [
        {"prompt": pair.messages, "chosen": pair.chosen, "rejected": pair.rejected, "subset": pair.task}
        for pair in read_pairs(inputs["pairs"], "heldout")
    ]
    asked = spread(read_conversations(inputs["conversations"], "heldout"), given.prompts)
    policy = inputs["sft"].path
    answered = sample_answers(
        load_model(policy, device), Tokenizer.load(policy), [c.prompt for c in asked], samples=ANSWERS, seed=given.seed
    )
    for talk, answers in zip(asked, answered, strict=True):
        right = {answer.text: judge(talk, answer).correct for answer in answers}
        rows.append(
            {
                "prompt": talk.prompt,
                "benchmark": talk.task,
                "scores": list(right.values()),
                **{f"response_{i}": text for i, text in enumerate(right, 1)},
            }
        )
        good, bad = ([text for text, verdict in right.items() if verdict is wanted] for wanted in (True, False))
        if good and bad:
            rows.append(
                {
                    "conversation_input": talk.prompt,
                    "category_path": f"own/{talk.task}",
                    "bon_best": {"answer": rng.choice(good)},
                    "loser_list": [{"answer": text} for text in rng.sample(bad, min(LOSERS, len(bad)))],
                }
            )
    return [question for row in rows if (question := question_of(row))]


def print_found(found: dict[str, Any]) -> None:
    """A line a benchmark and category; what rules about length reach beside it."""
    from flows.terminal import stdout, table

    rows = []
    ours = found["found"]["reward model"]
    for name, of in ours.items():
        categories = of["categories"] if len(of["categories"]) > 1 else {}
        for category, values in {"": of["accuracy"], **categories}.items():
            beside = []
            for rule in RULES:
                theirs = found["found"][rule][name]
                beside.append(f"{(theirs['categories'][category] if category else theirs['accuracy'])['value']:.1%}")
            share = f"{values['value']:.1%} ({values['low']:.1%} to {values['high']:.1%})"
            rows.append([f"  {category}" if category else name, values["n"], share, *beside])
    columns = {"benchmark": "left", "questions": "right", "answered right": "right", **dict.fromkeys(RULES, "right")}
    stdout().print(table("95% intervals", columns, rows))
    for name, of in ours.items():
        if "pairs" in of:
            by_chance = f"one answer at random is right in {of['any answer']:.1%}"
            print(f"{name}: {of['pairs']['value']:.1%} of (right, wrong) pairs in order; {by_chance}")
        if "sections" in of:
            parts = ", ".join(f"{section} {value:.1%}" for section, value in of["sections"].items())
            print(f"{name}: {parts}" + (f"; score {of['score']:.1%}" if "score" in of else ""))


if __name__ == "__main__":
    raise SystemExit(main())
