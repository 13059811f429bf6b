"""The command ``arena``: questions as Arena-Hard publishes them, a reward model as judge, and mistakes in one line."""

import json
from pathlib import Path

import pytest
import torch
from benchmark_models import tiny_checkpoint
from safetensors.torch import load_file, save_file

from flows.arena import arena_command, print_arena, read_questions
from flows.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWENFORGE_DEVICE", "cpu")
    rows = [{"question_id": "1", "prompt": "a few words?"}, {"turns": [{"content": "letters A and B?"}]}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tiny_checkpoint(tmp_path / "one", seed=1)
    tiny_checkpoint(tmp_path / "two", seed=2)
    reward = tiny_checkpoint(tmp_path / "reward", seed=3)
    tensors = load_file(reward / "model.safetensors")
    tensors["score.weight"] = torch.randn(1, tensors["model.norm.weight"].shape[0])
    save_file(tensors, reward / "model.safetensors", metadata={"format": "pt"})
    (reward / "reward.json").write_text(json.dumps({"mean": 0.0, "std": 1.0}))
    return tmp_path


def test_a_reward_model_judges_two_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "out"
    found = arena_command(
        str(folder / "one"), str(folder / "two"), judge=str(folder / "reward"),
        questions=folder / "questions.jsonl", max_new_tokens=6, output=output,
    )  # fmt: skip
    assert found["questions"] == 2 and found["same_in_both_orders"] == 1.0 and found["unread_verdicts"] == 0
    rows = [json.loads(line) for line in (output / "battles.jsonl").read_text().splitlines()]
    assert [row["question"] for row in rows] == ["a few words?", "letters A and B?"]
    won = [3.0 if abs(v) == 2 else 1.0 for row in rows for v in row["verdicts"] if v > 0]
    total = [3.0 if abs(v) == 2 else 1.0 for row in rows for v in row["verdicts"]]
    assert found["win_rate"]["value"] == pytest.approx(sum(won) / sum(total))
    assert json.loads((output / "judging.json").read_text()) == found
    print_arena(found)
    assert "at equal style" in capsys.readouterr().out


def test_mistakes_are_one_line(folder: Path) -> None:
    one, two = str(folder / "one"), str(folder / "two")
    with pytest.raises(UsageError, match="neither the address of a server nor a reward model"):
        arena_command(one, two, judge=two, questions=folder / "questions.jsonl")
    with pytest.raises(UsageError, match="--judge-model"):
        arena_command(one, two, judge="http://127.0.0.1:1/v1", questions=folder / "questions.jsonl")
    with pytest.raises(UsageError, match="no file"):
        read_questions(folder / "nothing.jsonl")
    (folder / "empty.jsonl").write_text('{"text": "x"}')
    with pytest.raises(UsageError, match="record 1: has neither prompt nor turns"):
        read_questions(folder / "empty.jsonl")
