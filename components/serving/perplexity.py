"""Perplexity of a model on a text: exp of its tokens' mean negative log-likelihood, in windows that do not overlap.

For comparing two forms of the same weights, such as before and after quantisation, not for judging a model.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from components.stage import StageError

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer

WINDOW = 512
TOKENS = 4_096


def comparison_text(path: Path | None = None) -> str:
    """The text at ``path``, or the Python reference that every interpreter carries (``pydoc_data.topics``)."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read as text: {error}") from None


def perplexity(model: "Transformer", tokenizer: "Tokenizer", text: str, *, tokens: int = TOKENS) -> float:
    """Over the first ``tokens`` tokens of ``text``; each window of ``WINDOW`` begins behind an end-of-text token."""
    import torch

    from model.loss import token_log_probs

    window = min(WINDOW, model.config.max_position_embeddings)
    ids = tokenizer.encode(text)[:tokens]
    if len(ids) < 2:
        raise StageError("perplexity needs a text of at least two tokens")
    total = 0.0
    device = model.output_weight.device
    with torch.inference_mode():
        for start in range(0, len(ids), window):
            part = ids[start : start + window]
            inputs = torch.tensor([[tokenizer.eos_id, *part[:-1]]], device=device)  # (1, T)
            log_probs = token_log_probs(model(inputs), model.output_weight, torch.tensor([part], device=device))
            total -= float(log_probs.double().sum())
    return math.exp(total / len(ids))
