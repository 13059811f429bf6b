"""Leaving a factory out: disjoint sources, equal tokens, perfect answers score 1, and intervals that decide."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from post_training import save_conversations, save_tiny
from support import PlainArtifact, make_artifact, make_run

from components.sft.conversation_store import read_conversations
from components.sft.factories import ablation
from components.sft.factories.ablation import (
    OWN_METRICS,
    ComposeConfig,
    MeasureConfig,
    PoolsConfig,
    compare,
    compose,
    measure,
    write_pools,
)
from components.sft.factories.build import FACTORIES, load
from components.sft.factories.held_out import answered
from components.stage import StageError
from model.tokenizer import Tokenizer

FEW = ("long_generation", "mathematics", "cross_lingual", "system_prompts")
POOLS = PoolsConfig(tokens=6_000, held_out=8, longest=1_200)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> PlainArtifact:
    return make_artifact("checkpoint", save_tiny(tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def pools(base: PlainArtifact, tmp_path_factory: pytest.TempPathFactory) -> PlainArtifact:
    run = make_run(tmp_path_factory.mktemp("pools"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "FACTORIES", FEW)
        write_pools(POOLS, {"tokenizer": base}, run)
    return make_artifact("conversations", run.output)


def test_no_record_is_made_from_what_a_held_out_one_is_made_from(pools: PlainArtifact) -> None:
    held_out = read_conversations(pools, "heldout")
    assert Counter(c.task for c in held_out) == dict.fromkeys(FEW, POOLS.held_out)
    sources = {answered(c, "").source for c in held_out}
    assert len(sources) == len(held_out)
    assert not sources & {answered(c, "").source for c in read_conversations(pools, "sft")}


def test_pools_hold_the_tokens_that_they_say(pools: PlainArtifact, base: PlainArtifact) -> None:
    tokenizer, records = Tokenizer.load(base.path), read_conversations(pools, "sft")
    sizes = [len(tokenizer.render_chat(c.messages, add_generation_prompt=False)) for c in records]
    assert sizes == [c.meta["tokens"] for c in records]
    assert max(sizes) <= POOLS.longest
    for name in FEW:
        own = [size for size, record in zip(sizes, records, strict=True) if record.task == name]
        assert POOLS.tokens <= sum(own) < POOLS.tokens + own[-1] + 1


def test_with_and_without_a_factory_the_tokens_are_equal(
    pools: PlainArtifact, base: PlainArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "FACTORIES", FEW)
    talks = make_artifact("conversations", save_conversations(tmp_path / "talks", base.path))
    totals, told = [], []
    for left_out in ("", "mathematics"):
        run = make_run(tmp_path / f"arm-{left_out}")
        summary = compose(
            ComposeConfig(left_out=left_out, tokens=15_000), {"pools": pools, "conversations": talks}, run
        )  # fmt: skip
        totals.append(summary["tokens"])
        told.append(Counter(c.task for c in read_conversations(run.output, "sft")))
    assert totals[0] == pytest.approx(totals[1], abs=POOLS.longest)
    assert totals[0] >= 15_000
    assert set(told[0]) == set(FEW)
    assert set(told[1]) == set(FEW) - {"mathematics"}
    assert told[1]["cross_lingual"] > told[0]["cross_lingual"]


@pytest.mark.parametrize("name", FEW)
def test_a_perfect_answer_is_accepted_and_another_one_is_not(name: str, pools: PlainArtifact) -> None:
    own = [c for c in read_conversations(pools, "heldout") if c.task == name]
    answers = [c.messages[-1]["content"] for c in own]
    assert all(v.accepted for v in load(name).check([answered(*pair) for pair in zip(own, answers, strict=True)]))
    assert not any(v.accepted for v in load(name).check([answered(c, "I do not know.") for c in own]))


def test_a_checkpoint_is_asked_the_held_out_prompts_of_one_factory(
    pools: PlainArtifact, base: PlainArtifact, tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    summary = measure(MeasureConfig(factory="cross_lingual"), {"checkpoint": base, "pools": pools}, run)
    # an untrained model writes noise, and every token is as likely as any other
    assert summary["accepted"] == 0
    assert summary["nats_per_token"] == pytest.approx(np.log(Tokenizer.load(base.path).vocab_size), rel=0.05)


def test_a_factory_that_has_too_little_is_named(
    base: PlainArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "FACTORIES", ("system_prompts",))
    monkeypatch.setattr(ablation, "MOST_DRAWN", 1)
    too_short = PoolsConfig(tokens=10**6, held_out=1, longest=60)
    with pytest.raises(StageError, match=r"factory system_prompts: .* are all that it has"):
        write_pools(too_short, {"tokenizer": base}, make_run(tmp_path))


def scores(accepted: int, of: int, nats: float) -> dict[str, object]:
    return {"reasons": [""] * accepted + ["goes on"] * (of - accepted), "nats": [nats] * of, "tokens": [4] * of}


def test_what_lowers_a_metric_is_told_from_what_does_not() -> None:
    """Worse for sure, a little worse, and better; the shares by hand."""
    by_check = [name for name in FACTORIES if not OWN_METRICS[name].nats]
    whole = [dict(zip(by_check, (scores(36, 40, 4.0), scores(10, 40, 4.0), scores(20, 40, 4.0)), strict=True))]
    without = [dict(zip(by_check, (scores(4, 40, 8.0), scores(9, 40, 4.0), scores(30, 40, 2.0)), strict=True))]
    rows = compare(whole, without)
    assert [row["lowered"] for row in rows] == [True, False, False]
    assert [row["difference"] for row in rows] == pytest.approx([-0.8, -0.025, 0.25])
    assert rows[0]["nats"] == [1.0, 2.0]
    assert rows[2]["low"] > 0


def test_more_nats_are_worse() -> None:
    name = next(name for name in FACTORIES if OWN_METRICS[name].nats)
    rng = np.random.default_rng(0)
    seeds = [{"reasons": [""] * 30, "nats": (4 + rng.random(30)).tolist(), "tokens": [4] * 30} for _ in range(3)]
    worse = [one | {"nats": [n + 1 for n in one["nats"]]} for one in seeds]
    [row] = compare([{name: one} for one in seeds], [{name: one} for one in worse])
    assert row["lowered"]
    assert row["difference"] == pytest.approx(0.25)
    [row] = compare([{name: one} for one in worse], [{name: one} for one in seeds])
    assert not row["lowered"]
