"""The pipeline's shape, cache keys, and which stages a request needs."""

import hashlib
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import TOY, NumbersConfig, SumConfig, ToyRecipe

from flows.recipe import load_recipe
from flows.resolve import resolve
from flows.stages import PIPELINE, after, cache_key, through
from infra.backends import LocalBackend
from infra.store import ArtifactStore

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)


def test_every_input_is_made_earlier():
    seen: set[str] = set()
    for stage in PIPELINE:
        assert set(stage.inputs.values()) <= seen, stage.id
        seen.add(stage.id)


def test_stages_have_distinct_names():
    assert len({stage.id for stage in PIPELINE}) == len(PIPELINE)


def test_aliases_of_the_checkpoints():
    assert {stage.alias: stage.id for stage in PIPELINE if stage.alias} == {
        "base": "pretrain", "long": "extend", "sft": "sft", "dpo": "dpo", "rl": "grpo",
    }  # fmt: skip


@given(seed=st.integers(0, 2**31), digest=DIGESTS, count=st.integers(0, 100))
def test_cache_key_depends_on_all_that_decides_the_result_and_on_nothing_else(seed, digest, count):
    stage, config = TOY[1], SumConfig(fail=str(count))
    key = cache_key(stage, config, seed, {"numbers": digest})
    other = "f" * 64 if digest != "f" * 64 else "0" * 64

    assert key == cache_key(stage, SumConfig(fail=str(count)), seed, {"numbers": digest})
    different = {
        cache_key(stage, SumConfig(fail=f"{count}x"), seed, {"numbers": digest}),
        cache_key(stage, config, seed + 1, {"numbers": digest}),
        cache_key(stage, config, seed, {"numbers": other}),
        cache_key(stage, config, seed, {"other name": digest}),
        cache_key(TOY[2], config, seed, {"numbers": digest}),
        key,
    }
    assert len(different) == 6


def test_cache_key_depends_on_the_version():
    from dataclasses import replace

    stage = TOY[0]
    assert cache_key(stage, NumbersConfig(), 0, {}) != cache_key(replace(stage, version=2), NumbersConfig(), 0, {})


POCKET = {
    "ingest": "16425271d83d8d1f", "clean": "f842d50bf99afa5e", "deduplicate": "811b210329618ba9",
    "quality": "7c85086282feb3b7", "domains": "7f7d319a3e167a14", "synthetic": "53bbd69140e130c4",
    "mixture": "797dd8822341fcda", "decontaminate": "47205f40cb769434", "tokenizer": "1328b5487f5ab6da",
    "shards": "455d7e339d020ff6", "scaling": "10b227932c5eb6d1", "pretrain": "d36e759333d3eff6",
    "extend": "3e82c78c20a24708", "conversations": "5af85c7459d6b84b", "sft": "5d07b44f9910b49e",
    "pairs": "10f19b49a0713724", "dpo": "99dd222417f836c8", "reward": "aef1f09a6efa4d85", "grpo": "293f2c520d86b9fc",
    "ngram": "14d1a3ae1f728580", "evaluate-base": "c2723c5b12676e21", "evaluate-long": "caa5317ce19e0353",
    "evaluate-sft": "8535963c044c47ec", "evaluate-dpo": "b5e877dd50726e1f", "evaluate-rl": "1d7fbf90a638b054",
    "export": "f78b28392c4f0e88", "report": "214d43c0ff828b2e",
}  # fmt: skip
"""Beginnings of the cache keys of pocket's stages, with the sha256 of a producer's name for its artifact."""


def test_pocket_keeps_its_cache_keys(monkeypatch):
    """A key here may change only with what its stage computes: with recipes/pocket.toml, its corpus, a default that it
    relies on or a ``version``. A setting that is new and off must not change it (docs/NOTES.md)."""
    monkeypatch.setattr(platform, "python_version", lambda: "3.11")  # part of the key of what the library holds
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "pocket.toml")
    keys = {}
    for stage in PIPELINE:
        inputs = {name: hashlib.sha256(producer.encode()).hexdigest() for name, producer in stage.inputs.items()}
        keys[stage.id] = cache_key(stage, stage.config(recipe), recipe.seed, inputs)[:16]
    assert keys == POCKET


def test_order_of_inputs_does_not_matter():
    key = cache_key(TOY[1], SumConfig(), 0, {"a": "1", "b": "2"})
    assert key == cache_key(TOY[1], SumConfig(), 0, {"b": "2", "a": "1"})


def test_until_takes_only_what_is_needed():
    assert [stage.id for stage in through(PIPELINE, "tokenizer")] == [
        "ingest", "clean", "deduplicate", "quality", "domains", "synthetic", "mixture", "decontaminate", "tokenizer",
    ]  # fmt: skip


def test_from_reaches_all_that_follows():
    reached = after(PIPELINE, "grpo")
    assert {"grpo", "evaluate-rl", "export", "report"} == reached


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(LocalBackend(tmp_path / "store"))


def test_resolution_stops_at_the_first_unfinished_stage(store, tmp_path):
    recipe = ToyRecipe()
    assert [row.digest for row in resolve(TOY, recipe, 0, store)] == [None, None, None]

    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "numbers.json").write_text("[1]")
    artifact = store.commit(
        folder, kind="corpus", stage="numbers", stage_version="1", config_digest="0" * 64, inputs={}, seed=0, summary={}
    )
    store.remember(cache_key(TOY[0], recipe.numbers, 0, {}), artifact.digest)

    rows = resolve(TOY, recipe, 0, store)
    assert [bool(row.digest) for row in rows] == [True, False, False]
    assert [bool(row.key) for row in rows] == [True, True, False]
    assert not resolve(TOY, recipe, 0, store, redo={"numbers"})[0].digest
    assert not resolve(TOY, recipe, 1, store)[0].digest
