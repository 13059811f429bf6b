"""Factories whose responses are a teacher's: what is asked, what is kept, what it costs."""

import json
import random
from itertools import islice

import pytest
from support import make_run

from components.sft.conversation_store import read_conversations
from components.sft.factories import build, preview
from components.sft.factories.build import FactoriesConfig, load, make_factories
from components.sft.factories.factory import Candidate
from components.sft.factories.system_prompts import system_prompts
from components.sft.factories.taught import Sampling, pass_rates, taught
from components.stage import StageError
from components.teacher import Usage

SEED = 3


class Pupil:
    """Knows the factory's own responses by heart, and says every second one wrong."""

    def __init__(self, *names: str) -> None:
        self.usage = Usage()
        self.asked: list[list[dict[str, str]]] = []
        self.known = {
            self.key(c.messages): c.response
            for name in names
            for c in islice(load(name).write(random.Random(f"{SEED}-factory-{name}"), 0.2), 3000)
            if not c.planted
        }

    @staticmethod
    def key(messages) -> str:
        return json.dumps([message for message in messages if message["role"] == "system"] + [messages[-1]])

    def sample_all(self, conversations, *, samples, max_tokens, temperature, seed):
        self.asked += conversations
        self.usage.prompt_tokens += 100 * len(conversations) * samples
        self.usage.answer_tokens += 10 * len(conversations) * samples
        right = [self.known.get(self.key(messages), "I do not know.") for messages in conversations]
        return [[text if sample % 2 else f"{text}\nAnswer: -99" for sample in range(samples)] for text in right]


@pytest.fixture
def pupil(monkeypatch):
    pupil = Pupil("mathematics", "logic", "system_prompts")
    monkeypatch.setattr(build, "make_teacher", lambda kind, config, run: pupil)
    return pupil


def config(**changes) -> FactoriesConfig:
    changes = {"records": {"mathematics": 20}, "planted_share": 0.2, "writer": "endpoint", **changes}
    return FactoriesConfig.model_validate(changes)


def test_what_holds_is_kept_once_a_prompt_with_how_often_it_held(pupil, tmp_path) -> None:
    run = make_run(tmp_path, SEED)
    prices = {"prompt_price": 2.0, "answer_price": 5.0}
    summary = make_factories(config(teacher=prices, records={"mathematics": 20, "system_prompts": 20}), {}, run)
    kept = list(read_conversations(run.output, "sft"))
    assert len(kept) == 40
    assert len({json.dumps(conversation.prompt) for conversation in kept}) == 40
    assert all(conversation.meta["pass_rate"] == 0.5 for conversation in kept)
    assert not any("-99" in conversation.messages[-1]["content"] for conversation in kept)
    tally = summary["factories"]["mathematics"]
    assert tally["planted"] == tally["planted_rejected"] > 0
    assert tally["reasons"]["wrong answer"] > 0
    spent = summary["teacher"]
    assert spent["prompt_tokens"] == pupil.usage.prompt_tokens
    assert spent["cost"] == pytest.approx((spent["prompt_tokens"] * 2 + spent["answer_tokens"] * 5) / 1e6)


def test_a_question_comes_after_one_of_its_task_with_a_right_answer(pupil) -> None:
    factory = taught(load("system_prompts"), pupil, Sampling(2, 1.0, 50, SEED, at_once=100))
    list(islice(factory.write(random.Random(f"{SEED}-factory-system_prompts"), 0.2), 200))
    written = load("system_prompts").write(random.Random(f"{SEED}-factory-system_prompts"), 0.2)
    answer_to = {candidate.messages[-1]["content"]: candidate.answer for candidate in islice(written, 200)}
    first, *others = pupil.asked
    assert [message["role"] for message in first] == ["system", "user"]
    for messages in others[20:]:
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
        rule = next(rule for prompt, rule in system_prompts() if prompt == messages[0]["content"])
        shown = Candidate(rule, [], messages[2]["content"], answer_to[messages[1]["content"]], {"rule": rule})
        assert factory.check([shown])[0].accepted
        assert messages[1] != messages[3]


def test_only_prompts_of_the_wanted_difficulty_stay(pupil, tmp_path) -> None:
    with pytest.raises(StageError, match=r"cannot make 20 different records"):
        make_factories(config(difficulty=(0.7, 0.9)), {}, make_run(tmp_path, SEED))
    assert make_factories(config(difficulty=(0.5, 0.5)), {}, make_run(tmp_path, SEED))["conversations"] == 20


def test_a_teacher_that_knows_nothing_ends_the_stage(pupil, tmp_path) -> None:
    pupil.known = {}
    with pytest.raises(StageError, match=r"mathematics: only 0 of \d+ accepted"):
        make_factories(config(), {}, make_run(tmp_path, SEED))


def test_pass_rates_leave_out_what_is_wrong_on_purpose() -> None:
    candidates = list(islice(load("mathematics").write(random.Random(0), 0.5), 40))
    planted = next(c for c in candidates if c.planted)
    plain = next(c for c in candidates if not c.planted)
    assert pass_rates([planted, plain, plain, plain], [False, True, False, True], 2) == [1.0, 1.0, 0.5, 0.5]


def test_programs_are_taken_out_of_their_fences(pupil) -> None:
    factory = load("coding")
    programs = iter(taught(factory, pupil, Sampling(1, 1.0, 50, SEED)).write(random.Random(1), 0.0))
    pupil.sample_all = lambda asked, **how: [["Here it is:\n```python\nprint(1)\n```\nIt prints 1."]] * len(asked)
    assert next(programs).response == "print(1)\n"


def test_queries_are_written_for_documents(pupil) -> None:
    factory = load("long_generation")
    candidates = taught(factory, pupil, Sampling(2, 1.0, 50, SEED, at_once=4)).write(random.Random(1), 0.0)
    plain = next(factory.write(random.Random(1), 0.0))
    words = " ".join(plain.facts["asked"])
    pupil.sample_all = lambda asked, **how: [[f"Explain {words}.", "Write a poem about spring flowers and love."]] * 4
    good, bad = islice(candidates, 2)
    assert good.response == bad.response == plain.response
    assert good.messages[0]["content"] == f"Explain {words}. Write about {plain.facts['words']} words."
    assert [verdict.reason for verdict in factory.check([good, bad])] == ["", "not about the query"]


def test_a_dry_run_asks_little_and_says_what_the_rest_takes(pupil, tmp_path) -> None:
    found = preview.preview(
        config(records={"mathematics": 1000, "logic": 500}, teacher={"answer_price": 1.0}), make_run(tmp_path, SEED)
    )
    assert len(pupil.asked) == 2 * preview.TAUGHT_PROMPTS
    assert len(found["samples"]) == preview.SHOWN
    row = found["factories"]["mathematics"]
    assert row["prompts"] == preview.TAUGHT_PROMPTS
    assert 0 < row["yield"] <= row["prompts"]
    assert row["projected_prompts"] == -(-1000 * row["prompts"] // row["yield"])
    assert row["projected_answer_tokens"] == pytest.approx(row["projected_prompts"] * 4 * 10)
    assert row["projected_cost"] == pytest.approx(row["projected_answer_tokens"] / 1e6)


def test_a_dry_run_without_a_teacher(tmp_path) -> None:
    found = preview.preview(FactoriesConfig(records={"logic": 40}), make_run(tmp_path))
    assert found["factories"]["logic"]["yield"] > 30
    assert "projected_cost" not in found["factories"]["logic"]
