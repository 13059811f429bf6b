"""Benchmarks of reward models (report, section 5): RewardBench, RewardBench 2, RMB and PPE from local files.

Files are JSON, JSON lines or Parquet as their authors publish them; a row is known by its keys. Every row becomes one
question with several answers, of which some are right.

============================  ==================================================  ===================================
benchmark                     row                                                 what counts
============================  ==================================================  ===================================
RewardBench (2403.13787)      prompt, chosen, rejected, subset                    chosen above rejected
RewardBench 2 (2506.01937)    prompt, chosen [..], rejected [..], subset          a chosen one above all (*)
RMB pairs (2410.09893)        conversation_input, chosen, reject, category_path   chosen above reject
RMB best-of-n                 conversation_input, bon_best, loser_list            the best above all others
PPE human (2410.14872)        prompt, response_1, response_2, winner              the winner above the other
PPE best-of-k                 prompt, response_1 .. response_k, scores            a right one on top; right above wrong
============================  ==================================================  ===================================

(*) In the subset Ties, where several are right, each of them above each wrong one.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluation.statistics import mean, proportion
from components.sft.problems import Message
from components.stage import StageError

Score = Callable[[list[list[Message]]], list[float]]
"""Scores of conversations that end with an answer."""


@dataclass(frozen=True)
class Question:
    """A prompt, its answers, and which of them are right."""

    benchmark: str
    category: str
    messages: list[Message]
    answers: list[str]
    right: list[bool]
    pairs: list[tuple[int, int]]
    """Indices (better, worse) that are compared; empty: the best answer alone counts."""

    @property
    def conversations(self) -> list[list[Message]]:
        """One an answer."""
        return [[*self.messages, {"role": "assistant", "content": answer}] for answer in self.answers]


# -- reading ----------------------------------------------------------------------------------------------------


def read_benchmarks(folder: Path, limit: int | None = None) -> list[Question]:
    """Questions of all files below ``folder``, at most ``limit`` of each benchmark and category.

    StageError for a folder without any, and for a row that no benchmark has.
    """
    files = sorted(path for ending in ("json", "jsonl", "parquet") for path in folder.rglob(f"*.{ending}"))
    found: list[Question] = []
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for path in files:
        for number, row in enumerate(_rows(path), 1):
            try:
                question = question_of(row)
            except (KeyError, TypeError, ValueError) as error:
                raise StageError(f"{path}, row {number}: not as RewardBench, RMB or PPE have it ({error})") from None
            if question is None:
                continue
            key = (question.benchmark, question.category)
            counts[key] += 1
            if limit is None or counts[key] <= limit:
                found.append(question)
    if not found:
        raise StageError(f"{folder}: no questions of RewardBench, RMB or PPE in its .json, .jsonl and .parquet files")
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=500):
                yield from batch.to_pylist()
        return
    lines = path.suffix == ".jsonl"
    try:
        text = path.read_text(encoding="utf-8")
        values = [json.loads(line) for line in text.splitlines() if line] if lines else json.loads(text)
    except ValueError as error:
        raise StageError(f"{path}: no valid {path.suffix[1:].upper()} ({error})") from None
    if isinstance(values, dict) and values and all(isinstance(column, dict) for column in values.values()):
        # a table by columns, as pandas writes one
        values = [{name: column[key] for name, column in values.items()} for key in next(iter(values.values()))]
    if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
        raise StageError(f"{path}: expected a list of rows")
    yield from values


def question_of(row: dict[str, Any]) -> Question | None:
    """The question of a row; None for one that decides nothing (a tie, answers that are all right or all wrong).

    ValueError, TypeError or KeyError for a row of none of the benchmarks.
    """
    if "bon_best" in row or "pair_uid" in row:
        return _rmb(row)
    if "response_1" in row:
        return _ppe(row)
    if {"prompt", "chosen", "rejected"} <= row.keys():
        several = not isinstance(row["chosen"], str)
        better, worse = (list(row[side]) if several else [row[side]] for side in ("chosen", "rejected"))
        name, subset = "RewardBench 2" if several else "RewardBench", str(row.get("subset") or "all")
        every = subset.lower() == "ties" or not several
        return _question(name, subset, _turns(row["prompt"]), better, worse, every=every)
    raise ValueError(f"its keys are {', '.join(sorted(row)[:8])}")


def _rmb(row: dict[str, Any]) -> Question:
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in row["conversation_input"]]
    parts = str(row["category_path"]).split("/")
    goal = next((part for part in parts if part in ("Helpfulness", "Harmlessness")), "all")
    if "bon_best" in row:
        losers = [loser["answer"] for loser in row["loser_list"]]
        return _question("RMB best-of-n", goal, turns, [row["bon_best"]["answer"]], losers)
    return _question("RMB pairs", goal, turns, [row["chosen"]["answer"]], [row["reject"]["answer"]], every=True)


def _ppe(row: dict[str, Any]) -> Question | None:
    turns = _turns(row["prompt"])
    if "winner" in row:
        if row["winner"] not in ("model_a", "model_b"):
            return None
        answers = [row["response_1"], row["response_2"]]
        better, worse = answers if row["winner"] == "model_a" else answers[::-1]
        return _question("PPE human", "all", turns, [better], [worse], every=True)
    right = [bool(value) for value in row["scores"]]
    if len(set(right)) < 2:
        return None
    answers = [row[f"response_{i + 1}"] for i in range(len(right))]
    drawn = row.get("sampled_conflict_pairs") or [(i, j) for i in range(len(right)) for j in range(i)]
    pairs = [(i, j) if right[i] else (j, i) for i, j in drawn if right[i] != right[j]]
    category = str(row.get("benchmark") or str(row.get("question_id", "all")).partition("_")[0])
    return Question("PPE best-of-k", category, turns, answers, right, pairs)


def _question(
    benchmark: str, category: str, turns: list[Message], better: list[str], worse: list[str], *, every: bool = False
) -> Question:
    """``every``: each right answer must be above each wrong one."""
    count = len(better)
    if not better or not worse:
        raise ValueError("it has no right answer or no wrong one")
    pairs = [(i, count + j) for i in range(count) for j in range(len(worse))] if every else []
    return Question(benchmark, category, turns, better + worse, [True] * count + [False] * len(worse), pairs)


def _turns(prompt: Any) -> list[Message]:
    """A conversation from a text or from turns."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]


