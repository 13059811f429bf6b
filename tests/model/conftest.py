"""Fixtures of the model tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from model.checkpoint import save_model
from model.tokenizer import Tokenizer
from model.transformer import Transformer

logging.disable_progress_bar()


@pytest.fixture
def twin(tmp_path: Path) -> Callable:
    """Our model as ``transformers`` loads it from the folder that we write."""

    def load(model: Transformer):
        save_model(tmp_path / "twin", model)
        return AutoModelForCausalLM.from_pretrained(tmp_path / "twin", dtype=torch.float32)

    return load


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = ["The cat sat on the mat. It's 12345 o'clock!", "def add(a, b):\n    return a + b\n", "你好，世界 日本語"]
    return Tokenizer.train(texts * 3, 360)
