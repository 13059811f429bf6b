"""Many answers against ``transformers`` and a plain forward pass; sampling that depends on the request alone;
log-probabilities that are true."""

import random
from collections import Counter

import pytest
import torch
from model_shapes import CONFIGS, make_config, make_model

from model.config import DualChunkConfig, RopeScaling
from model.generation import Engine, generate
from model.loss import token_log_probs


@pytest.fixture(scope="module")
def model():
    return make_model(make_config(8, 2, tie_word_embeddings=True))


@pytest.fixture(scope="module")
def prompts():
    source = random.Random(0)
    return [[source.randrange(200) for _ in range(source.choice([1, 4, 16, 19, 40]))] for _ in range(10)]


def greedily(model, prompt: list[int], count: int) -> list[int]:
    """One whole forward pass a token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    return ids[len(prompt) :]


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


LONG = {
    "dual chunks": {"dual_chunk_attention": DualChunkConfig(chunk_size=40, local_size=8)},
    "dual chunks with a scale": {
        "dual_chunk_attention": DualChunkConfig(chunk_size=40, local_size=8, original_max_position_embeddings=24)
    },
    "yarn": {"rope_scaling": RopeScaling(factor=4.0, original_max_position_embeddings=64)},
}


@pytest.mark.parametrize("name", LONG)
def test_long_texts_equal_whole_forward_passes(name):
    """Prefill and decode over several chunks, prompts that end before, at and after a chunk's end among them."""
    model = make_model(make_config(4, 2, **LONG[name]))
    source = random.Random(1)
    prompts = [[source.randrange(200) for _ in range(length)] for length in (1, 20, 31, 32, 33, 64, 100, 150)]
    answers = generate(model, prompts, max_new_tokens=24)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens == greedily(model, prompt, 24)


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


def test_top_log_probs_are_the_likeliest_tokens(model, prompts):
    [answer] = generate(model, prompts[:1], max_new_tokens=3, temperature=0.5, top_log_probs=4)
    with torch.no_grad():
        logits = model.logits(model(torch.tensor([prompts[0] + answer.tokens[:2]])))[0, -1] / 0.5
    values, tokens = logits.log_softmax(0).topk(4)
    assert [token for token, _ in answer.top[2]] == tokens.tolist()
    torch.testing.assert_close(torch.tensor([value for _, value in answer.top[2]]), values, atol=1e-4, rtol=1e-4)


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


def test_an_engine_serves_several_calls(model, prompts):
    engine = Engine(model)
    first = generate(engine, prompts, max_new_tokens=8)
    assert first == generate(engine, prompts, max_new_tokens=8) == generate(model, prompts, max_new_tokens=8)
    assert engine.statistics().reused_tokens >= sum(map(len, prompts)), "the second call read nothing again"


def test_an_answer_ends_with_the_context(model):
    [answer] = generate(model, [[1] * 250], max_new_tokens=30)
    assert (len(answer.tokens), answer.finished) == (6, False)
    [longer] = generate(model, [[1] * 250], max_new_tokens=30, context=1000)
    assert len(longer.tokens) == 30
    assert longer.tokens[:6] == answer.tokens


def test_no_prompts_no_answers(model):
    assert generate(model, [], max_new_tokens=4) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_k": -1},
        {"samples_per_prompt": 0}, {"repetition_penalty": 0.0}, {"top_log_probs": -1},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(model, settings):
    with pytest.raises(ValueError, match=r"must be at least|out of range"):
        generate(model, [[1]], **{"max_new_tokens": 4, **settings})


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 1 has no tokens"),
        ([3, 200], "prompt 1 holds a token outside the vocabulary of 200 rows"),
        ([1] * 256, "prompt 1 has 256 tokens and the context 256, one of them for the answer: shorten the prompt by 1"),
    ],
)
def test_a_bad_prompt_is_refused_by_its_number(model, prompt, message):
    with pytest.raises(ValueError, match=message):
        generate(model, [[1], prompt], max_new_tokens=4)


def test_the_log_probs_of_chosen_tokens_are_reported(model, prompts):
    answers = generate(model, prompts[:3], max_new_tokens=1, log_probs_of=[7, 150])
    for prompt, answer in zip(prompts, answers, strict=False):
        with torch.no_grad():
            expected = model.logits(model(torch.tensor([prompt])))[0, -1].log_softmax(0)
        torch.testing.assert_close(torch.tensor(answer.asked[0]), expected[[7, 150]], atol=1e-4, rtol=1e-4)
