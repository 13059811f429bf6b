"""Pairs, DPO, reward model and GRPO, chained at a tiny size on a policy that a minute of SFT has half taught."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from post_training import Killed, kill_at_update, same_files, save_conversations, save_tiny
from support import make_artifact, make_run

from components.preference.dpo import DPOConfig, train_dpo
from components.preference.grpo import GRPOConfig, train_grpo
from components.preference.grpo_worker import Worker
from components.preference.guards import GuardConfig
from components.preference.pair_store import read_pairs
from components.preference.pairs import PairsConfig, make_pairs
from components.preference.reward_model import RewardConfig, load_reward_model, score, train_reward_model
from components.preference.rollout import Rewards, reward_answers
from components.sft.conversation_store import read_conversations
from components.sft.fine_tune import SFTConfig, fine_tune
from components.sft.tasks import verify
from model.checkpoint import load_model

LENGTH, NEW = 192, 10
DPO = DPOConfig(sequence_length=LENGTH, batch_size=8, learning_rate=3e-4, checkpoint_every=1, log_every=1)
GRPO = GRPOConfig(
    steps=4, queries_per_rollout=4, group_size=4, updates_per_rollout=2, sequence_length=LENGTH, max_new_tokens=NEW,
    learning_rate=1e-3, scoring_samples=2, evaluate_every=2, evaluation_prompts=4, evaluation_samples=2,
    kl_coefficient=0.01, checkpoint_every=1, log_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Inputs by name: base, conversations, sft."""
    folder = tmp_path_factory.mktemp("chain")
    base = make_artifact("checkpoint", save_tiny(folder / "base"))
    sizes = {"sft_per_family": 200, "preference_per_family": 40}
    conversations = make_artifact("conversations", save_conversations(folder / "c", base.path, **sizes))
    run = make_run(folder / "sft")
    config = SFTConfig(
        epochs=12, sequence_length=LENGTH, batch_size=8, learning_rate=4e-3, evaluation_prompts=2, max_new_tokens=NEW
    )
    fine_tune(config, {"long": base, "conversations": conversations}, run)
    return {"base": base, "conversations": conversations, "sft": make_artifact("checkpoint", run.output)}


@pytest.fixture(scope="module")
def pairs(chain, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("pairs"))
    inputs = {"policy": chain["sft"], "conversations": chain["conversations"]}
    config = PairsConfig(samples=6, max_new_tokens=NEW, prompts_per_chunk=30, heldout_share=0.3)
    return make_pairs(config, inputs, run), run, inputs, config


@pytest.fixture(scope="module")
def dpo(chain, pairs, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("dpo"))
    inputs = {"policy": chain["sft"], "base": chain["base"], "pairs": make_artifact("preferences", pairs[1].output)}
    return train_dpo(DPO, inputs, run), run.output, inputs


@pytest.fixture(scope="module")
def reward(chain, dpo, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("reward"))
    inputs = {
        "policy": chain["sft"], "dpo": make_artifact("checkpoint", dpo[1]), "pairs": dpo[2]["pairs"],
        "conversations": chain["conversations"],
    }  # fmt: skip
    config = RewardConfig(
        sequence_length=LENGTH, learning_rate=4e-3, samples=1, temperatures=(1.0,), prompts=40, max_new_tokens=NEW,
        heldout_share=0.3, epochs=10, log_every=5,
    )  # fmt: skip
    return train_reward_model(config, inputs, run), run.output


