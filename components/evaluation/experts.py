"""Stage ``experts``: how a mixture of experts shares its work, and whether experts have specialised by domain.

Balance is the load of the busiest expert against an even one, the share of idle ones and the load's entropy.
Specialisation is the mutual information of domain and expert with every domain weighted equally, H(mean load) - mean
H(load of a domain), in bits; what chance would give is measured by shuffling the domains of the windows.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.data.shard_reader import ShardReader
    from model.transformer import Transformer

Floats = NDArray[np.float64]


class ExpertsConfig(StageConfig):
    """How much is measured."""

    windows: int = Field(16, ge=2, description="held-out windows of each domain, at the trained length")
    shuffles: int = Field(50, ge=1, description="of the windows' domains, for what chance gives")


def measure_experts(config: ExpertsConfig, inputs: Inputs, run: Run) -> Summary:
    """Inputs ``checkpoint`` and ``shards``; writes ``experts.json``."""
    from components.data.shard_reader import ShardReader
    from model.checkpoint import load_model

    model = load_model(inputs["checkpoint"].path, run.device).eval()
    if model.config.moe is None:
        raise StageError("experts: the checkpoint is a dense model; leave out the table [experts]")
    domains, loads = window_loads(model, ShardReader(inputs["shards"]), config.windows)
    names = sorted(set(domains))
    labels = np.array([names.index(domain) for domain in domains])
    by_domain = _by_domain(loads, labels)
    draw = np.random.default_rng(run.seed)
    chance = np.mean(
        [specialisation(_by_domain(loads, draw.permutation(labels))) for _ in range(config.shuffles)], axis=0
    )
    found = specialisation(by_domain)
    mean = by_domain.mean(axis=0)  # (layers, E)
    experts = mean.shape[1]
    layers = [
        {
            "busiest": float(load.max() * experts),
            "idle": float((load == 0).mean()),
            "entropy": float(_entropy(load) / np.log2(experts)) if experts > 1 else 1.0,
            "specialisation": float(found[index]),
            "chance": float(chance[index]),
        }
        for index, load in enumerate(mean)
    ]
    content: dict[str, Any] = {"domains": names, "experts": experts, "layers": layers, "loads": by_domain.tolist()}
    (run.output / "experts.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return {
        "layers": layers,
        "effects": [
            effect("what an expert tells of the domain, mean over layers", float(found.mean()), float(chance.mean()),
                   unit="bits", note="mutual information; baseline: domains shuffled"),
        ],
    }  # fmt: skip


def window_loads(model: "Transformer", reader: "ShardReader", windows: int) -> tuple[list[str], Floats]:
    """The domain of each held-out window, and the share of its choices that each expert got, (windows, layers, E)."""
    import torch

    from model.moe import MoE

    domains, loads = [], []
    with torch.inference_mode():
        for domain in reader.validation:
            batches = reader.validation_batches(domain, model.config.max_position_embeddings, 1)
            for number, tokens in enumerate(batches):
                if number == windows:
                    break
                ends = np.flatnonzero(tokens[0] != reader.eos_id)
                filled = int(ends[-1]) + 1 if len(ends) else 1  # padding behind says nothing of the domain
                model(torch.from_numpy(tokens[:, :filled]).to(model.output_weight.device))
                domains.append(domain)
                routings = [layer.mlp.routing for layer in model.layers if isinstance(layer.mlp, MoE)]
                loads.append([routing.load.double().cpu().numpy() for routing in routings if routing is not None])
    return domains, np.array(loads)


def specialisation(loads: Floats) -> Floats:
    """Mutual information of domain and expert in bits, a value a layer, of loads (domains, layers, E)."""
    return _entropy(loads.mean(axis=0)) - _entropy(loads).mean(axis=0)


def _by_domain(loads: Floats, labels: NDArray[np.int64]) -> Floats:
    """Mean load of each domain, (domains, layers, E)."""
    return np.stack([loads[labels == label].mean(axis=0) for label in np.unique(labels)])


def _entropy(loads: Floats) -> Floats:
    """Of the last axis, in bits."""
    positive = np.where(loads > 0, loads, 1.0)
    return -(loads * np.log2(positive)).sum(axis=-1)


__all__ = ["ExpertsConfig", "measure_experts", "specialisation", "window_loads"]
