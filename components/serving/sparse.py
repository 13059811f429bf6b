"""Sparse prefill for a checkpoint: budgets searched on a text of the user's, written beside the weights."""

from pathlib import Path

from components.stage import StageConfig, StageError, Summary


class SparseConfig(StageConfig):
    """How the budgets are searched."""

    tokens: int = 8192
    """Length of the sample, as long as the prompts that matter."""
    recall: float = 0.95
    """Attention that every head should keep."""
    read: float = 1.0
    """Share of the query-key pairs that all heads together may read."""
    min_tokens: int = 4096
    """Shorter prompts are read as a whole."""


def make_sparse(folder: Path, text: Path, config: SparseConfig, *, device: str = "cpu") -> Summary:
    """Search on the first ``tokens`` of ``text``, write ``sparse_prefill.json`` into the model folder, and measure on
    the text's next ``tokens``, where it has them, what is kept and what the model loses (nats a token).

    Raises StageError where the text is too short.
    """
    import torch

    from model.checkpoint import load_model
    from model.loss import cross_entropy
    from model.prefill_search import measure, search
    from model.tokenizer import Tokenizer

    try:
        written = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{text}: cannot be read as UTF-8 text: {error}") from error
    ids = torch.tensor(Tokenizer.load(folder).encode(written), device=device)
    if ids.numel() < config.tokens:
        raise StageError(f"{text} has {ids.numel():,} tokens; the search wants {config.tokens:,} (tokens)")
    model = load_model(folder, device=device).eval()
    model.sparse_prefill = None  # of an earlier search
    plan = search(
        model, ids[: config.tokens], recall=config.recall, read=config.read, min_tokens=config.min_tokens
    )  # fmt: skip
    plan.write(folder)
    summary: Summary = {
        "tokens": config.tokens,
        "recall": plan.recall,
        "read": plan.read,
        "heads": sum(map(len, plan.budgets)),
        "dense_heads": sum(budget is None for layer in plan.budgets for budget in layer),
    }
    other = ids[config.tokens : 2 * config.tokens]
    if other.numel() < config.tokens:
        return summary

    def loss() -> float:
        with torch.inference_mode():
            total, count = cross_entropy(model(other[None])[0, :-1], model.output_weight, other[1:])
        return float(total) / count

    dense = loss()
    # the sample may be shorter than what is read sparsely
    model.sparse_prefill = plan.model_copy(update={"min_tokens": 1})
    kept, read = measure(model, other)
    return summary | {
        "held_out_recall": float(kept.mean()),
        "held_out_read": float(read.mean()),
        "held_out_loss": loss(),
        "held_out_loss_dense": dense,
    }
