"""Three real claims at tiny sizes: their own stages, their own measurements, and a direction that is known."""

import json
import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from post_training import FEW, save_tiny
from pretraining import MODEL, tiny_inputs
from support import PlainArtifact, PlainRun, make_artifact, make_run

from components.claims import data, long_context, sft
from components.claims.mixtures import CorpusConfig, make_corpus
from components.claims.rewriting import RewriteConfig, behind_text, rewrite, without_reasoning
from components.data.documents import Document, new_document, read_documents, write_documents
from components.scaling.law import SweepPoint, fit_scaling_law
from components.scaling.sweep import SweepShape
from components.sft.conversation_store import Conversation, read_conversations
from model.checkpoint import save_model
from model.tokenizer import Tokenizer
from model.transformer import Transformer


@dataclass
class PlainBench:
    """A ``components.claims.claim.Bench`` over folders; what was made once is not made again."""

    inputs: dict[str, PlainArtifact]
    run: PlainRun
    made: dict[str, PlainArtifact] = field(default_factory=dict)

    def make(self, stage, kind, config, inputs):
        key = f"{stage.__name__} {config.model_dump_json()} {[str(a.path) for a in inputs.values()]}"
        if key not in self.made:
            run = make_run(self.run.output / f"made-{len(self.made)}", self.run.seed)
            summary = stage(config, inputs, run)
            self.made[key] = make_artifact(kind, run.output, summary)
        return self.made[key]


def sentences(rng: random.Random, count: int) -> str:
    nouns, verbs = ["miller", "river", "bridge", "farmer", "horse", "road"], ["sees", "crosses", "follows", "leaves"]
    return " ".join(f"The {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}." for _ in range(count))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[str, PlainArtifact]:
    folder = tmp_path_factory.mktemp("shards")
    points = [
        SweepPoint(parameters=n, tokens=d, learning_rate=lr, batch_tokens=batch, loss=5 + abs(math.log(lr / 1e-2)))
        for n in (10_000, 40_000) for d in (10_000, 40_000) for lr in (3e-3, 1e-2, 3e-2) for batch in (128, 256, 512)
    ]  # fmt: skip
    (folder / "law").mkdir()
    fit_scaling_law(points).write(folder / "law" / "law.json")
    return {**tiny_inputs(folder), "scaling": make_artifact("scaling-law", folder / "law")}


@pytest.fixture(scope="module")
def corpora(shards, tmp_path_factory) -> dict[str, PlainArtifact]:
    """Half of what the heuristics let pass is noise; the judge knows it, and dropped a part."""
    rng, folder = random.Random(0), tmp_path_factory.mktemp("corpora")
    good: list[Document] = []
    noise: list[Document] = []
    for number in range(600):
        facts = {"source": "web", "language": "en", "domain": "news"}
        good.append(new_document(f"{number} {sentences(rng, 6)}", quality={"overall": 0.9}, **facts))
        letters = " ".join("".join(rng.choices("qxzjkvw", k=5)) for _ in range(30))
        noise.append(new_document(f"{number} {letters}", quality={"overall": 0.1}, **facts))
    write_documents(folder / "deduplicate", [*noise, *good])
    write_documents(folder / "domains", [*good, *noise[:300]])
    return {name: make_artifact("corpus", folder / name) for name in ("deduplicate", "domains")} | shards


def test_the_judge_keeps_the_better_half_of_the_same_documents(corpora, tmp_path: Path):
    inputs = {"documents": corpora["domains"], "heuristics": corpora["deduplicate"]}
    halves = {}
    for recipe in ("best half", "any half"):
        run = make_run(tmp_path / recipe)
        make_corpus(CorpusConfig(recipe=recipe, size=40_000), inputs, run)
        halves[recipe] = list(read_documents(run.output))
    noisy = {name: np.mean(["qx" in d.text or "zj" in d.text for d in half]) for name, half in halves.items()}
    assert noisy["best half"] < 0.2 < noisy["any half"]
    sizes = [sum(len(d.text.encode()) for d in half) for half in halves.values()]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02) == pytest.approx(40_000, rel=0.05)


