"""``qwenforge sparse``: budgets of a sparse prefill for a model folder."""

from pathlib import Path
from typing import Any

from flows.errors import UsageError


def sparse_command(folder: Path, text: Path, **settings: Any) -> dict[str, Any]:
    """Search, write and measure. Artifacts of the store never change, so only a folder will do."""
    from components.serving.sparse import SparseConfig, make_sparse
    from infra.settings import load_settings

    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no model folder (it has no config.json): qwenforge export writes one")
    if not text.is_file():
        raise UsageError(f"{text} is no file")
    return make_sparse(folder, text, SparseConfig(**settings), device=load_settings().device)


def print_sparse(summary: dict[str, Any]) -> None:
    """What was found, and what it costs on text that the search has not seen."""
    print(
        f"{summary['heads'] - summary['dense_heads']} of {summary['heads']} heads read sparsely: "
        f"{summary['read']:.0%} of the pairs, {summary['recall']:.1%} of the attention"
    )
    if "held_out_loss" in summary:
        print(
            f"on the text that follows: {summary['held_out_read']:.0%} of the pairs, {summary['held_out_recall']:.1%} "
            f"of the attention, loss {summary['held_out_loss']:.4f} (dense {summary['held_out_loss_dense']:.4f})"
        )
