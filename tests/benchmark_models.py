"""A tiny checkpoint that can be asked benchmark questions."""

from pathlib import Path

from model_shapes import make_config, make_model

from model.checkpoint import save_model
from model.tokenizer import Tokenizer

CONTEXT = 192
WORDS = ("a", "few", "words", "and", "letters", "A", "B", "C", "D", "def", "return", "12", "{", "}", "一些文字", "?\n")


def tiny_checkpoint(folder: Path, seed: int = 3, spread: float = 0.4) -> Path:
    """Random weights of a spread at which hardly any two tokens are about equally likely; prompts can be too long."""
    tokenizer = Tokenizer.train([" ".join(WORDS) * 20, "Answer: question, system user assistant " * 20], 330)
    config = make_config(
        vocab_size=tokenizer.vocab_size, max_position_embeddings=CONTEXT, initializer_range=spread, num_hidden_layers=3
    )
    save_model(folder, make_model(config, seed), tokenizer)
    return folder