def test_filtering_claim(corpora, tmp_path: Path):
    shape = SweepShape(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    sides = tuple(CorpusConfig(recipe=recipe, size=40_000) for recipe in ("best half", "any half"))
    config = data.CorporaConfig(
        corpora=sides, tokens=(16_000, 16_000), shape=shape, sequence_length=32, batch_tokens=256
    )
    # Prose alone is scored: the noise that the judge let pass is no text that anyone wants predicted.
    prose = tmp_path / "prose"
    write_documents(prose, [d for d in read_documents(corpora["domains"]) if d.quality["overall"] > 0.5])
    bench = PlainBench({**corpora, "prose": make_artifact("corpus", prose)}, make_run(tmp_path))
    scores = data.all_text(config.model_copy(update={"test": ("prose",)}), bench)[data.TEXT]
    assert len(scores.treated) == len(scores.weights) > 10
    assert sum(scores.treated) < 0.95 * sum(scores.baseline)
    assert len(bench.made) == 6, "a corpus, its token files and a model for each side"


@pytest.fixture(scope="module")
def base(shards, tmp_path_factory) -> PlainArtifact:
    folder = tmp_path_factory.mktemp("base")
    config = MODEL.model_copy(update={"initializer_range": 0.3})  # or attention would hardly matter
    save_model(folder, Transformer(config).init_weights(0), Tokenizer.load(shards["tokenizer"].path))
    return make_artifact("checkpoint", folder)


@pytest.mark.parametrize("rule", [long_context.yarn, long_context.dual_chunk, long_context.both])
def test_extrapolation_claim(rule, shards, base, tmp_path: Path):
    config = long_context.LongConfig(keys=3, short_tokens=300, long_tokens=600)
    bench = PlainBench({**shards, "pretrain": base}, make_run(tmp_path))
    found = long_context.extrapolation(rule)(config, bench)
    assert set(found) == {contrast.name for contrast in long_context.UNCHANGED}
    assert len(found[long_context.KEYS].treated) == 3
    short = found[long_context.SHORT_TEXT]
    assert np.isfinite(short.treated).all()
    changed = np.abs(np.subtract(short.treated, short.baseline)).max()
    # The shortest texts fit a chunk of 28 tokens; YaRN's frequencies hold for every length.
    same = np.isclose(short.treated, short.baseline, rtol=1e-4)
    assert changed > 0
    assert same.any() == (rule is not long_context.yarn)


def test_sparse_claim_reads_the_answer_with_the_prompt(shards, tmp_path: Path):
    longer = MODEL.model_copy(update={"initializer_range": 0.3, "max_position_embeddings": 128})
    folder = tmp_path / "longer"
    save_model(folder, Transformer(longer).init_weights(0), Tokenizer.load(shards["tokenizer"].path))
    config = long_context.SparseConfig(keys=2, short_tokens=300, long_tokens=600)
    bench = PlainBench({**shards, "extend": make_artifact("checkpoint", folder)}, make_run(tmp_path))
    found = long_context.sparse(config, bench)
    assert {name: len(scores.treated) for name, scores in found.items()} == {
        long_context.KEYS: 2, long_context.LOCAL: 2, long_context.PAIRS: 2,
    }  # fmt: skip
    assert 0 < found[long_context.PAIRS].treated[0] < 1
    # A key counts when every digit was the likeliest one in a single reading of prompt and answer.
    reading = long_context.Reading(config, bench)
    model = reading.model
    outcomes = reading.keys_in_prefill(model, 128)
    with torch.no_grad():
        model.output_weight.zero_()  # every token is as likely as any other: the first one is taken
    assert outcomes == reading.keys_in_prefill(model, 128) == [False, False]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> PlainArtifact:
    return make_artifact("checkpoint", save_tiny(tmp_path_factory.mktemp("checkpoint")))


def test_verification_claim(checkpoint, tmp_path: Path):
    config = sft.VerificationConfig(
        families=FEW, asked=FEW[:1], instead=FEW[1:], per_family=20, heldout=3,
        training=sft.TRAINING.model_copy(update={"evaluation_prompts": 2, "max_new_tokens": 4}),
    )  # fmt: skip
    bench = PlainBench({"extend": checkpoint, "tokenizer": checkpoint}, make_run(tmp_path))
    found = sft.verification(config, bench)
    assert {name: len(scores.treated) for name, scores in found.items()} == {sft.UNVERIFIED: 3, sft.ABSENT: 3}
    texts = [
        [c.messages[-1]["content"] for c in read_conversations(made.path, "sft")]
        for made in bench.made.values() if made.kind == "conversations"
    ]  # fmt: skip
    verified, unverified, instead = texts
    assert len(unverified) == len(FEW) * 20 >= len(verified)
    assert verified != unverified
    assert len(instead) > 30, "as many examples of the other family"


def test_conversations_told_in_other_ways(checkpoint, tmp_path: Path):
    turns = [{"role": "user", "content": "How old is Kim?"}, {"role": "assistant", "content": "| Kim | 7 |\nAnswer: 7"}]
    conversation = Conversation("a", "sft", "table", turns, "7", {})
    assert without_reasoning(conversation).messages[-1]["content"] == "Answer: 7"
    long = behind_text(conversation, ["One sentence.", "Another one."], 60, random.Random(0))
    assert long.messages[0]["content"].endswith("\n\nHow old is Kim?")
    assert len(long.messages[0]["content"]) > 75
    assert conversation.messages == turns

    from post_training import save_conversations

    source = make_artifact("conversations", save_conversations(tmp_path / "source", checkpoint.path))
    run = make_run(tmp_path / "told")
    rewrite(RewriteConfig(telling="one system prompt", per_family=10), {"conversations": source}, run)
    told = read_conversations(run.output, "sft")
    assert len(told) == 10 * len(FEW)
    assert {c.messages[0]["content"] for c in told} == {"You are a helpful assistant."}
    assert read_conversations(run.output, "heldout") == read_conversations(source, "heldout")
    assert json.loads(json.dumps([c.messages for c in told]))
