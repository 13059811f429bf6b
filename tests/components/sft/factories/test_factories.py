"""The nine factories: what is planted is found, what is right stays, and the stage counts and explains it."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from components.sandbox.isolation import available_isolation
from components.sft.conversation_store import Conversation, read_conversations, write_conversations
from components.sft.factories import build, coding, instructions, logic, mathematics, structured, system_prompts
from components.sft.factories.build import FACTORIES, FactoriesConfig, load, make_factories
from components.sft.factories.factory import Candidate, Factory, accept
from components.sft.problems import WORDS
from components.stage import StageError
from flows.recipe import load_recipe
from tests.support import make_artifact, make_run

NEEDS_SANDBOX = {"coding", "instructions"}
SIZES = {"coding": 24, "instructions": 60}


def candidates(name: str, count: int, planted: float, seed: int = 0) -> list[Candidate]:
    if name in NEEDS_SANDBOX and available_isolation() == "limits":
        pytest.skip("this host offers no isolation")
    return list(islice(load(name).write(random.Random(seed), planted), count))


def test_there_are_nine_in_the_order_of_the_report() -> None:
    assert [load(name).number for name in FACTORIES] == list(range(1, 10))


@pytest.mark.parametrize("name", FACTORIES)
def test_a_tenth_is_wrong_and_all_of_it_is_found(name: str) -> None:
    written = candidates(name, SIZES.get(name, 400), 0.1 if name not in SIZES else 0.3)
    verdicts = load(name).check(written)
    wrong = [v for c, v in zip(written, verdicts, strict=True) if c.planted]
    right = [v for c, v in zip(written, verdicts, strict=True) if not c.planted]
    assert wrong
    assert not [v for v in wrong if v.accepted]
    accepted = sum(v.accepted for v in right)
    if name == "long_generation":  # a text may have no end of a sentence near the demanded length
        accepted += sum(v.reason in ("length", "no end") for v in right)
    # a starved machine may let a compiler run out of time; nothing else may be lost
    assert accepted + sum(v.reason == "timeout" for v in right) >= 0.98 * len(right), [v for v in right if v.reason][:3]
    assert all(v.evidence for v in verdicts if v.accepted)
    assert all(v.reason for v in wrong)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_same_seed_writes_the_same_candidates(name: str) -> None:
    assert candidates(name, 20, 0.1, seed=3) == candidates(name, 20, 0.1, seed=3)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("3 * 4 = 12\n100 - 12 = 88\nAnswer: 88", ""),
        ("3 * 4 = 12\n100 - 12 = 88\nAnswer: 176/2", ""),
        ("3 * 4 = 13\n100 - 12 = 88\nAnswer: 88", "flawed step"),
        ("3 * 4 = 12\nAnswer: 87", "wrong answer"),
        ("It is 88.", "no answer line"),
        ("Answer: 88", "no chain of thought"),
    ],
)
def test_mathematics_looks_at_answer_and_steps(response: str, reason: str) -> None:
    assert mathematics.check(Candidate("", [], response, "88")).reason == reason


@pytest.mark.parametrize("form", structured.FORMATS)
def test_a_table_survives_each_format(form: str) -> None:
    table = [{"name": "Ann", "note": "a & b < c"}, {"name": "Ben", "note": "d, e"}]
    assert structured.parse(structured.render(table, form), form) == table


def test_a_wrong_verifier_is_caught_by_its_unit_tests() -> None:
    for demand in instructions.demands(random.Random(5), list(WORDS[:5])):
        assert demand.slip[0] in demand.verifier, demand.name
        assert demand.keep
        assert demand.breach


def test_every_language_computes_the_same() -> None:
    if available_isolation() == "limits":
        pytest.skip("this host offers no isolation")
    steps, fold, tests = [("odd", 0), ("times", 3), ("above", 10)], "alternate", [[1, 2, 3, 4, 5, 7], []]
    expected = [coding.meaning(steps, fold, numbers) for numbers in tests]
    facts = {"tests": [" ".join(map(str, numbers)) for numbers in tests]}
    agents = [agent for agent in coding.AGENTS if agent.language in coding.available_agents()]
    programs = [Candidate(a.language, [], coding.render(a, steps, fold), expected, facts) for a in agents]
    verdicts = dict(zip([a.language for a in agents], coding.check(programs), strict=True))
    assert {name: v.reason for name, v in verdicts.items() if v.reason not in ("", "timeout")} == {}


def test_logic_is_solved_from_its_facts_alone() -> None:
    facts = {"kind": "causal", "causes": [["a", "b"], ["b", "c"]], "start": "a", "blocked": "b", "asked": "c"}
    assert logic.solve(facts)[0] == "it does not happen"
    assert logic.solve({**facts, "blocked": ""})[0] == "it happens"


def test_there_are_hundreds_of_system_prompts_and_their_variance_is_measured() -> None:
    assert len({prompt for prompt, _ in system_prompts.system_prompts()}) >= 200
    written = candidates("system_prompts", 300, 0.0)
    assert system_prompts.variance(written, system_prompts.FACTORY.check(written)) == 0.0


def test_the_stage_writes_records_with_evidence_and_counts_reasons(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    config = FactoriesConfig(records={"mathematics": 40, "logic": 30, "filtering": 20})
    summary = make_factories(config, {}, run)
    records = read_conversations(run.output, "sft")
    assert len(records) == summary["conversations"] == 90
    assert all(record.meta["evidence"] and record.messages[-1]["role"] == "assistant" for record in records)
    tally = summary["factories"]["mathematics"]
    assert tally["planted"] == sum(tally["reasons"].values()) > 0
    assert 0.8 < tally["acceptance"] < 1
    rejected = [json.loads(line) for line in (run.output / "rejected.jsonl").read_text().splitlines()]
    assert {row["factory"] for row in rejected} <= {"mathematics", "logic", "filtering"}


def test_a_check_that_accepts_what_is_planted_fails_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = Factory(2, "mathematics", mathematics.write, lambda batch: [accept(seen=True) for _ in batch])
    monkeypatch.setattr(build, "load", lambda name: blind)
    with pytest.raises(StageError, match="accepts a planted error"):
        make_factories(FactoriesConfig(records={"mathematics": 100}), {}, make_run(tmp_path))


def test_an_unknown_factory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no factory 'poetry'; there are long_generation"):
        make_factories(FactoriesConfig(records={"poetry": 1}), {}, make_run(tmp_path))


def test_no_record_comes_close_to_a_held_out_prompt(tmp_path: Path) -> None:
    config = FactoriesConfig(records={"logic": 20})
    free = make_run(tmp_path / "free")
    make_factories(config, {}, free)
    taken = read_conversations(free.output)[4]
    heldout = Conversation("heldout-x-0", "heldout", "x", taken.prompt, "", {"content": taken.prompt[-1]["content"]})
    (tmp_path / "conversations").mkdir()
    write_conversations(tmp_path / "conversations", [heldout])
    run = make_run(tmp_path / "clean")
    summary = make_factories(config, {"conversations": make_artifact("conversations", tmp_path / "conversations")}, run)
    kept = [c.prompt for c in read_conversations(run.output)]
    assert taken.prompt not in kept
    assert len(kept) == 20
    assert summary["factories"]["logic"]["reasons"]["contaminated"] >= 1


def test_the_factories_recipe_asks_for_three_hundred_of_each_and_plants_a_tenth() -> None:
    config = load_recipe(Path(__file__).parents[4] / "recipes" / "factories.toml").factories
    assert config is not None
    assert config.planted_share == 0.1
    assert set(config.records) == set(FACTORIES)
    assert min(config.records.values()) >= 300


def test_three_hundred_records_are_there_to_be_made(tmp_path: Path) -> None:
    """Of all but coding, whose compilers take minutes: `qwenforge factories recipes/factories.toml` makes those too."""
    names = [n for n in FACTORIES if n != "coding" and not (n in NEEDS_SANDBOX and available_isolation() == "limits")]
    summary = make_factories(FactoriesConfig(records=dict.fromkeys(names, 300)), {}, make_run(tmp_path))
    for name in names:
        tally = summary["factories"][name]
        assert tally["records"] == 300, name
        assert 0.06 < tally["planted"] / tally["candidates"] < 0.15, name
        assert sum(tally["reasons"].values()) >= tally["planted"], name
        assert tally["acceptance"] > 0.8, name
