"""``qwenforge ablate-factories``: equal tokens, what outlives a kill, and what it says where nothing is there."""

from pathlib import Path
from typing import Any

import pytest
from post_training import save_conversations, save_tiny

from components.sft.factories import ablation
from components.sft.factories.ablation import FactoryAblationConfig, compare
from components.sft.fine_tune import SFTConfig
from flows import factory_ablation as flow
from flows.errors import UsageError
from flows.recipe import load_recipe
from flows.terminal import Display
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store

FEW = ("mathematics", "cross_lingual", "system_prompts")
CONFIG = FactoryAblationConfig(
    tokens=6_000, held_out=6, seeds=2,
    training=SFTConfig(
        epochs=1, sequence_length=512, batch_size=4, learning_rate=3e-3, evaluation_prompts=1, max_new_tokens=4
    ),
)  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWENFORGE_DEVICE", "cpu")
    for module in (ablation, flow):
        monkeypatch.setattr(module, "FACTORIES", FEW)
    return load_settings()


@pytest.fixture
def trial(settings: Settings, tmp_path: Path) -> flow.Trial:
    """Over a base and conversations as a finished recipe has left them."""
    store = open_store(settings)
    base = save_tiny(tmp_path / "base")
    talks = save_conversations(tmp_path / "talks", base)
    digests = {
        stage: keep(store, folder, kind)
        for stage, folder, kind in (
            ("tokenizer", base, "tokenizer"), ("extend", base, "checkpoint"), ("conversations", talks, "conversations")
        )
    }  # fmt: skip
    return flow.Trial(CONFIG, 0, digests, settings, store, Display())


def keep(store: ArtifactStore, folder: Path, kind: str) -> str:
    facts: dict[str, Any] = {"stage_version": "1", "config_digest": "", "inputs": {}, "seed": 0, "summary": {}}
    return store.commit(folder, kind=kind, stage=kind, **facts).digest


def test_every_model_is_trained_once_and_on_as_many_tokens(trial: flow.Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    fine_tune = flow.fine_tune

    def counted(config: Any, inputs: Any, run: Any) -> Any:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(fine_tune(config, inputs, run))
        return calls[-1]

    counted.__module__, counted.__name__ = fine_tune.__module__, fine_tune.__name__
    monkeypatch.setattr(flow, "fine_tune", counted)
    with pytest.raises(KeyboardInterrupt):
        trial.scores(FEW[:2])
    monkeypatch.setattr(flow, "fine_tune", fine_tune)
    whole, without = trial.scores(FEW[:2])
    monkeypatch.setattr(flow, "fine_tune", counted)  # a fourth training would end it
    assert trial.scores(FEW[:2]) == (whole, without)
    tokens = [call["tokens"] for call in calls]
    assert max(tokens) - min(tokens) < 0.1 * max(tokens)
    assert [set(scores) for scores in (*whole, *without)] == [set(FEW[:2])] * 4
    rows = compare(whole, without)
    assert [row["factory"] for row in rows] == list(FEW[:2])
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows)
    result = {"plan": flow.plan_of(load_recipe(Path("recipes/pocket.toml")), FEW[:2]), "factories": rows}
    flow.print_factory_ablation(result)


def test_the_plan_counts_models_and_operations() -> None:
    recipe = load_recipe(Path("recipes/pocket.toml"))
    plan = flow.plan_of(recipe, flow.choose([]))
    config = recipe.factory_ablation
    assert plan["models"] == 10 * config.seeds
    # six FLOPs a weight and token, and some for attention
    assert 6 * 1.3e6 < plan["flops"] / (plan["models"] * config.tokens) < 12 * 1.3e6
    assert f"{plan['models']} models of 1.31 M parameters" in flow.plan_line(plan)


def test_a_missing_run_and_an_unknown_factory_are_named(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"--only poetry: no such factory; there are mathematics"):
        flow.choose(["poetry"])
    with pytest.raises(UsageError, match=r"not there yet: .*extend.*; first: qwenforge run recipes/pocket.toml"):
        flow.ablate_factories_command(Path("recipes/pocket.toml"), ())
