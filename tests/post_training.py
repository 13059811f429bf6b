"""What the tests of post-training share: a tiny tokenizer and model, and conversations made by the real stage."""

from pathlib import Path

import torch
from support import make_artifact, make_run

from components.data.documents import Document, new_document
from components.sft.conversations import ConversationsConfig, make_conversations
from components.sft.tasks import FAMILIES, generate, solution
from model.checkpoint import save_model
from model.config import ModelConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer

FEW = ("truth", "repeat")


class AloneAccelerator:
    """What TRL asks of an accelerator, in one process."""

    device = torch.device("cpu")
    num_processes = 1

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction):
        return value


def tiny_tokenizer() -> Tokenizer:
    """Learnt from the tasks themselves, so that prompts are short."""
    import random

    rng = random.Random(0)
    texts = []
    for family in FAMILIES:
        for _ in range(30):
            problem = generate(family, rng)
            texts += [problem.messages[0]["content"], solution(problem, rng)]
    return Tokenizer.train(texts, 700)


def tiny_model(vocab_size: int, seed: int = 0) -> Transformer:
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    return Transformer(config).init_weights(seed)


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """A checkpoint folder with the tiny model and tokenizer."""
    tokenizer = tiny_tokenizer()
    save_model(folder, tiny_model(tokenizer.vocab_size, seed), tokenizer)
    return folder


def save_conversations(folder: Path, checkpoint: Path, **sizes: int) -> Path:
    """Conversations of two short families."""
    config = ConversationsConfig(
        **{  # type: ignore[arg-type]
            "families": FEW, "sft_per_family": 40, "preference_per_family": 12, "rl_per_family": 8,
            "heldout_per_family": 6,
        }
        | sizes
    )  # fmt: skip
    run = make_run(folder)
    make_conversations(config, {"tokenizer": make_artifact("tokenizer", checkpoint)}, run)
    return run.output


_NOUNS = """
bridge harbour library engine garden castle village machine market tower river teacher farmer soldier painter doctor
sister captain forest mountain winter summer letter window station factory museum island valley church
"""
_VERBS = ("carried", "followed", "painted", "repaired", "visited", "watched", "crossed", "described", "admired")
_ENDS = ("behind midnight", "before breakfast", "during autumn", "without money", "since childhood")


def sentences(count: int) -> list[str]:
    """Plain English ones, all different."""
    import random

    rng, found = random.Random(0), dict[str, None]()
    while len(found) < count:
        first, second, third, fourth = rng.sample(_NOUNS.split(), 4)
        verb, end = rng.choice(_VERBS), rng.choice(_ENDS)
        found[f"Every {first} near some {second} {verb} their {third} and our {fourth} {end}."] = None
    return list(found)


def documents_of_sentences() -> list[Document]:
    """Ten English documents of forty sentences each."""
    lines = sentences(400)
    return [new_document("\n".join(lines[i : i + 40]), source="test", language="en") for i in range(0, 400, 40)]


class Killed(Exception):
    pass


def kill_at_update(monkeypatch, number):
    """Make the ``number``-th optimizer step of this process raise."""
    original, calls = torch.optim.AdamW.step, []

    def dying_step(self, *args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            raise Killed
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dying_step)


def same_files(first, second):
    """Two folders hold the same files, byte for byte."""
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in second.iterdir())
    for file in first.iterdir():
        assert (second / file.name).read_bytes() == file.read_bytes(), file.name
