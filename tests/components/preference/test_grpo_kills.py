"""GRPO in a process of its own that is ended by SIGKILL again and again."""

import multiprocessing
import os
import random
import time

import pyarrow.parquet  # noqa: F401  (the children find it imported, as what is marked so below)
from post_training import save_conversations, save_tiny
from support import make_artifact, make_run

import components.evaluation.statistics
import components.preference.grpo_worker
import components.training.loop  # noqa: F401
from components.preference.grpo import GRPOConfig, train_grpo
from components.preference.guards import GuardConfig
from components.preference.reward_scoring import RewardModel, save_reward_model
from model.checkpoint import load_model
from model.tokenizer import Tokenizer

KILLS = 5
CONFIG = GRPOConfig(
    steps=8, queries_per_rollout=3, group_size=4, updates_per_rollout=2, sequence_length=192, max_new_tokens=6,
    learning_rate=1e-3, scoring_samples=2, evaluate_every=3, evaluation_prompts=4, evaluation_samples=2,
    reward_model_weight=1.0, advantage_scaling="none", checkpoint_every=2, log_every=2,
    guards=GuardConfig(action="warn", kl_limit=1e-6, window=1, keep_best=True),
)  # fmt: skip


def train_in(folder, inputs):
    train_grpo(CONFIG, inputs, make_run(folder))


def start(folder, inputs):
    process = multiprocessing.get_context("fork").Process(target=train_in, args=(folder, inputs))
    process.start()
    return process


def everything_in(folder):
    """Without what a kill in the middle of a write has left."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".tmp"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def count_files(folder):
    return sum(len(files) for _, _, files in os.walk(folder))  # which minds no folder that vanishes


def test_a_run_killed_five_times_at_random_has_the_same_rollouts_and_weights(tmp_path):
    base = save_tiny(tmp_path / "base")
    reward = make_run(tmp_path / "reward")
    save_reward_model(
        reward, RewardModel(load_model(base)).init_head(0), Tokenizer.load(base), [], 192, mean=0.0, std=0.01
    )
    inputs = {
        "policy": make_artifact("checkpoint", base), "reward": make_artifact("reward-model", reward.output),
        "conversations": make_artifact("conversations", save_conversations(tmp_path / "talks", base)),
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole, inputs)
    process.join()
    assert process.exitcode == 0

    rng = random.Random(0)
    for _ in range(KILLS):
        process = start(killed, inputs)
        known, wanted = count_files(killed), rng.randint(1, 2)
        while process.is_alive() and count_files(killed) < known + wanted:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode == -9, "it ended before it could be killed"
    process = start(killed, inputs)
    process.join()
    assert process.exitcode == 0
    assert everything_in(killed / "output") == everything_in(whole / "output")
    for part in ("rollouts", "measured"):
        assert everything_in(killed / "state" / part) == everything_in(whole / "state" / part)
    assert len(everything_in(whole / "state" / "rollouts")) == 4
