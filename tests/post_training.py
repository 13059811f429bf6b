"""What the tests of post-training share: a tiny tokenizer and model, and conversations made by the real stage."""

from pathlib import Path

import torch
from support import make_artifact, make_run

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
