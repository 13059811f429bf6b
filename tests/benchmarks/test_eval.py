"""The benchmark beside lm-eval goes on where it was killed: turns that are done are not measured again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval")
from benchmarks import eval as bench
from components.evaluation.harness.measure import Settings
from components.evaluation.harness.task import Form, Question, Task

HOW = {"limit": 20}
TASK = Task("mmlu", "likelihood", lambda folder: [])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which questions were asked, of whom; the fourth turn kills the first attempt."""
    log: list[str] = []
    questions = [Question(str(n), "q", reference=0) for n in range(20)]
    monkeypatch.setattr(bench, "questions_of", lambda task, settings: (Form(), questions))
    monkeypatch.setattr(bench, "their_requests", lambda *arguments: [[q.id] for q in questions])

    def ours(subject: Any, task: Task, form: Form, part: list[Question], settings: Settings) -> list[int]:
        if part[0].id == "6" and "killed" not in log:
            log.append("killed")
            raise KeyboardInterrupt
        log.extend(f"ours {q.id}" for q in part)
        return [int(q.id) % 4 for q in part]

    def theirs(model: Any, task: Task, requests: list[list[str]]) -> list[int]:
        log.extend(f"theirs {one}" for (one,) in requests)
        return [int(one) % 4 if one != "3" else 3 - 3 for (one,) in requests]

    monkeypatch.setattr(bench, "our_answers", ours)
    monkeypatch.setattr(bench, "their_answers", theirs)
    return log


def run(file: Path, *, fresh: bool = False) -> dict[str, Any]:
    kept = bench.Kept(file)
    turns = kept.turns("mmlu", HOW, fresh=fresh)
    none: Any = SimpleNamespace()
    result = bench.measure(none, none, TASK, Settings(limit=20), turns=10, kept=turns, keep=kept.write)
    kept.finish("mmlu", result | {"how": HOW})
    return result


def test_a_killed_benchmark_goes_on_with_the_next_turn(asked: list[str], tmp_path: Path) -> None:
    file = tmp_path / "eval.json"
    with pytest.raises(KeyboardInterrupt):
        run(file)
    assert sorted(bench.Kept(file).started["mmlu"]["turns"]) == ["0", "2", "4"]
    before = len(asked)
    result = run(file)
    assert result["questions"] == 20 and result["equal_answers"] == 19 and not result["agrees"]
    assert not {"ours 0", "theirs 5"} & set(asked[before:]), "their turns were kept"
    assert sum(line.startswith("ours") for line in asked) == 20
    again = bench.Kept(file)
    assert not again.started and again.result("mmlu", HOW) is not None
    assert again.result("mmlu", {"limit": 40}) is None, "other settings are another measurement"


def test_fresh_measures_again_and_keeps_the_other_tasks(asked: list[str], tmp_path: Path) -> None:
    file = tmp_path / "eval.json"
    asked.append("killed")  # no kill this time
    kept = bench.Kept(file)
    kept.finish("ifeval", {"task": "ifeval", "how": HOW})
    run(file)
    run(file, fresh=True)
    assert sum(line.startswith("ours") for line in asked) == 40
    assert [row["task"] for row in bench.Kept(file).rows] == ["ifeval", "mmlu"]
