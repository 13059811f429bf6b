"""Rollouts sampled beside the updates: whose weights they are of, what is told of it, and what a kill leaves."""

import json

import numpy as np
import pytest
import torch
from post_training import Killed, kill_at_update, same_files, save_conversations, save_tiny
from support import make_artifact, make_run

from components.preference.grpo import GRPOConfig, train_grpo
from components.preference.grpo_worker import Worker
from components.preference.losses import importance
from components.preference.rollout import Rewards
from components.stage import Layout, StageError

CONFIG = GRPOConfig(
    asynchronous=True, steps=6, queries_per_rollout=3, group_size=4, updates_per_rollout=2, sequence_length=192,
    max_new_tokens=6, learning_rate=3e-3, reward_model_weight=0.0, scoring_samples=2, evaluate_every=3,
    evaluation_prompts=2, evaluation_samples=2, checkpoint_every=1, log_every=1,
)  # fmt: skip
SYNCHRONOUS = CONFIG.model_copy(update={"asynchronous": False})


def high_tokens_are_better(queries, answers, weights, reward_model):
    """Something that a policy without any training can learn."""
    total = np.array([[float(np.mean(answer.tokens)) / 100 for answer in group] for group in answers])
    return Rewards(total, (total > total.mean()).astype(float), np.ones_like(total))


@pytest.fixture(autouse=True)
def reward(monkeypatch):
    monkeypatch.setattr("components.preference.grpo_worker.reward_answers", high_tokens_are_better)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    policy = make_artifact("checkpoint", save_tiny(folder / "policy"))
    return {
        "policy": policy,
        "conversations": make_artifact("conversations", save_conversations(folder / "c", policy.path)),
    }


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.preference.grpo_worker.reward_answers", high_tokens_are_better)
        return train_grpo(CONFIG, inputs, run), run


def test_a_rollout_is_sampled_with_the_weights_from_before_the_last_updates(finished, inputs, tmp_path):
    _, run = finished
    saved = [json.loads(path.read_text()) for path in sorted((run.state / "rollouts").iterdir())]
    assert [rollout["facts"]["staleness"] for rollout in saved] == [0, 2, 2]
    # When the second was sampled nothing had moved yet; when the third was, two updates had been made.
    worker = Worker(SYNCHRONOUS, inputs, make_run(tmp_path))
    assert worker._roll_out(1)["answers"] == saved[1]["answers"]
    assert worker._roll_out(2)["answers"] != saved[2]["answers"]
    assert not list((run.state / "behind").iterdir())


def test_the_history_tells_how_stale_the_answers_were(finished, inputs, tmp_path):
    history = json.loads((finished[1].output / "training.json").read_text())["history"]
    assert [point["staleness"] for point in history] == [0, 0, 2, 2, 2, 2]
    assert history[0]["effective_share"] == pytest.approx(1, abs=1e-4)
    assert history[2]["ratio_deviation"] > 100 * history[0]["ratio_deviation"]
    run = make_run(tmp_path)
    train_grpo(SYNCHRONOUS, inputs, run)
    synchronous = json.loads((run.output / "training.json").read_text())["history"]
    assert not {"staleness", "effective_share"} & synchronous[0].keys()
    assert "asynchronous" not in SYNCHRONOUS.model_dump(), "cache keys stay what they were"


@pytest.mark.parametrize("update", [2, 3, 5])
def test_a_killed_run_ends_with_the_same_bytes(finished, inputs, tmp_path, monkeypatch, update):
    summary, whole = finished
    run = make_run(tmp_path)
    with monkeypatch.context() as patch:
        kill_at_update(patch, update)
        with pytest.raises(Killed):
            train_grpo(CONFIG, inputs, run)
    assert train_grpo(CONFIG, inputs, run) == summary
    same_files(whole.output, run.output)


def test_the_weights_of_a_rollout_that_was_cut_off_are_still_there(finished, inputs, tmp_path, monkeypatch):
    summary, whole = finished
    run, original = make_run(tmp_path), Worker._sample_behind

    def dying(self, rollout, model):
        if rollout == 2:
            raise Killed
        original(self, rollout, model)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_sample_behind", dying)
        with pytest.raises(Killed):
            train_grpo(CONFIG, inputs, run)
    assert [path.name for path in (run.state / "behind").iterdir()] == ["000002.safetensors"]
    assert train_grpo(CONFIG, inputs, run) == summary
    same_files(whole.output, run.output)


def test_several_processes_are_refused(inputs, tmp_path):
    run = make_run(tmp_path)
    run.layout = Layout(engine="deepspeed", world_size=2)
    with pytest.raises(StageError, match="one process only"):
        train_grpo(CONFIG, inputs, run)


def test_importance_weights_equal_their_definition():
    new, old = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -2.0, -0.25])
    ratio = np.exp([0.5, 0.0, -0.25])
    found = importance(new, old)
    assert found["ratio_deviation"] == pytest.approx(np.abs(ratio - 1).mean(), rel=1e-5)
    assert found["effective_share"] == pytest.approx(ratio.sum() ** 2 / (3 * (ratio**2).sum()), rel=1e-5)
    assert importance(old, old)["effective_share"] == pytest.approx(1)
