"""Pairwise judging: a judge's bias for a place or a form is seen and taken out; numbers agree with scikit-learn's."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from benchmark_models import tiny_checkpoint
from sklearn.linear_model import LogisticRegression

from components.evaluation.judging import battles as b
from components.evaluation.judging.judges import Duel, EndpointJudge, RewardJudge, graded, read_verdict
from components.preference.reward_scoring import RewardModel
from components.stage import StageError
from components.teacher import EndpointTeacher
from model.checkpoint import load_model
from model.tokenizer import Tokenizer

LONG, SHORT = "word " * 60, "word " * 20


def judged(verdict_of):
    """A judge that goes by a rule."""

    def judge(duels, advance=lambda done: None):
        return [verdict_of(duel) for duel in duels]

    return judge


@pytest.mark.parametrize(("text", "verdict"), [
    ("... my own answer. [[B>A]] is tempting, but: [[A>>B]]", 2), ("My final verdict is tie: [[A=B]].", 0),
    ("[[b>>a]]", -2), ("[[A<B]]", -1), ("A>B", None), ("[[C>D]]", None), ("", None),
])  # fmt: skip
def test_verdicts_are_read(text: str, verdict: int | None) -> None:
    assert read_verdict(text) == verdict


def test_a_judge_who_always_likes_the_first_place_finds_a_tie() -> None:
    duels = [Duel(f"question {n}", f"one {n}", f"other {n}") for n in range(40)]
    battles, verdicts = b.fight(duels, judged(lambda duel: 1))
    assert verdicts[0] == (1, -1)
    found = b.summary(battles, resamples=200)
    assert found["win_rate"]["value"] == 0.5 and found["same_in_both_orders"] == 0.0


def test_strong_verdicts_count_three_times_and_silent_ones_not_at_all() -> None:
    said = iter([2, 1, None, -1, -2, 1, None, None])  # four duels straight, and then turned around
    duels = [Duel("q", str(n), "x") for n in range(4)]
    battles, verdicts = b.fight(duels, lambda duels, advance: [next(said) for _ in duels])
    assert verdicts == [(2, 2), (1, -1), (None, None), (-1, None)]
    # Won 3 + 3 of the first question and 1 of the second; lost 1 of the second and 1 of the fourth.
    assert b.win_rate(battles) == pytest.approx(7 / 9)
    found = b.summary(battles, resamples=100)
    assert found["unread_verdicts"] == 3 and found["win_rate"]["n"] == 3
    with pytest.raises(ValueError, match="no verdict"):
        b.summary(b.fight(duels, judged(lambda duel: None))[0])


def simulated(rng: np.random.Generator, skill: float, taste: float, count: int) -> b.Battles:
    """Wins by ``skill`` and by a ``taste`` for length; the first checkpoint is the wordier one in most duels."""
    styles = np.zeros((count, 4))
    styles[:, 0] = rng.uniform(-0.2, 0.6, count)
    chance = 1 / (1 + np.exp(-(skill + taste * styles[:, :1])))
    outcomes = (rng.random((count, 2)) < chance).astype(float)
    return b.Battles(outcomes, np.ones((count, 2)), styles)


def test_a_taste_for_length_is_taken_out() -> None:
    battles = simulated(np.random.default_rng(0), skill=0.0, taste=6.0, count=1_500)
    found = b.summary(battles, resamples=100)
    assert found["win_rate"]["low"] > 0.6
    level = found["win_rate_style_controlled"]
    assert level["low"] < 0.5 < level["high"] and level["value"] == pytest.approx(0.5, abs=0.05)
    assert found["style"]["length"] > 1 > abs(found["style"]["bold"])
    better = b.summary(simulated(np.random.default_rng(1), skill=1.0, taste=6.0, count=1_500), resamples=50)
    assert better["win_rate_style_controlled"]["value"] == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.05)


def test_the_regression_is_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    battles = simulated(rng, skill=0.4, taste=2.0, count=200)
    styles = rng.uniform(-1, 1, (200, 4))
    battles = b.Battles(battles.outcomes, rng.choice([1.0, 3.0], (200, 2)), styles)
    level, slopes = b.controlled(battles)
    peer = LogisticRegression(C=1 / b.RIDGE, tol=1e-10, max_iter=1_000)
    peer.fit(np.repeat(styles / styles.std(axis=0), 2, axis=0), battles.outcomes.ravel(), battles.weights.ravel())
    assert slopes == pytest.approx(peer.coef_[0], abs=1e-3)
    assert level == pytest.approx(1 / (1 + np.exp(-peer.intercept_[0])), abs=1e-3)


def test_the_interval_holds_the_true_rate_as_often_as_it_says() -> None:
    held = 0
    for trial in range(120):
        battles = simulated(np.random.default_rng(trial), skill=0.5, taste=0.0, count=120)
        draws = np.random.default_rng(trial).multinomial(120, np.full(120, 1 / 120), size=300)
        low, high = np.quantile([b.win_rate(battles, counts) for counts in draws], [0.025, 0.975])
        held += low <= 1 / (1 + np.exp(-0.5)) <= high
    assert held / 120 > 0.88


def test_style_is_what_is_seen() -> None:
    text = "# Title\n\n- one\n* two\n1. three\nSome **bold** words and __more__.\n```\n# no header\n- no item\n```"
    assert b.style(text)[1:].tolist() == [1, 3, 2]
    assert b.style_gap(LONG, SHORT)[0] == pytest.approx(0.5) and not b.style_gap("", "").any()


def test_an_endpoint_is_asked_in_arena_hards_words_once(tmp_path: Path) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        asked.append(body)
        first = body["messages"][1]["content"].split("Assistant A's Answer|>\n")[1].split("\n<|")[0]
        content = f"My own answer.\n\nMy final verdict is: [[{'A>B' if first == 'good' else 'B>A'}]]"
        return httpx.Response(200, json={"choices": [{"message": {"content": content}}]})

    duels = [Duel("What?", "good", "bad")]
    for _ in range(2):  # a second command reads what the first has kept
        teacher = EndpointTeacher("http://judge/v1", "large", tmp_path, 10**9, transport=httpx.MockTransport(answer))
        battles, _ = b.fight(duels, EndpointJudge(teacher))
        assert b.win_rate(battles) == 1.0
    assert len(asked) == 2 and asked[0]["model"] == "large"
    assert asked[0]["messages"][0]["content"].startswith("Please act as an impartial judge")
    broken = httpx.MockTransport(lambda request: httpx.Response(404, text="no such model"))
    teacher = EndpointTeacher("http://judge/v1", "none", tmp_path, 10**9, transport=broken)
    with pytest.raises(StageError, match="answers 404"):
        EndpointJudge(teacher)(duels)


def test_a_reward_model_judges_the_same_in_both_orders(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    model = RewardModel(load_model(folder)).eval()
    torch.manual_seed(0)
    model.score.weight.data.normal_(0, 1)
    model.mean, model.std = 0.3, 2.0
    judge = RewardJudge(model, Tokenizer.load(folder))
    duels = [Duel("a few words", f"letters {n} " * (n % 3 + 1), "words and letters") for n in range(6)]
    straight, turned = judge(duels), judge([duel.swapped() for duel in duels])
    assert straight == [-verdict for verdict in turned] and set(straight) <= {-2, -1, 1, 2}
    assert [graded(gap) for gap in (0.0, 0.5, -0.5, 1.2, -5.0)] == [0, 1, -1, 2, -2]
