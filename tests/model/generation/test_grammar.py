"""Constrained answers of a model with random weights: always what the schema or the expression accepts."""

import json
import re

import jsonschema
import pytest
from model_shapes import make_config, make_model

from model.generation import Engine, Request, generate
from model.tokenizer import Tokenizer

TEXTS = [
    '{"name": "Ann", "age": 12, "tags": ["a", "b"], "ok": true}\n',
    "The year 1984 was cold. 你好 🙂 null false -1.5",
]
SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "ok": {"type": "boolean"},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "array of enums": {
        "type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 1, "maxItems": 4
    },
    "nested": {
        "type": "object",
        "properties": {
            "points": {
                "type": "array",
                "maxItems": 2,
                "items": {"anyOf": [{"type": "boolean"}, {"$ref": "#/$defs/pair"}]},
            }
        },
        "required": ["points"],
        "additionalProperties": False,
        "$defs": {
            "pair": {"type": "array", "prefixItems": [{"const": "x"}, {"const": 1}], "minItems": 2, "items": False}
        },
    },
}  # fmt: skip
EXPRESSIONS = [r"[a-c]{2,5}", r"(yes|no)( because .{3,10})?", r"\d{4}-\d{2}-\d{2}", r"(你|好){2}"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS * 3, 400)


@pytest.fixture(scope="module")
def engine(tokenizer):
    """The model has more rows than the tokenizer has tokens, as the published ones do."""
    return Engine(
        make_model(make_config(vocab_size=tokenizer.vocab_size + 20, max_position_embeddings=1024)), tokenizer
    )


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_answers_are_json_of_the_schema(name, temperature, engine):
    prompts = [[index, 3, 5] for index in range(8)]
    for answer in generate(
        engine, prompts, max_new_tokens=900, temperature=temperature, json_schema=SCHEMAS[name], seed=5
    ):
        assert answer.finished
        jsonschema.validate(json.loads(answer.text), SCHEMAS[name])


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_answers_match_the_expression(expression, engine):
    answers = generate(engine, [[1], [2], [3]], max_new_tokens=100, temperature=1.5, regex=expression, seed=1)
    for answer in answers:
        assert answer.finished
        assert re.fullmatch(expression, answer.text)


def test_a_free_request_beside_a_constrained_one_is_not_touched(engine, tokenizer):
    free = Request(prompt=[7, 8], max_new_tokens=12, temperature=1.0, seed=2)
    [alone] = generate(engine, [[7, 8]], max_new_tokens=12, temperature=1.0, seed=2)
    bound = Request(prompt=[7, 8], max_new_tokens=40, temperature=1.0, seed=2, regex="[ab]{3}")
    first, second = engine.add(free), engine.add(bound)
    tokens: dict[int, list] = {first: [], second: []}
    while engine.busy:
        for event in engine.step():
            tokens[event.id].append(event.token)
    assert tokens[first] == alone.tokens
    assert re.fullmatch("[ab]{3}", tokenizer.decode(tokens[second]))


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"json_schema": {"type": "objct"}}, "json_schema cannot be compiled"),
        ({"json_schema": "{"}, "json_schema is not a JSON schema"),
        ({"regex": "(("}, "regex cannot be compiled"),
        ({"regex": "a", "json_schema": {}}, "exclude each other"),
    ],
)
def test_bad_constraints_are_refused_in_one_line(engine, constraint, message):
    with pytest.raises(ValueError, match=message) as caught:
        engine.add(Request(prompt=[1], max_new_tokens=4, **constraint))
    assert "\n" not in str(caught.value)
    assert not engine.busy


def test_constraints_and_stop_strings_need_a_tokenizer():
    engine = Engine(make_model(make_config()))
    for options in ({"regex": "a"}, {"json_schema": {}}, {"stop_strings": ["."]}):
        with pytest.raises(ValueError, match="need an engine with a tokenizer"):
            engine.add(Request(prompt=[1], max_new_tokens=4, **options))
