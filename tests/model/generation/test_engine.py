"""The engine: whatever comes, goes or is cancelled, each text is its text alone, and no page stays held."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import EXPERTS, make_config, make_model

from model.generation import Engine, Event, Request
from model.generation.products import Product
from model.tokenizer import Tokenizer

SMALL = make_config(8, 2, num_hidden_layers=1, tie_word_embeddings=True)
# head_dim 32, which the compiled decoder takes; 8, which it leaves to torch
COMPILED = make_config(8, 2, num_hidden_layers=1, tie_word_embeddings=True, hidden_size=256)


@pytest.fixture(scope="module", params=[SMALL, COMPILED], ids=["torch", "compiled"])
def model(request):
    return make_model(request.param)


def requests_of(count: int, seed: int = 0) -> list[Request]:
    """Prompts of all lengths around pages and blocks, some that begin alike, some equal; greedy and not."""
    source = random.Random(seed)
    beginning = [source.randrange(200) for _ in range(37)]
    found = []
    for index in range(count):
        prompt = [source.randrange(200) for _ in range(source.choice([1, 2, 15, 16, 17, 32, 33, 70]))]
        if index % 3 == 1:
            prompt = beginning + prompt
        if index % 4 == 3:
            prompt = list(found[-1].prompt)
        found.append(
            Request(
                prompt=prompt, max_new_tokens=source.choice([1, 5, 20, 40]), temperature=source.choice([0.0, 0.9]),
                repetition_penalty=source.choice([1.0, 1.0, 1.2]), seed=source.randrange(3), sample=index,
            )
        )  # fmt: skip
    return found


def drain(engine: Engine, events: list[Event] | None = None) -> dict[int, list[tuple]]:
    """Tokens and log-probabilities by request, of what was said already and of all that comes."""
    said: dict[int, list[tuple]] = {}
    for event in events or []:
        said.setdefault(event.id, []).append((event.token, event.log_prob))
    while engine.busy:
        for event in engine.step():
            said.setdefault(event.id, []).append((event.token, event.log_prob))
    return said


def write(engine: Engine, request: Request) -> list[tuple]:
    id = engine.add(request)
    return drain(engine)[id]


def alone(model, request: Request) -> list[tuple]:
    return write(Engine(model, max_running=1), request)


@pytest.fixture(scope="module")
def requests(model):
    """Requests, each with its text alone."""
    return [(request, alone(model, request)) for request in requests_of(24)]


SCHEDULES = {
    "all at once": {},
    "in small chunks": {"chunk_tokens": 32},
    "two at a time": {"max_running": 2},
    "out of pages all the time": {"pages": 10},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("order", [1, -1])
def test_every_text_is_its_text_alone(model, requests, name, order):
    engine = Engine(model, **SCHEDULES[name])
    expected, events = {}, []
    for index, (request, text) in enumerate(requests[::order]):
        expected[engine.add(request)] = [token for token, _ in text]
        if index % 2:
            events += engine.step()
    said = drain(engine, events)
    assert {id: [token for token, _ in text] for id, text in said.items()} == expected
    statistics = engine.statistics()
    assert (statistics.pages_used, statistics.running, statistics.waiting) == (0, 0, 0)
    assert statistics.answer_tokens == sum(map(len, expected.values()))
    assert (statistics.preemptions > 0) == (name == "out of pages all the time")


@pytest.mark.skipif(not Product(torch.ones(32, 32)).packed, reason="no kernel here that promises equal bits")
@pytest.mark.parametrize("changes", [{}, {"moe": EXPERTS}, {"hidden_size": 256}], ids=["dense", "experts", "compiled"])
def test_every_number_has_the_bits_that_it_has_alone(changes):
    model = make_model(make_config(8, 2, **changes))
    requests = requests_of(16, seed=1)
    engine = Engine(model, chunk_tokens=48, pages=40)
    ids, events = [], []
    for request in requests:
        ids.append(engine.add(request))
        events += engine.step()
    said = drain(engine, events)
    for id, request in zip(ids, requests, strict=True):
        assert said[id] == alone(model, request)


ACTIONS = st.lists(st.tuples(st.sampled_from(["add", "step", "step", "cancel"]), st.integers(0, 23)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(actions=ACTIONS, pages=st.integers(10, 40), chunk=st.sampled_from([32, 64, 200]), running=st.integers(1, 9))
def test_random_schedules_leave_no_page_held_and_no_text_changed(model, requests, actions, pages, chunk, running):
    engine = Engine(model, pages=pages, chunk_tokens=chunk, max_running=running)
    expected: dict[int, list[int]] = {}
    cancelled: set[int] = set()
    events: list[Event] = []
    for action, number in actions:
        if action == "add":
            request, text = requests[number]
            expected[engine.add(request)] = [token for token, _ in text]
        elif action == "step":
            events += engine.step()
        elif expected:
            id = sorted(expected)[number % len(expected)]
            held = engine.statistics().pages_used
            if engine.cancel(id):
                cancelled.add(id)
                assert engine.statistics().pages_used <= held
    said = drain(engine, events)
    assert engine.statistics().pages_used == 0
    for id, tokens in expected.items():
        mine = [token for token, _ in said.get(id, [])]
        assert mine == (tokens[: len(mine)] if id in cancelled else tokens)


def test_cancelling_frees_the_pages_at_once(model):
    engine = Engine(model)
    reading = engine.add(Request(prompt=[5] * 200, max_new_tokens=9))
    writing = engine.add(Request(prompt=[6] * 50, max_new_tokens=50))
    waiting = engine.add(Request(prompt=[7], max_new_tokens=9))
    engine.step()
    assert engine.statistics().pages_used > 0
    assert engine.cancel(reading)
    assert engine.cancel(waiting)
    assert engine.cancel(writing)
    assert engine.statistics().pages_used == 0
    assert not engine.cancel(writing), "it is gone already"
    assert not engine.busy
    assert engine.step() == []


def test_a_shared_beginning_is_read_once(model):
    beginning = list(range(100))
    engine = Engine(model)
    for index in range(5):
        engine.add(Request(prompt=[*beginning, 150 + index], max_new_tokens=2))
    drain(engine)
    statistics = engine.statistics()
    assert statistics.prompt_tokens == 5 * 101
    assert statistics.reused_tokens == 4 * 96, "whole pages of 16"


def test_the_answers_to_one_query_read_it_once(model):
    engine = Engine(model)
    for sample in range(8):
        engine.add(Request(prompt=list(range(45)), max_new_tokens=4, temperature=1.0, sample=sample))
    drain(engine)
    assert engine.statistics().reused_tokens == 7 * 45


def test_a_conversation_reads_only_what_is_new(model):
    engine = Engine(model)
    prompt = list(range(40))
    answer = [token for token, _ in write(engine, Request(prompt=prompt, max_new_tokens=30))]
    write(engine, Request(prompt=[*prompt, *answer, 7, 8], max_new_tokens=4))
    assert engine.statistics().reused_tokens == 64, "the last token written is in no page yet"


def test_pages_are_evicted_when_their_memory_is_needed(model):
    engine = Engine(model, pages=12)
    first = write(engine, Request(prompt=list(range(64)), max_new_tokens=3))
    for start in range(64, 128, 8):
        write(engine, Request(prompt=list(range(start, start + 64)), max_new_tokens=3))
    reused = engine.statistics().reused_tokens
    assert write(engine, Request(prompt=list(range(64)), max_new_tokens=3)) == first
    assert engine.statistics().reused_tokens == reused


def test_a_long_prompt_does_not_stall_those_who_write(model):
    engine = Engine(model, chunk_tokens=32)
    writer = engine.add(Request(prompt=[1, 2], max_new_tokens=60))
    engine.step()
    reader = engine.add(Request(prompt=list(range(180)), max_new_tokens=3))
    steps = [[event.id for event in engine.step()] for _ in range(6)]
    assert steps[:5] == [[writer]] * 5, "one token a step while 180 tokens are read, 32 a step"
    assert sorted(steps[5]) == [writer, reader]


def test_events_tell_how_an_answer_ends(model):
    engine = Engine(model)
    request = Request(prompt=[1, 2, 3], max_new_tokens=5)
    tokens = [token for token, _ in write(engine, request)]
    by_length, by_stop = (
        engine.add(request),
        engine.add(Request(prompt=[1, 2, 3], max_new_tokens=5, stop_ids=tokens[2:3])),
    )
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    last = {event.id: event for event in events if event.finish}
    assert (last[by_length].finish, last[by_length].stop) == ("length", None)
    assert (last[by_stop].finish, last[by_stop].stop, last[by_stop].token) == ("stop", tokens[2], tokens[2])
    assert sum(event.id == by_stop for event in events) == tokens.index(tokens[2]) + 1


def test_stop_strings_span_tokens_and_are_not_said(tokenizer):
    model = make_model(make_config(vocab_size=tokenizer.vocab_size))
    engine = Engine(model, tokenizer)
    whole = _text(engine, Request(prompt=[40, 41], max_new_tokens=40, temperature=1.0))
    stop = whole[10:14]
    request = Request(prompt=[40, 41], max_new_tokens=40, temperature=1.0, stop_strings=["never said", stop])
    assert _text(engine, request) == whole[: whole.index(stop)]


def _text(engine: Engine, request: Request) -> str:
    engine.add(request)
    text = ""
    while engine.busy:
        text += "".join(event.text for event in engine.step())
    return text


def test_repetition_penalty_equals_transformers(model, twin):
    theirs = twin(model)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, repetition_penalty=1.3,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    request = Request(prompt=ids[0].tolist(), max_new_tokens=30, repetition_penalty=1.3)
    assert [token for token, _ in alone(model, request)] == expected[0, 5:].tolist()


def test_a_prompt_beyond_the_context_is_refused(model):
    engine = Engine(model, context=100)
    with pytest.raises(ValueError, match="the prompt has 120 tokens and the context 100"):
        engine.add(Request(prompt=[1] * 120, max_new_tokens=1))
    small = Engine(model, pages=4)
    with pytest.raises(ValueError, match="the prompt has 80 tokens and the context 64"):
        small.add(Request(prompt=[1] * 80, max_new_tokens=1))


@pytest.mark.parametrize("settings", [{"max_running": 0}, {"pages": 0}, {"chunk_tokens": 8}])
def test_bad_engines_are_refused(model, settings):
    with pytest.raises(ValueError, match="must be at least"):
        Engine(model, **settings)


def test_half_precision_without_packing(model):
    """What a GPU would run, as far as a CPU can: no packed weights, bfloat16."""
    engine = Engine(make_model(SMALL).to(torch.bfloat16))
    assert not engine.network.output.packed
    assert len(write(engine, Request(prompt=list(range(70)), max_new_tokens=20))) == 20


def test_unpacked_weights_give_the_same_texts(model, requests):
    engine = Engine(model, pack=False)
    for request, text in requests[:6]:
        assert [token for token, _ in write(engine, request)] == [token for token, _ in text]


def test_tokenizer_and_text_agree():
    tokenizer = Tokenizer.train(["一些 words "] * 9, 300)
    engine = Engine(make_model(make_config(vocab_size=300)), tokenizer)
    engine.add(Request(prompt=[3], max_new_tokens=50, temperature=2.0))
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
    assert "".join(event.text for event in events) == tokenizer.decode(event.token for event in events)
