"""Hypothesis: at pocket scale Muon reaches AdamW's loss with less than half the tokens.

Peer: the fused AdamW of torch, same model, shards, batches and schedule, each optimizer at several learning rates.
Needs a store that holds the shards of a run (``qwenforge run recipes/pocket.toml --until shards``).

    qwenforge bench optimizers --tokens 200000 400000
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from components.data.pool import map_shards
from components.data.shard_reader import ShardReader
from components.scaling.sweep import SweepShape
from components.scaling.trial import Trial, run_trial
from components.training.config import TrainingConfig
from infra.hardware import describe_host
from infra.settings import load_settings
from infra.store import open_store

SHAPE = SweepShape(
    hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1
)
BASE = TrainingConfig(schedule="wsd", decay_ratio=0.4, final_learning_rate_ratio=0.02, beta2=0.98)


def main(given: list[str] | None = None) -> int:
    """Print the best held-out loss of each optimizer at each number of tokens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[200_000, 400_000])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[4e-3, 8e-3])
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)

    store = open_store(load_settings())
    found = [manifest.digest for manifest in store.list() if manifest.kind == "shards"]
    if not found:
        parser.error("the store holds no shards: qwenforge run recipes/pocket.toml --until shards")
    shards = store.open(found[0]).path
    grid = [
        (optimizer, tokens, rate)
        for tokens in arguments.tokens
        for optimizer in ("adamw", "muon")
        for rate in arguments.learning_rates
    ]
    with TemporaryDirectory() as state:
        trials = [
            Trial(
                shards=shards, state=Path(state), seed=0, device="cpu", vocab_size=ShardReader(shards).vocab_size,
                sequence_length=256, shape=SHAPE, tokens=tokens, batch_tokens=arguments.batch_tokens,
                training=BASE.model_copy(update={"optimizer": optimizer, "learning_rate": rate}),
            )
            for optimizer, tokens, rate in grid
        ]  # fmt: skip
        losses = [point.loss for point in map_shards(run_trial, trials)]
    best: dict[tuple[int, str], float] = {}
    for (optimizer, tokens, rate), loss in zip(grid, losses, strict=True):
        print(f"{optimizer:6} {tokens:>9,} tokens, learning rate {rate:g}: {loss:.3f} nats a token")
        best[tokens, optimizer] = min(loss, best.get((tokens, optimizer), float("inf")))
    result = {f"{tokens}/{optimizer}": loss for (tokens, optimizer), loss in best.items()}
    print("best: " + ", ".join(f"{name} {loss:.3f}" for name, loss in result.items()))
    if arguments.json:
        facts = {"date": datetime.now(UTC).date().isoformat(), "host": describe_host(), "best_loss": result}
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
