"""Generation against ``transformers``; sampling that depends on the request alone; log-probabilities that are true."""

import random
from collections import Counter

import pytest
import torch
from model_shapes import CONFIGS, make_config, make_model

from model import generation
from model.generation import generate
from model.loss import token_log_probs


@pytest.fixture(scope="module")
def model():
    return make_model(make_config(8, 2, tie_word_embeddings=True))


@pytest.fixture(scope="module")
def prompts():
    source = random.Random(0)
    return [[source.randrange(200) for _ in range(source.randrange(1, 20))] for _ in range(10)]


STOPS = tuple(range(12))
SAMPLING = [{}, {"top_p": 0.7}, {"top_k": 5}, {"top_k": 20, "top_p": 0.9}]


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_equals_transformers(name, twin, prompts):
    model = make_model(CONFIGS[name])
    theirs = twin(model)
    answers = generate(model, prompts, max_new_tokens=16)
    for prompt, answer in list(zip(prompts, answers, strict=True))[:5]:
        ids = torch.tensor([prompt])
        expected = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0,
            eos_token_id=None,
        )  # fmt: skip
        assert answer.tokens == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("options", SAMPLING)
def test_a_request_does_not_depend_on_its_batch(model, prompts, options):
    settings = {"max_new_tokens": 20, "temperature": 0.9, "stop_ids": STOPS, "seed": 3, **options}
    together = generate(model, prompts, samples_per_prompt=3, **settings)
    reversed_order = generate(model, [[5, 6, 7], *prompts[::-1]], samples_per_prompt=3, batch_rows=7, **settings)[3:]
    alone = generate(model, [prompts[4]], samples_per_prompt=3, **settings)
    for index in range(len(prompts)):
        mirrored = len(prompts) - 1 - index
        for sample in range(3):
            assert together[3 * index + sample].tokens == reversed_order[3 * mirrored + sample].tokens
    assert [answer.tokens for answer in together[12:15]] == [answer.tokens for answer in alone]


def test_the_seed_and_the_repetition_matter(model, prompts):
    settings = {"max_new_tokens": 12, "temperature": 1.0}
    first = generate(model, prompts, seed=1, **settings)
    assert first == generate(model, prompts, seed=1, **settings)
    assert first != generate(model, prompts, seed=2, **settings)
    repeated = generate(model, [prompts[0]] * 3, seed=1, **settings)
    assert len({tuple(answer.tokens) for answer in repeated}) == 3
    sampled = generate(model, prompts[:1], seed=1, samples_per_prompt=3, **settings)
    assert [answer.tokens for answer in repeated] == [answer.tokens for answer in sampled]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, *({"temperature": 0.7, **item} for item in SAMPLING)])
def test_log_probs_equal_teacher_forcing(model, prompts, options):
    answers = generate(model, prompts, max_new_tokens=15, stop_ids=STOPS, samples_per_prompt=2, **options)
    temperature = options["temperature"] or 1.0
    for index, answer in enumerate(answers):
        prompt = prompts[index // 2]
        ids = torch.tensor([prompt + answer.tokens])
        with torch.no_grad():
            hidden = model(ids)[:, :-1] / temperature
            forced = token_log_probs(hidden, model.output_weight, ids[:, 1:])[0, len(prompt) - 1 :]
        torch.testing.assert_close(torch.tensor(answer.log_probs), forced, atol=1e-4, rtol=1e-4)


def test_answers_end_at_their_first_stop_token(model, prompts):
    answers = generate(model, prompts * 4, max_new_tokens=30, temperature=1.0, stop_ids=STOPS)
    assert {answer.finished for answer in answers} == {True, False}
    for answer in answers:
        assert answer.finished == (answer.tokens[-1] in STOPS)
        assert not any(token in STOPS for token in answer.tokens[:-1])
        assert answer.finished or len(answer.tokens) == 30
        assert len(answer.log_probs) == len(answer.tokens)


def test_samples_follow_the_distribution(model):
    """Total variation of 4,000 draws from the exact distribution stays within what chance allows."""
    prompt = [3, 14, 15]
    draws = generate(
        model, [prompt], max_new_tokens=1, temperature=0.8, top_k=4, samples_per_prompt=4000, batch_rows=4000
    )  # fmt: skip
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([prompt])))[0, -1] / 0.8
    values, tokens = logits.topk(4)
    counts = Counter(draw.tokens[0] for draw in draws)
    assert counts.keys() <= set(tokens.tolist())
    for token, share in zip(tokens.tolist(), values.softmax(0).tolist(), strict=True):
        assert counts[token] / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass(model):
    sampler = generation._Sampler(1.0, top_p=0.6, top_k=0)
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().repeat(100, 1)
    chosen, log_probs = sampler(logits, torch.linspace(0, 0.9999, 100).double())
    assert set(chosen.tolist()) == {1, 3}
    torch.testing.assert_close(log_probs[0], torch.tensor(0.5).log())  # under the whole distribution


def test_long_prompts_are_read_in_several_batches(model, prompts, monkeypatch):
    expected = generate(model, prompts, max_new_tokens=5)
    monkeypatch.setattr(generation, "PREFILL_TOKENS", 25)
    assert [a.tokens for a in generate(model, prompts, max_new_tokens=5)] == [a.tokens for a in expected]


def test_no_prompts_no_answers(model):
    assert generate(model, [], max_new_tokens=4) == []


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"samples_per_prompt": 0}],
)
def test_bad_settings_are_refused(model, settings):
    with pytest.raises(ValueError, match=r"must be at least|out of range"):
        generate(model, [[1]], **{"max_new_tokens": 4, **settings})


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        generate(model, [[1], []], max_new_tokens=4)
