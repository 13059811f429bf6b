"""Stage sft at a tiny size: it learns, it leaves a whole checkpoint, and a killed run ends the same."""

import json
from dataclasses import replace

import pytest
import torch
from post_training import save_conversations, save_tiny
from support import make_artifact, make_run

from components.sft.conversation_store import read_conversations, write_conversations
from components.sft.fine_tune import SFTConfig, fine_tune
from components.stage import StageError
from components.training import loop
from components.training.lora import MATRICES
from model.checkpoint import load_model

CONFIG = SFTConfig(
    epochs=4, sequence_length=192, batch_size=4, learning_rate=3e-3, evaluation_prompts=4, max_new_tokens=8,
    checkpoint_every=10,
)  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft-inputs")
    base = save_tiny(folder / "base")
    conversations = save_conversations(folder / "conversations", base)
    return {"long": make_artifact("checkpoint", base), "conversations": make_artifact("conversations", conversations)}


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("sft"))
    return fine_tune(CONFIG, inputs, run), run.output


def test_held_out_loss_falls_and_the_checkpoint_is_whole(finished):
    summary, output = finished
    [loss, form, correct] = summary["effects"]
    assert loss["value"] < 0.9 * loss["baseline"]
    assert 0 <= correct["value"] <= form["value"] <= 1
    record = json.loads((output / "training.json").read_text())
    assert record["steps"] == record["history"][-1]["step"] == summary["steps"]
    assert record["history"][-1]["loss"] < record["history"][0]["loss"]
    load_model(output)


def test_factory_records_are_learnt_beside_the_tasks(inputs, finished, tmp_path):
    extra = [replace(c, id=f"more-{c.id}") for c in read_conversations(inputs["conversations"], "sft")[:20]]
    (tmp_path / "factories").mkdir()
    write_conversations(tmp_path / "factories", extra)
    more = inputs | {"factories": make_artifact("conversations", tmp_path / "factories")}
    summary = fine_tune(CONFIG.model_copy(update={"epochs": 1}), more, make_run(tmp_path / "run"))
    held_out_more = finished[0]["examples"] + len(extra) - summary["examples"]
    assert 0 <= held_out_more <= 1, "one in twenty is kept for the loss"


def test_adapters_learn_and_leave_a_whole_model(inputs, tmp_path):
    lora = {"rank": 4, "alpha": 8}
    config = SFTConfig.model_validate(
        CONFIG.model_dump() | {"learning_rate": 2e-2, "lora": lora, "checkpoint_every": 10}
    )
    summary = fine_tune(config, inputs, make_run(tmp_path))
    assert summary["effects"][0]["value"] < 0.99 * summary["effects"][0]["baseline"]
    base, tuned = load_model(inputs["long"].path), load_model(tmp_path / "output")
    before, after = base.state_dict(), tuned.state_dict()
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.split(".")[-2] in MATRICES and name.endswith("weight")}
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4
    adapters = sum(4 * sum(before[name].shape) for name in changed)
    assert summary["trained_parameters"] == adapters


def test_a_killed_run_with_adapters_ends_the_same(inputs, tmp_path, monkeypatch):
    config = SFTConfig.model_validate(CONFIG.model_dump() | {"lora": {"rank": 4, "dropout": 0.1}})
    fine_tune(config, inputs, make_run(tmp_path / "whole"))
    killed = make_run(tmp_path / "killed")

    def step_or_die(self, step, *rest, real=loop._Training._step):
        if step == 15:
            raise KeyboardInterrupt
        return real(self, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Training, "_step", step_or_die)
        fine_tune(config, inputs, killed)
    fine_tune(config, inputs, make_run(tmp_path / "killed"))
    whole, resumed = (load_model(tmp_path / name / "output").state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_conversation_that_no_window_holds_is_named(inputs, tmp_path):
    with pytest.raises(StageError, match=r"sft\.sequence_length: 16 tokens do not hold the longest of"):
        fine_tune(CONFIG.model_copy(update={"sequence_length": 16}), inputs, make_run(tmp_path))


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_bytes(inputs, finished, tmp_path, monkeypatch):
    summary, output = finished
    run = make_run(tmp_path)
    original, calls = torch.optim.AdamW.step, []

    def dying_step(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == 15:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dying_step)
    with pytest.raises(Killed):
        fine_tune(CONFIG, inputs, run)
    monkeypatch.undo()
    assert fine_tune(CONFIG, inputs, run) == summary
    assert any("resuming after step 10" in message for message in run.messages)
    for file in sorted(output.iterdir()):
        assert (run.output / file.name).read_bytes() == file.read_bytes(), file.name
