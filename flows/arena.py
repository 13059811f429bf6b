"""``qwenforge arena A B``: both answer open questions, and a judge says in both orders which answer is better."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.checkpoints import find_checkpoint, readable
from flows.errors import UsageError
from flows.terminal import Display, stdout, table
from infra.hardware import resolve_device
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store

if TYPE_CHECKING:
    from components.evaluation.judging.judges import Judge

BUDGET = 1_000_000_000
"""Tokens that an endpoint may be asked for: as many as the questions take."""


def arena_command(
    first: str, second: str, *, judge: str, model: str = "", questions: Path | None = None, limit: int | None = None,
    max_new_tokens: int = 512, seed: int = 0, output: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Answers of both, verdicts on them, and the first one's win rate with and without style.

    ``judge``: the address of an OpenAI-compatible server (with ``model``), or a reward model of the store.
    """
    from components.evaluation.judging.battles import fight, summary
    from components.evaluation.judging.judges import Duel

    asked = read_questions(questions)[:limit]
    place, display = load_settings(), Display()
    store = open_store(place)
    for name in (first, second):
        find_checkpoint(name, place, store)
    judging = find_judge(judge, model, place, store)
    with display.live():
        answers = [
            answers_of(name, asked, place, store, display, max_new_tokens=max_new_tokens) for name in (first, second)
        ]
        duels = [Duel(*three) for three in zip(asked, *answers, strict=True)]
        with display.progress(2 * len(duels), "judging", unit="verdict") as bar:
            try:
                battles, verdicts = fight(duels, judging, bar.advance)
                found = summary(battles, seed)
            except ValueError as error:
                raise UsageError(f"{judge}: {error}") from None
    found = {"first": first, "second": second, "judge": model or judge, "questions": len(duels), "seed": seed, **found}
    if output is not None:
        rows = [
            {"question": duel.question, "first": duel.first, "second": duel.second, "verdicts": verdict}
            for duel, verdict in zip(duels, verdicts, strict=True)
        ]
        write(output, found, rows)
    return found


def read_questions(file: Path | None) -> list[str]:
    """Of a JSONL file as Arena-Hard publishes it (``prompt``, or ``turns`` with ``content``); IFEval's prompts, which
    are open questions too, where there is none."""
    from components.evaluation.harness.data import parse, read_rows

    if file is None:
        return [str(row["prompt"]) for row in read_rows("ifeval", None)]
    if not file.is_file():
        raise UsageError(f"--questions: there is no file {file}")
    found = []
    for number, row in enumerate(parse(file.read_bytes(), str(file)), 1):
        turns = row.get("turns") or [{}]
        text = row.get("prompt") or (turns[0].get("content") if isinstance(turns[0], dict) else turns[0])
        if not isinstance(text, str) or not text:
            raise UsageError(f"{file}, record {number}: has neither prompt nor turns")
        found.append(text)
    return found


def find_judge(judge: str, model: str, place: Settings, store: ArtifactStore) -> "Judge":
    """What judges. UsageError where it is neither an address nor a reward model."""
    if judge.startswith(("http://", "https://")):
        from components.evaluation.judging.judges import EndpointJudge
        from components.teacher import EndpointTeacher

        if not model:
            raise UsageError("--judge-model: which model of the server judges")
        return EndpointJudge(EndpointTeacher(judge, model, place.home / "judgments", BUDGET))
    artifact = find_checkpoint(judge, place, store)
    if not (artifact.path / "reward.json").is_file():
        raise UsageError(f"--judge: {judge} is neither the address of a server nor a reward model")
    from components.evaluation.judging.judges import RewardJudge
    from components.preference.reward_scoring import load_reward_model

    with readable(judge):
        return RewardJudge(*load_reward_model(artifact.path, resolve_device(place.device)))


def answers_of(
    name: str, questions: Sequence[str], place: Settings, store: ArtifactStore, display: Display, *, max_new_tokens: int
) -> list[str]:
    """Greedy answers of one checkpoint in its template. UsageError where it has none."""
    from components.evaluation.harness.subject import Subject

    with readable(name):
        subject = Subject(find_checkpoint(name, place, store).path, resolve_device(place.device))
    if not subject.tokenizer.has_conversations:
        raise UsageError(f"{name}: open questions need a conversation template, which this checkpoint does not have")
    prompts = [subject.tokenizer.render_chat([{"role": "user", "content": question}]) for question in questions]
    with display.progress(len(prompts), name, unit="answer") as bar:
        return [text for (text,) in subject.write(prompts, max_new_tokens=max_new_tokens, advance=bar.advance)]


def write(folder: Path, found: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """``battles.jsonl`` and, last, ``judging.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, text in (("battles.jsonl", lines), ("judging.json", json.dumps(found, indent=1) + "\n")):
        partial = folder / f"{name}.{os.getpid()}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)


def print_arena(found: dict[str, Any]) -> None:
    """Two win rates and what style was worth."""
    console = stdout()
    console.print(
        f"{found['first']} against {found['second']}, judged by {found['judge']} on {found['questions']} questions in "
        "both orders"
    )
    names = {"win_rate": "win rate", "win_rate_style_controlled": "at equal style"}
    rows = [
        [title, *(f"{100 * found[name][part]:.1f}%" for part in ("value", "low", "high"))]
        for name, title in names.items()
    ]
    console.print(table("95% intervals", {"": "left", "value": "right", "low": "right", "high": "right"}, rows))
    slopes = ", ".join(f"{name} {value:+.2f}" for name, value in found["style"].items())
    console.print(f"what a standard deviation more of it was worth (log odds): {slopes}")
    if found["same_in_both_orders"] is not None:
        console.print(f"same verdict in both orders: {100 * found['same_in_both_orders']:.0f}% of the questions")
    if found["unread_verdicts"]:
        console.print(f"{found['unread_verdicts']} judgments ended without a verdict")


__all__ = ["arena_command", "find_judge", "print_arena", "read_questions"]
