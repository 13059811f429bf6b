"""Six heads and their sum: a small training, the folder that it leaves, what is measured."""

import json

import numpy as np
import pytest
import torch
from post_training import Killed, documents_of_sentences, kill_at_update, same_files, save_tiny
from safetensors.torch import load_file
from support import make_artifact, make_run

from components.data.documents import write_documents
from components.preference.criterion_heads import FACTS, HEADS, CriteriaConfig, train_criteria
from components.preference.criterion_pairs import CRITERIA
from components.preference.criterion_report import length_rule, of_pairs
from components.preference.pair_store import Pair, read_pairs, write_pairs
from components.preference.reward_model import load_reward_model, score
from components.preference.reward_scoring import RewardModel
from components.sft.sequences import pack

CONFIG = CriteriaConfig(
    sequence_length=256, learning_rate=3e-3, train_pairs=40, fit_pairs=8, heldout_pairs=12, epochs=3, batch_size=24,
    checkpoint_every=4,
)  # fmt: skip


def pair(index, chosen, rejected, split="heldout"):
    return Pair(f"p{index}-0", split, "repeat", [{"role": "user", "content": "?"}], chosen, rejected, 1.0, 0.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_documents(folder / "documents", documents_of_sentences())
    (folder / "pairs").mkdir()
    write_pairs(
        folder / "pairs", [pair(i, "yes" * (i % 3 + 1), "no", s) for i in range(8) for s in ("train", "heldout")]
    )
    return {
        "policy": make_artifact("checkpoint", save_tiny(folder / "policy")),
        "documents": make_artifact("corpus", folder / "documents"),
        "pairs": make_artifact("preferences", folder / "pairs"),
    }


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("criteria"))
    return train_criteria(CONFIG, inputs, run), run.output


def test_what_is_measured_of_every_criterion(trained):
    summary, output = trained
    assert list(summary["criteria"]) == list(CRITERIA)
    for found in summary["criteria"].values():
        assert found["accuracy"]["n"] == 12 and found["accuracy"]["low"] <= found["accuracy"]["value"]
        assert found["seen_wordings"]["n"] == found["unseen_wordings"]["n"] == 6
        assert sum(of["n"] for of in found["by_fault"].values()) == 12
        assert found["weight"] >= 0 and found["temperature"] > 0
        assert sum(count for *_, count in found["reliability"]) == 12
    assert summary["verified"]["accuracy"]["n"] == 8
    assert summary["criteria"]["conciseness"]["length_rule"] == 1.0
    history = json.loads((output / "training.json").read_text())["history"]
    assert history[-1]["loss"] < 0.6 < history[0]["loss"]
    assert {p.source for p in read_pairs(output)} == {"corrupted"}


def test_the_folder_is_a_reward_model_whose_score_is_the_weighted_sum(trained):
    _, output = trained
    model, tokenizer = load_reward_model(output)
    facts = json.loads((output / FACTS).read_text())
    weights = torch.tensor([facts[name]["weight"] for name in CRITERIA])
    heads = RewardModel(model.decoder, outputs=6)
    heads.score.weight.data.copy_(load_file(output / HEADS)["heads"])
    talks = [p.conversation(side) for p in read_pairs(output, "heldout")[:10] for side in ("chosen", "rejected")]
    packed = pack([tokenizer.render_chat_with_mask(t) for t in talks], 256, tokenizer.eos_id)
    with torch.no_grad():
        expected = (heads(packed) @ weights - model.mean) / model.std
    assert score(model, tokenizer, talks) == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_killed_training_ends_with_the_same_bytes(trained, inputs, tmp_path, monkeypatch):
    summary, output = trained
    run = make_run(tmp_path)
    kill_at_update(monkeypatch, 9)
    with pytest.raises(Killed):
        train_criteria(CONFIG, inputs, run)
    monkeypatch.undo()
    assert train_criteria(CONFIG, inputs, run) == summary
    same_files(output, run.output)


def test_the_length_rule_is_learnt_in_training_and_ties_are_half_right():
    longer, shorter, tie = pair(0, "long", "l"), pair(1, "s", "short"), pair(2, "ab", "cd")
    rule, right = length_rule([longer, longer, shorter], [longer, shorter, tie])
    assert rule == "longer" and right.tolist() == [1.0, 0.0, 0.5]
    assert length_rule([shorter], [longer, shorter, tie])[0] == "shorter"


def test_accuracy_is_also_told_by_which_answer_is_longer():
    pairs = [pair(0, "long", "l"), pair(1, "long", "l"), pair(2, "s", "short")]
    found = of_pairs(np.array([1.0, -1.0, 2.0]), pairs)
    assert found["where_longer_is_better"] == 0.5 and found["where_shorter_is_better"] == 1.0
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    assert of_pairs(np.array([1.0]), pairs[2:])["where_longer_is_better"] is None
