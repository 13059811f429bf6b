"""The evaluation stage on a tiny random model, and its parts against independent references."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import PlainArtifact, PlainRun, make_artifact, make_run

from components.evaluation.bits_per_byte import _windows, document_bits
from components.evaluation.evaluate import EvaluationConfig, evaluate
from components.evaluation.held_out import (
    HeldOutConfig,
    HeldOutDocument,
    held_out_documents,
    same_vocabulary,
    token_bytes,
)
from components.evaluation.items import Items, compare, read_items
from components.evaluation.ngram import NgramConfig, score_ngram
from components.evaluation.passkey import MAX_ANSWER_TOKENS, is_right, passkey_problems
from components.preference.reward_scoring import RewardModel, save_reward_model
from components.sft.conversation_store import Conversation, write_conversations
from components.sft.tasks import generate as generate_problem
from model.checkpoint import save_model
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer

TEXTS = [
    f"The river number {i} flows past the town of {name} and meets the sea after {i * 7} miles. "
    f"Its water is cold in winter, and 冬の川は冷たい. People of {name} build boats there."
    for i, name in enumerate(["Alder", "Birch", "Cedar", "Maple", "Hazel", "Rowan"] * 12)
]
SMALL = EvaluationConfig(
    tokens_per_domain=600, document_tokens=60, tasks_per_family=2, samples=2, max_new_tokens=8,
    passkey_lengths=(96, 128), passkeys_per_length=3, shown_prompts=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 420)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return Transformer(config).init_weights(0).eval()


@pytest.fixture(scope="module")
def inputs(tokenizer: Tokenizer, model: Transformer, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("inputs")
    save_model(folder / "checkpoint", model, tokenizer)
    encoded = [np.array([*tokenizer.encode(text), tokenizer.eos_id], dtype=np.uint16) for text in TEXTS]
    facts: dict = {"vocab_size": tokenizer.vocab_size, "dtype": "uint16", "eos_id": tokenizer.eos_id, "validation": {}}

    def write(name: str, documents: list[np.ndarray]) -> dict[str, int]:
        stem = folder / "shards" / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_name(f"{stem.name}.bin").write_bytes(np.concatenate(documents).tobytes())
        np.save(stem.with_name(f"{stem.name}.offsets.npy"), np.cumsum([0, *map(len, documents)]))
        return {"tokens": sum(map(len, documents)), "documents": len(documents), "bytes": 0}

    facts["train"] = write("train", encoded[:60])
    facts["validation"]["science"] = write("validation/science", encoded[60:66])
    facts["validation"]["travel"] = write("validation/travel", encoded[66:])
    (folder / "shards" / "shards.json").write_text(json.dumps(facts))
    rng = random.Random(0)
    conversations = []
    for family in ("chain_sum", "repeat"):
        for index in range(4):
            problem = generate_problem(family, rng)
            conversations.append(
                Conversation(f"heldout-{family}-{index}", "heldout", family, problem.messages, problem.answer, {})
            )
    (folder / "conversations").mkdir()
    write_conversations(folder / "conversations", conversations)
    reward_run = PlainRun(output=folder / "reward", state=folder)
    save_reward_model(reward_run, RewardModel(model).init_head(0), tokenizer, [], 64, mean=0.0, std=1.0)
    return {
        "reward": make_artifact("reward-model", folder / "reward"),
        "checkpoint": make_artifact("checkpoint", folder / "checkpoint"),
        "tokenizer": make_artifact("tokenizer", folder / "checkpoint"),
        "shards": make_artifact("shards", folder / "shards"),
        "conversations": make_artifact("conversations", folder / "conversations"),
    }


@pytest.fixture(scope="module")
def evaluated(inputs: dict[str, PlainArtifact], tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainRun, dict]:
    run = make_run(tmp_path_factory.mktemp("evaluate"))
    return run, evaluate(SMALL, inputs, run)


def test_token_bytes_add_up_to_the_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    sizes = token_bytes(tmp_path, tokenizer.vocab_size)
    for text in [*TEXTS[:5], "naïve 🙂 \t", "川" * 9]:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())
    assert sizes[tokenizer.eos_id] == 0


@pytest.mark.parametrize(("tokens", "length"), [(1, 8), (8, 8), (9, 8), (30, 8), (7, 2), (5, 3)])
def test_windows_score_every_token_once_with_half_a_window_before_it(tokens: int, length: int) -> None:
    scored = [position for _, end, first in _windows(tokens, length) for position in range(first, end)]
    assert scored == list(range(tokens))
    for begin, end, first in _windows(tokens, length):
        assert end - begin <= length
        assert first == 0 or first - begin >= length // 2


def test_document_bits_equal_a_plain_loop(model: Transformer, tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    documents = [
        HeldOutDocument(str(n), "d", rng.integers(0, tokenizer.regular_size, n), n) for n in (1, 5, 16, 23, 40)
    ]
    bits = document_bits(model, documents, tokenizer.eos_id, length=16, tokens_per_batch=40)

    def log2(context: list[int], token: int) -> float:
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([context])))[0, -1]
        return float(logits.log_softmax(-1)[token]) / np.log(2)

    for document, spent in zip(documents, bits, strict=True):
        before = [tokenizer.eos_id, *document.tokens.tolist()]
        expected = 0.0
        for begin, end, first in _windows(len(document.tokens), 16):
            for place in range(first, end):
                expected -= log2(before[begin : place + 1], int(document.tokens[place]))
        assert spent == pytest.approx(expected, rel=1e-4)


def test_all_measurements_are_there(evaluated: tuple[PlainRun, dict]) -> None:
    run, summary = evaluated
    metrics = json.loads((run.output / "evaluation.json").read_text())["metrics"]
    assert metrics == summary["metrics"]
    assert {
        "bits_per_byte", "bits_per_byte/science", "passkey/96", "passkey/128", "verified_greedy",
        "verified_sampled/repeat", "format_greedy", "format_sampled/chain_sum", "answer_tokens_sampled", "reward",
        "reward/repeat",
    } <= set(metrics)  # fmt: skip
    assert metrics["verified_sampled"]["n"] == 4  # prompts, not answers
    assert metrics["passkey/96"]["n"] == 3
    for metric in metrics.values():
        assert set(metric) == {"value", "low", "high", "n"}
        assert metric["low"] <= metric["value"] <= metric["high"]
    samples = json.loads((run.output / "samples.json").read_text())
    assert {sample["task"] for sample in samples} == {"chain_sum", "repeat"} and len(samples) == 3
    assert all(effect["low"] is not None for effect in summary["effects"])


def test_an_untrained_model_costs_about_a_uniform_code(evaluated: tuple[PlainRun, dict]) -> None:
    effect = evaluated[1]["effects"][0]
    assert effect["value"] == pytest.approx(effect["baseline"], rel=0.02)


def test_the_same_inputs_give_the_same_bytes(
    evaluated: tuple[PlainRun, dict], inputs: dict[str, PlainArtifact], tmp_path: Path
) -> None:
    again = make_run(tmp_path)
    assert evaluate(SMALL, inputs, again) == evaluated[1]
    for file in sorted(evaluated[0].output.iterdir()):
        assert file.read_bytes() == (again.output / file.name).read_bytes(), file.name


def test_the_ngram_baseline_shares_its_items_with_the_checkpoints(
    evaluated: tuple[PlainRun, dict], inputs: dict[str, PlainArtifact], tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    summary = score_ngram(NgramConfig(tokens_per_domain=600, document_tokens=60), inputs, run)
    assert summary["effects"][0]["high"] < summary["effects"][0]["baseline"]
    assert summary["effects"][0]["value"] < summary["effects"][0]["baseline"]
    mine, theirs = read_items(run.output), read_items(evaluated[0].output)
    theirs = theirs[theirs["metric"] == "bits_per_byte"].reset_index(drop=True)
    columns = ["metric", "group", "item", "weight", "cluster"]
    pd.testing.assert_frame_equal(mine[columns], theirs[columns])
    difference = compare(theirs, mine, "bits_per_byte")
    assert difference is not None and difference.low > 0  # an untrained model loses


def test_held_out_documents_respect_the_budget(inputs: dict[str, PlainArtifact]) -> None:
    shards, checkpoint = inputs["shards"].path, inputs["checkpoint"].path
    config = HeldOutConfig(tokens_per_domain=100, document_tokens=60)
    documents = held_out_documents(shards, checkpoint, config)
    for domain in ("science", "travel"):
        sizes = [len(d.tokens) for d in documents if d.domain == domain]
        assert sizes and sum(sizes) <= 100 and max(sizes) <= 60


def test_passkey_prompts_fit_their_length_and_hide_the_key_at_its_depth(tokenizer: Tokenizer) -> None:
    problems = passkey_problems(tokenizer, [text.split(".")[0] + "." for text in TEXTS], [220, 400], 5, 0)
    for problem in problems:
        text = tokenizer.decode(problem.prompt)
        assert problem.length * 0.6 < len(problem.prompt) <= problem.length - MAX_ANSWER_TOKENS
        assert text.count(problem.answer) == 1
    long = [p for p in problems if p.length == 400]
    places = [tokenizer.decode(p.prompt).index(p.answer) for p in long]
    assert places == sorted(places) and long[0].depth == 0.1


@pytest.mark.parametrize(
    ("continuation", "right"),
    [(" 12345.", True), ("12345", True), (" 123456", False), (" 1234", False), (" is 12345", False), ("", False)],
)
def test_only_the_exact_number_counts(continuation: str, right: bool) -> None:
    assert is_right(continuation, "12345") is right


def test_comparing_different_text_under_one_name_is_an_error() -> None:
    first, second = Items(), Items()
    first.add("bits_per_byte", "a", "a/0", 10, weight=5)
    second.add("bits_per_byte", "a", "a/0", 10, weight=6)
    with pytest.raises(ValueError, match="different text"):
        compare(first.frame(), second.frame(), "bits_per_byte")
    assert compare(first.frame(), second.frame(), "passkey") is None


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> PlainArtifact:
    """A checkpoint whose vocabulary is not that of the shards."""
    folder = tmp_path_factory.mktemp("foreign")
    tokenizer = Tokenizer.train(["boats and towns by the sea " * 9, *TEXTS[:3]], 330)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    save_model(folder, Transformer(config).init_weights(1), tokenizer)
    return make_artifact("checkpoint", folder)


def test_another_vocabulary_reads_the_same_bytes(inputs: dict[str, PlainArtifact], foreign: PlainArtifact) -> None:
    shards, own = inputs["shards"].path, inputs["checkpoint"].path
    assert same_vocabulary(own, own) and not same_vocabulary(own, foreign.path)
    before = held_out_documents(shards, own, SMALL)
    after = held_out_documents(shards, foreign.path, SMALL, written_with=own)
    assert [(d.item, d.bytes) for d in after] == [(d.item, d.bytes) for d in before]
    old, new = Tokenizer.load(own), Tokenizer.load(foreign.path)
    for one, other in zip(before, after, strict=True):
        data = new.decode_bytes(other.tokens.tolist())
        assert data == old.decode_bytes(one.tokens.tolist())
        assert len(data) == other.bytes


def test_a_checkpoint_of_another_vocabulary_is_measured(
    inputs: dict[str, PlainArtifact], foreign: PlainArtifact, tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    given = inputs | {"checkpoint": foreign, "tokenizer": inputs["checkpoint"]}
    metrics = evaluate(SMALL, given, run)["metrics"]
    assert 1 < metrics["bits_per_byte"]["value"] < 20
    assert metrics["verified_greedy"]["n"] > 0
