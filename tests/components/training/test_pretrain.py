"""Pre-training and context extension on tiny shards."""

import json
import math

import pytest
import torch
from pretraining import MODEL, tiny_inputs
from support import make_artifact, make_run

from components.data.shard_reader import ShardReader
from components.scaling.law import SweepPoint, fit_scaling_law
from components.stage import StageError
from components.training.extend import ExtendConfig, extend_context
from components.training.language_modelling import held_out_loss, mark_padding, next_token_loss
from components.training.pretrain import PretrainConfig, pretrain
from model.checkpoint import load_model
from model.config import MoEConfig
from model.transformer import Transformer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    law = fit_scaling_law(
        [
            SweepPoint(parameters=n, tokens=d, learning_rate=lr, batch_tokens=batch, loss=5 + abs(math.log(lr / 1e-2)))
            for n in (10_000, 40_000)
            for d in (10_000, 40_000)
            for lr in (3e-3, 1e-2, 3e-2)
            for batch in (128, 256, 512)
        ]
    )
    (folder / "law").mkdir()
    law.write(folder / "law" / "law.json")
    return {**tiny_inputs(folder), "scaling": make_artifact("scaling-law", folder / "law")}


def pretraining(**values) -> PretrainConfig:
    defaults = {"model": MODEL, "tokens": 40_000, "sequence_length": 32, "min_steps": 40}
    return PretrainConfig(**{**defaults, **values})


@pytest.fixture(scope="module")
def base(inputs, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("base"))
    return make_artifact("checkpoint", run.output, pretrain(pretraining(), inputs, run))


def test_learns_beyond_guessing_and_takes_the_laws_settings(base):
    after = base.summary["effects"][0]
    assert after["value"] < 0.6 * after["baseline"]
    assert after["baseline"] == pytest.approx(math.log(MODEL.vocab_size), abs=0.3)
    assert base.summary["learning_rate"] == pytest.approx(1e-2, rel=0.5)
    assert base.summary["hyper_parameters"] == "scaling-law"


def test_the_recipe_may_override_the_law(inputs, tmp_path):
    run = make_run(tmp_path)
    config = pretraining(hyper_parameters="recipe", learning_rate=1e-3, batch_tokens=320, tokens=3200)
    summary = pretrain(config, inputs, run)
    assert (summary["learning_rate"], summary["batch_tokens"], summary["steps"]) == (1e-3, 320, 10)


def test_the_same_seed_gives_the_same_bytes(inputs, tmp_path):
    config = pretraining(tokens=4000)
    runs = [make_run(tmp_path / name) for name in "ab"]
    for run in runs:
        pretrain(config, inputs, run)
    first, second = ((run.output / "model.safetensors").read_bytes() for run in runs)
    assert first == second


def test_a_vocabulary_larger_than_the_model_is_refused(inputs, tmp_path):
    small = MODEL.model_copy(update={"vocab_size": 300})
    with pytest.raises(StageError, match=r"pretrain.model.vocab_size is 300"):
        pretrain(pretraining(model=small), inputs, make_run(tmp_path))


def test_extension_raises_the_base_and_helps_beyond_the_old_length(inputs, base, tmp_path):
    run = make_run(tmp_path)
    config = ExtendConfig(
        sequence_length=128, rope_theta=1e6, tokens=60_000, batch_tokens=512, learning_rate=3e-3, long_share=0.5
    )
    summary = extend_context(config, {"base": base, "shards": inputs["shards"]}, run)
    extended = load_model(run.output).config
    assert (extended.rope_theta, extended.max_position_embeddings) == (1e6, 128)
    longer, shorter = summary["effects"]
    assert longer["value"] < longer["baseline"]
    assert shorter["value"] < 1.1 * shorter["baseline"]
    assert summary["long_windows"] > 0
    assert json.loads((run.output / "training.json").read_text())["history"]


def test_extension_on_related_documents_says_how_related_they_are(inputs, base, tmp_path):
    run = make_run(tmp_path)
    config = ExtendConfig(
        sequence_length=128, rope_theta=1e6, tokens=2_000, batch_tokens=512, learning_rate=3e-3, related=True
    )
    relation, *_ = extend_context(config, {"base": base, "shards": inputs["shards"]}, run)["effects"]
    assert relation["value"] > relation["baseline"] > 0
    assert "related" not in config.model_copy(update={"related": False}).model_dump()  # off: the cache keys of before


def test_progressive_extension_goes_through_every_length_and_resumes(inputs, base, tmp_path):
    config = ExtendConfig(
        lengths=(48, 64), sequence_length=96, rope_theta=1e7, tokens=18_000, batch_tokens=192, learning_rate=3e-3,
        checkpoint_every=10, log_every=10,
    )  # fmt: skip
    given = {"base": base, "shards": inputs["shards"]}
    run = make_run(tmp_path / "a")
    summary = extend_context(config, given, run)
    assert summary["lengths"] == [48, 64, 96]
    history = json.loads((run.output / "training.json").read_text())["history"]
    steps = [point["step"] for point in history]
    assert steps == sorted(set(steps))
    assert steps[-1] == summary["steps"]
    again = make_run(tmp_path / "a")  # the state of a run that was killed after training
    (run.output / "model.safetensors").rename(tmp_path / "expected")
    extend_context(config, given, again)
    assert sum("RoPE base" in message for message in again.messages) == 1, "finished phases are not repeated"
    assert (again.output / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    with pytest.raises(ValueError, match="expected ascending"):
        ExtendConfig(lengths=(64, 48), sequence_length=96, tokens=1)


def test_experts_grow_from_a_dense_model(inputs, tmp_path):
    experts = MODEL.model_copy(
        update={"moe": MoEConfig(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                                 shared_expert_intermediate_size=32)}
    )  # fmt: skip
    run = make_run(tmp_path)
    config = pretraining(model=experts, tokens=20_000, upcycle_share=0.5, checkpoint_every=10)
    summary = pretrain(config, inputs, run)
    assert any("dense model that the experts grow from" in message for message in run.messages)
    assert load_model(run.output).config.moe is not None
    history = json.loads((run.output / "training.json").read_text())["history"]
    assert "router_top_share" not in history[0]
    assert 0 < history[-1]["router_top_share"] < 1
    assert summary["effects"][0]["value"] < 0.8 * summary["effects"][0]["baseline"]


def test_padding_carries_no_loss(inputs):
    reader = ShardReader(inputs["shards"])
    model = Transformer(MODEL).init_weights(0)
    tokens = mark_padding(reader.batch(0, 0, 2, 32), reader.eos_id)
    padded = torch.cat([tokens, torch.full((2, 9), -1)], dim=1)
    plain, _ = next_token_loss(model, tokens)
    with_padding, metrics = next_token_loss(model, padded)
    assert torch.allclose(plain, with_padding)
    assert metrics["tokens"] == float((tokens[:, 1:] >= 0).sum())


def test_held_out_loss_of_a_fresh_model_is_near_uniform(inputs):
    loss = held_out_loss(Transformer(MODEL).init_weights(0), ShardReader(inputs["shards"]), 32)
    assert loss == pytest.approx(math.log(MODEL.vocab_size), abs=0.3)
