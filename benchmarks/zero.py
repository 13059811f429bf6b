"""Hypothesis: two processes under ZeRO 1, 2 and 3 follow the losses of one process, at every step.

The same tiny decoder, float32, for 100 steps each; reported is the largest relative difference of a loss. Needs the
``deepspeed`` extra.

    qwenforge bench zero [--steps 100] [--json FILE]
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TOLERANCE = 1e-4


def main(given: list[str] | None = None) -> int:
    """Print a line a ZeRO stage; exit code 1 when one strays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--world-size", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    from components.stage import Layout
    from infra.launching import Ranks, launch

    found: dict[str, list[float]] = {}
    with TemporaryDirectory() as name:
        for label, layout in {
            "torch": Layout(),
            **{
                f"zero-{stage}": Layout(engine="deepspeed", world_size=arguments.world_size, zero_stage=stage)
                for stage in (1, 2, 3)
            },
        }.items():
            folder = Path(name) / label / "ranks"
            folder.mkdir(parents=True)
            specification = {
                "function": "benchmarks.zero:stage", "config_class": "components.training.config:TrainingConfig",
                "config": {"learning_rate": 1e-3, "log_every": 1, "checkpoint_every": 1000}, "inputs": {},
                "seed": arguments.steps, "state": str(folder.parent), "output": str(folder.parent / "output"),
                "layout": layout.model_dump(), "ceiling": 0.0, "device": "cpu",
            }  # fmt: skip
            path = folder / "specification.json"
            path.write_text(json.dumps(specification))
            ranks = Ranks(layout.world_size, threads=1)
            launch("flows.rank", [str(path)], ranks, folder, lambda event: None, {"DS_ACCELERATOR": "cpu"})
            found[label] = json.loads((folder / "summary.json").read_text())["losses"]
    expected = found.pop("torch")
    result = {
        label: max(abs(ours - theirs) / theirs for ours, theirs in zip(losses, expected, strict=True))
        for label, losses in found.items()
    }
    for label, difference in result.items():
        print(f"{label}: {len(expected)} steps, largest relative difference of a loss {difference:.1e}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"steps": arguments.steps, "differences": result}, indent=1) + "\n")
    return 0 if max(result.values()) <= TOLERANCE else 1


def stage(config: Any, inputs: Any, run: Any) -> dict[str, Any]:
    """What every rank runs. The number of steps comes as the seed."""
    import components.training.deepspeed_engine as engine
    from components.training.language_modelling import copying_batch, next_token_loss
    from components.training.loop import train
    from components.training.sharding import split_windows
    from model.config import ModelConfig
    from model.transformer import Transformer

    engine.PERSISTENT = 0  # or ZeRO 3 would keep a model of this size whole
    shape = ModelConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    history = train(
        Transformer(shape).init_weights(0), next_token_loss, lambda step: copying_batch(0, step, 8, 32, 511),
        config=config, steps=run.seed, run=run, split=split_windows, rows=8,
    )  # fmt: skip
    return {"losses": [point["loss"] for point in history]}


if __name__ == "__main__":
    raise SystemExit(main())