@pytest.fixture(scope="module")
def grpo_inputs(chain, dpo, reward):
    return {
        "policy": make_artifact("checkpoint", dpo[1]), "reward": make_artifact("reward-model", reward[1]),
        "conversations": chain["conversations"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def grpo(grpo_inputs, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("grpo"))
    return train_grpo(GRPO, grpo_inputs, run), run.output


def test_pairs_hold_a_verified_and_a_failed_answer(chain, pairs):
    summary, run, _, _ = pairs
    by_id = {c.id: c for c in read_conversations(chain["conversations"])}
    stored = read_pairs(run.output)
    assert stored
    for pair in stored:
        conversation = by_id[pair.id.rsplit("-", 1)[0]]
        assert conversation.split == "preference" and pair.messages == conversation.prompt
        assert verify((pair.task, conversation.answer), pair.chosen).correct
        assert not verify((pair.task, conversation.answer), pair.rejected).correct
    assert summary["effects"][0]["value"] == 1.0 > summary["effects"][0]["baseline"]


def test_pairs_resume_by_chunk(pairs, tmp_path, monkeypatch):
    summary, finished, inputs, config = pairs
    run = make_run(tmp_path)
    first = sorted(finished.state.iterdir())[0]
    (run.state / first.name).write_bytes(first.read_bytes())
    import components.sft.sampling as sampling

    original, asked = sampling.sample_answers, []
    monkeypatch.setattr(
        sampling, "sample_answers", lambda *a, **k: (asked.append(len(a[2])), original(*a, **k))[1]
    )  # fmt: skip
    assert make_pairs(config, inputs, run) == summary
    assert sum(asked) == summary["prompts"] - config.prompts_per_chunk
    same_files(finished.output, run.output)


def test_dpo_ranks_held_out_pairs_better(dpo):
    summary, output, _ = dpo
    assert summary["effects"][0]["value"] >= summary["effects"][0]["baseline"]
    history = json.loads((output / "training.json").read_text())["history"]
    assert history[0]["margin"] == pytest.approx(0.0, abs=1e-4)  # the policy starts as its own reference
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("merging", ["dare", "ties"])
def test_killed_dpo_ends_with_the_same_bytes(dpo, tmp_path, monkeypatch, merging):
    config = DPO.model_copy(update={"merging": merging, "merging_keep": 0.5})
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    summary = train_dpo(config, dpo[2], whole)
    kill_at_update(monkeypatch, 3)
    with pytest.raises(Killed):
        train_dpo(config, dpo[2], killed)
    monkeypatch.undo()
    assert train_dpo(config, dpo[2], killed) == summary
    same_files(whole.output, killed.output)


def test_reward_model_learns_its_pairs_and_its_folder_loads(reward):
    _, output = reward
    history = json.loads((output / "training.json").read_text())["history"]
    assert history[-1]["loss"] < history[0]["loss"] and history[-1]["accuracy"] > 0.5
    model, tokenizer = load_reward_model(output)
    prompt = [{"role": "user", "content": "Say 'red book' 3 times. Separate with commas."}]
    talks = [[*prompt, {"role": "assistant", "content": text}] for text in ("red book, red book, red book", "no")]
    together = score(model, tokenizer, talks)
    assert together == pytest.approx([score(model, tokenizer, [talk])[0] for talk in talks], abs=1e-4)


def test_reward_model_equals_transformers(reward):
    transformers = pytest.importorskip("transformers")
    output = reward[1]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(output)
    model, tokenizer = load_reward_model(output)
    talk = [{"role": "user", "content": "Say it"}, {"role": "assistant", "content": "it, it"}]
    ids, _ = tokenizer.render_chat_with_mask(talk)
    with torch.no_grad():
        logit = theirs(torch.tensor([ids])).logits.item()
    assert (logit - model.mean) / model.std == pytest.approx(score(model, tokenizer, [talk])[0], abs=1e-4)


def test_grpo_writes_rollouts_rewards_and_a_curve(grpo):
    summary, output = grpo
    table = pq.read_table(output / "rollouts.parquet").to_pylist()
    assert len(table) == summary["rollouts"] == 2 * 4 * 4
    for start in range(0, len(table), 4):
        group = table[start : start + 4]
        assert len({row["query"] for row in group}) == 1
        assert sum(row["advantage"] for row in group) == pytest.approx(0, abs=1e-6)
    assert [point["step"] for point in summary["heldout_curve"]] == [0, 2, 4]
    assert {"reward", "pass_rate", "kl", "clipped"} <= json.loads((output / "training.json").read_text())["history"][
        0
    ].keys()
    load_model(output)


@pytest.mark.parametrize("update", [2, 3, 4])
def test_killed_grpo_ends_with_the_same_bytes(grpo, grpo_inputs, tmp_path, monkeypatch, update):
    summary, output = grpo
    run = make_run(tmp_path)
    kill_at_update(monkeypatch, update)
    with pytest.raises(Killed):
        train_grpo(GRPO, grpo_inputs, run)
    monkeypatch.undo()
    random.random()  # the resumed run may not lean on any global random state
    torch.rand(3)
    assert train_grpo(GRPO, grpo_inputs, run) == summary
    same_files(output, run.output)


@pytest.mark.parametrize("variant", ["dr-grpo", "dapo", "gspo"])
def test_every_variant_of_grpo_learns_from_its_rollouts(grpo_inputs, tmp_path, variant):
    values = GRPO.model_dump(exclude={"kl_coefficient"}, exclude_unset=True)
    run = make_run(tmp_path)
    train_grpo(GRPOConfig(**values, variant=variant, overlong_buffer=4), grpo_inputs, run)
    history = json.loads((run.output / "training.json").read_text())["history"]
    assert any(point["grad_norm"] > 0 for point in history)
    if variant == "dapo":
        table = pq.read_table(run.output / "rollouts.parquet").to_pylist()
        assert min(row["reward"] for row in table) < 0  # an answer at max_new_tokens costs 1


def test_queries_may_be_shuffled(grpo_inputs, tmp_path):
    config = GRPO.model_copy(update={"query_order": "random"})
    ordered, shuffled = (
        Worker(way, grpo_inputs, make_run(tmp_path / way.query_order)).order.tolist() for way in (GRPO, config)
    )
    assert sorted(ordered) == sorted(shuffled)
    assert ordered != shuffled
    assert "query_order" not in GRPO.model_dump(), "cache keys stay what they were"


def test_grpo_needs_no_reward_model(grpo_inputs, tmp_path):
    run = make_run(tmp_path)
    inputs = {name: artifact for name, artifact in grpo_inputs.items() if name != "reward"}
    train_grpo(GRPO.model_copy(update={"reward_model_weight": 0.0, "steps": 2}), inputs, run)
    rows = pq.read_table(run.output / "rollouts.parquet").to_pylist()
    assert all(row["reward"] == pytest.approx(row["correct"] + 0.1 * row["format"]) for row in rows)


def test_filtered_overlong_answers_teach_nothing(grpo_inputs, tmp_path):
    run = make_run(tmp_path)
    train_grpo(GRPO.model_copy(update={"overlong": "filter", "max_new_tokens": 4}), grpo_inputs, run)
    saved = [json.loads(path.read_text()) for path in (run.state / "rollouts").iterdir()]
    cut = [a for s in saved for a, answer in zip(s["advantages"], s["answers"], strict=True) if not answer["finished"]]
    assert cut and not any(cut)


def test_dpo_takes_length_normalised_and_robust_losses(dpo, tmp_path):
    run = make_run(tmp_path)
    config = DPO.model_copy(update={"length_normalised": True, "flip_rate": 0.1, "beta": 2.0})
    train_dpo(config, dpo[2], run)
    history = json.loads((run.output / "training.json").read_text())["history"]
    assert history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert history[-1]["margin"] > 0


def test_guards_that_only_warn_change_no_weight(grpo, grpo_inputs, tmp_path):
    run = make_run(tmp_path)
    guards = GuardConfig(action="warn", window=1, kl_limit=1e-9, entropy_high=1e-3)
    summary = train_grpo(GRPO.model_copy(update={"guards": guards}), grpo_inputs, run)
    for name in ("model.safetensors", "training.json", "rollouts.parquet"):
        assert (run.output / name).read_bytes() == (grpo[1] / name).read_bytes()
    trips = {trip["kind"]: trip for trip in summary["guards"]["trips"]}
    assert trips["entropy"]["step"] == 2 and trips["kl"]["step"] == 4  # the first rollout is the reference's own
    assert any("above 0.001 -> warn" in message for message in run.messages)
    assert summary["guards"]["kept_step"] == GRPO.steps


def longer_is_better(queries, answers, weights, reward_model):
    honest = reward_answers(queries, answers, weights, reward_model)
    return Rewards(np.array([[len(a.tokens) / 60 for a in group] for group in answers]), honest.correct, honest.format)


def test_a_reward_for_length_is_caught_within_twenty_steps_also_by_a_run_that_was_killed(
    grpo_inputs, tmp_path, monkeypatch
):
    monkeypatch.setattr("components.preference.grpo_worker.reward_answers", longer_is_better)
    config = GRPO.model_copy(
        update={
            "guards": GuardConfig(action="stop", window=3), "steps": 20, "updates_per_rollout": 1, "group_size": 8,
            "max_new_tokens": 60, "learning_rate": 3e-3, "evaluate_every": 5, "evaluation_prompts": 12,
            "kl_coefficient": 0.0, "reward_model_weight": 0.0, "checkpoint_every": 2,
        }
    )  # fmt: skip
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    summary = train_grpo(config, grpo_inputs, whole)
    trip = summary["guards"]["trips"][-1]
    assert trip["kind"] == "length" and "answers grew from" in trip["reason"]
    assert trip["step"] == summary["steps"] <= 20
    history = json.loads((whole.output / "training.json").read_text())["history"]
    assert history[-1]["reward"] > history[0]["reward"]  # its own measure saw nothing but progress
    measured = {point["step"]: point["pass_rate"] for point in summary["heldout_curve"]}
    assert summary["guards"]["kept_step"] in measured and trip["step"] in measured

    kill_at_update(monkeypatch, summary["steps"] - 1)
    with pytest.raises(Killed):
        train_grpo(config, grpo_inputs, killed)
    monkeypatch.undo()
    monkeypatch.setattr("components.preference.grpo_worker.reward_answers", longer_is_better)
    assert train_grpo(config, grpo_inputs, killed) == summary
    same_files(whole.output, killed.output)


def test_weights_of_the_best_held_out_measurement_are_kept(grpo_inputs, tmp_path):
    config = GRPO.model_copy(
        update={"guards": GuardConfig(keep_best=True), "learning_rate": 0.05, "evaluation_prompts": 12}
    )
    run = make_run(tmp_path)
    summary = train_grpo(config, grpo_inputs, run)  # a learning rate that ruins the policy at once
    assert summary["guards"] == {"trips": [], "kept_step": 0}
    first, kept = load_model(grpo_inputs["policy"].path), load_model(run.output)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), kept.parameters(), strict=True))
    assert summary["after"] == summary["before"]