# -- measuring --------------------------------------------------------------------------------------------------

SECTIONS: dict[str, dict[str, int]] = {
    "Chat": {
        "alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "Chat Hard": {
        "mt-bench-hard": 37, "llmbar-natural": 100, "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
    },
    "Safety": {
        "refusals-dangerous": 100, "refusals-offensive": 100, "xstest-should-refuse": 154,
        "xstest-should-respond": 250, "donotanswer": 136,
    },
    "Reasoning": {
        "math-prm": 984, "hep-cpp": 164, "hep-go": 164, "hep-java": 164, "hep-js": 164, "hep-python": 164,
        "hep-rust": 164,
    },
}  # fmt: skip
"""RewardBench's four sections: weight of each subset (its questions; math-prm as much as all code)."""


def measure(questions: Sequence[Question], score: Score, batch: int = 64) -> dict[str, Any]:
    """By benchmark: the share of questions that are answered right, with its interval, overall and by category.

    PPE best-of-k has ``pairs`` beside it, the share of (right, wrong) pairs in order, and ``any answer``, what one at
    random is worth; RewardBench ``sections`` and their mean, ``score``, where all four are there.
    """
    scores: list[np.ndarray] = []
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        flat = np.array(score([talk for question in part for talk in question.conversations]))
        scores += np.split(flat, np.cumsum([len(question.answers) for question in part])[:-1])
    outcomes = [_outcome(question, given) for question, given in zip(questions, scores, strict=True)]
    found: dict[str, Any] = {}
    for name in sorted({question.benchmark for question in questions}):
        mine = [i for i, question in enumerate(questions) if question.benchmark == name]
        categories = {
            category: proportion([outcomes[i] for i in mine if questions[i].category == category]).as_dict()
            for category in sorted({questions[i].category for i in mine})
        }
        found[name] = {"accuracy": proportion([outcomes[i] for i in mine]).as_dict(), "categories": categories}
        if name == "PPE best-of-k":
            ordered = [float(np.mean([scores[i][a] > scores[i][b] for a, b in questions[i].pairs])) for i in mine]
            found[name]["pairs"] = mean(ordered).as_dict()
            found[name]["any answer"] = float(np.mean([np.mean(questions[i].right) for i in mine]))
        if name == "RewardBench":
            found[name] |= _sections({category: of["value"] for category, of in categories.items()})
    return found


def _outcome(question: Question, scores: np.ndarray) -> float:
    """1 where the question is answered right. An answer that is not above is not right: ties lose."""
    if question.pairs and question.benchmark != "PPE best-of-k":
        return float(all(scores[better] > scores[worse] for better, worse in question.pairs))
    right = np.array(question.right)
    return float(scores[right].max() > scores[~right].max())


def _sections(categories: dict[str, float]) -> dict[str, Any]:
    sections = {}
    for section, weights in SECTIONS.items():
        there = {subset: weight for subset, weight in weights.items() if subset in categories}
        if there:
            total = sum(weight * categories[subset] for subset, weight in there.items())
            sections[section] = total / sum(there.values())
    whole = {"score": float(np.mean(list(sections.values())))} if len(sections) == len(SECTIONS) else {}
    return {"sections": sections, **whole} if sections else {}


__all__ = ["SECTIONS", "Question", "measure", "question_of", "read_benchmarks"]
