"""What every trained checkpoint leaves behind: the model folder and how it came to be."""

import json
from typing import Any

from components.stage import Run
from model.checkpoint import save_model
from model.tokenizer import Tokenizer
from model.transformer import Transformer


def save_trained(
    run: Run, model: Transformer, tokenizer: Tokenizer, objective: str, history: list[dict[str, float]],
    sequence_length: int,
) -> dict[str, Any]:  # fmt: skip
    """Write the checkpoint and ``training.json`` to ``run.output``; return the facts for the stage's summary."""
    save_model(run.output, model, tokenizer)
    last = history[-1] if history else {"step": 0, "tokens": 0, "loss": 0.0}
    tokens = int(last["tokens"])
    facts = {
        "objective": objective,
        "steps": int(last["step"]),
        "tokens": tokens,
        "flops": float(tokens * model.config.training_flops_per_token(sequence_length)),
    }
    text = json.dumps({**facts, "history": history}, indent=1, sort_keys=True)
    (run.output / "training.json").write_text(text + "\n", encoding="utf-8")
    return {**facts, "final_loss": float(last["loss"])}
