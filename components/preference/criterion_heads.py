"""Reward model of six criteria: a head each on one decoder, and a fitted sum of them that is an ordinary reward model.

Every pair trains the head of its own criterion by Bradley-Terry. The sum's weights and the temperatures that make
confidences believable come from pairs that no head has seen, what is reported from others again. A weighted sum of
linear heads is one linear head, so the folder is that of ``components.preference.reward_model`` and works wherever one
does; the six heads lie beside it in ``criteria.safetensors`` (``heads`` (criteria, hidden_size)) and ``criteria.json``.
"""

import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.stage import Inputs, Run, Summary, effect
from components.training.config import TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from torch import Tensor

    from components.preference.criterion_pairs import CriterionPair
    from components.preference.pair_store import Pair
    from model.tokenizer import Tokenizer

HEADS, FACTS = "criteria.safetensors", "criteria.json"


class CriteriaConfig(TrainingConfig):
    """Pairs of each criterion, and their training. The report publishes no values for this."""

    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1, description="pairs an update, of all criteria")
    sequence_length: int = Field(32_768, ge=16, description="tokens of a packed window")
    train_pairs: int = Field(1_000, ge=1, description="of each criterion")
    fit_pairs: int = Field(100, ge=8, description="of each criterion, for the combination and the temperatures")
    heldout_pairs: int = Field(200, ge=8, description="of each criterion, half of them in wordings of their own")


def train_criteria(config: CriteriaConfig, inputs: Inputs, run: Run) -> Summary:
    """Train from ``policy`` on pairs made of sentences of ``documents``; an effect a criterion: held-out accuracy
    against the better length rule. With ``pairs``, verified ones take part in the combination and are measured too."""
    import torch

    from components.data.documents import read_documents
    from components.preference.criterion_pairs import CRITERIA, Part, criterion_pairs, passages_of
    from components.preference.losses import bradley_terry_loss
    from components.preference.pair_store import read_pairs, write_pairs
    from components.preference.reward_scoring import RewardModel
    from components.training.loop import train
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    names = list(CRITERIA)
    counts: dict[Part, int] = {"train": config.train_pairs, "fit": config.fit_pairs, "heldout": config.heldout_pairs}
    # Neighbours are of one document: many more are read than are used.
    passages = passages_of(read_documents(inputs["documents"]), limit=20 * sum(counts.values()))
    made = criterion_pairs(passages, counts, run.seed)
    training = [each.pair for each in made if each.part == "train"]
    own = torch.tensor([names.index(pair.task) for pair in training])
    tokenizer = Tokenizer.load(inputs["policy"].path)
    model = RewardModel(load_model(inputs["policy"].path, run.device), outputs=len(names))
    model.init_head(run.seed).to(run.device)
    batches = -(-len(training) // config.batch_size)

    def batch_at(step: int) -> "Tensor":
        """Indices of the pairs."""
        epoch, place = divmod(step, batches)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(run.seed * 1_000_003 + epoch))
        return order[place * config.batch_size : (place + 1) * config.batch_size]

    def objective(model: RewardModel, indices: "Tensor") -> "tuple[Tensor, dict[str, float]]":
        batch = _packed([training[i] for i in indices.tolist()], tokenizer, config.sequence_length, run.device)
        place = own[indices].to(run.device)[None, :, None].expand(2, -1, 1)
        chosen, rejected = model(batch).unflatten(0, (2, -1)).gather(2, place).squeeze(2)
        return bradley_terry_loss(chosen, rejected).mean(), {
            "accuracy": (chosen > rejected).float().mean().item(),
            "tokens": float((batch.document_ids >= 0).sum()),
        }

    history = train(
        model, objective, batch_at, config=config, steps=batches * config.epochs, run=run, name="criteria",
        rows=min(config.batch_size, len(training)),
        documents_at=lambda step: [training[i].id for i in batch_at(step).tolist()],
        flops_per_token=model.decoder.config.training_flops_per_token(config.sequence_length),
    )  # fmt: skip

    def scores(pairs: "list[Pair]") -> "np.ndarray":
        """(pairs, 2, criteria) of chosen and rejected."""
        parts = []
        with torch.no_grad():
            for start in range(0, len(pairs), config.batch_size):
                part = pairs[start : start + config.batch_size]
                batch = _packed(part, tokenizer, config.sequence_length, run.device)
                parts.append(model(batch).unflatten(0, (2, -1)).transpose(0, 1).cpu())
        return torch.cat(parts).double().numpy()

    verified = {
        split: read_pairs(inputs["pairs"], split) if "pairs" in inputs else [] for split in ("train", "heldout")
    }
    write_pairs(run.output, [each.pair for each in made])
    summary = _fit_and_measure(config, made, verified, scores, names, run.seed)
    facts = _save(run, model, tokenizer, history, config, summary)
    return {**facts, **summary}


def _packed(pairs: "list[Pair]", tokenizer: "Tokenizer", length: int, device: str) -> Any:
    """All chosen conversations, then all rejected ones."""
    from components.sft.sequences import pack

    conversations = [pair.conversation(which) for which in ("chosen", "rejected") for pair in pairs]
    sequences = [tokenizer.render_chat_with_mask(messages) for messages in conversations]
    return pack(sequences, length, tokenizer.eos_id).to(device)


def _fit_and_measure(
    config: CriteriaConfig, made: "list[CriterionPair]", verified: "dict[str, list[Pair]]",
    scores: "Callable[[list[Pair]], np.ndarray]", names: list[str], seed: int,
) -> Summary:  # fmt: skip
    """The combination, the temperatures, and what both are worth on held-out pairs."""
    import numpy as np

    from components.preference.combination import fit_combination, fit_temperature
    from components.preference.criterion_report import of_criterion, of_pairs

    def margins(pairs: "list[Pair]") -> "np.ndarray":
        """(pairs, criteria)."""
        both = scores(pairs)
        return both[:, 0] - both[:, 1]

    fit, heldout = ([each for each in made if each.part == part] for part in ("fit", "heldout"))
    fitted = margins([each.pair for each in fit])
    theirs = verified["train"][: config.fit_pairs]
    weights = fit_combination(np.concatenate([fitted, margins(theirs)]) if theirs else fitted)
    reported = scores([each.pair for each in heldout])  # (pairs, 2, criteria)
    combined = reported @ weights
    criteria, effects = {}, []
    for place, name in enumerate(names):
        rows = [i for i, each in enumerate(heldout) if each.pair.task == name]
        temperature = fit_temperature(fitted[[each.pair.task == name for each in fit], place])
        found = criteria[name] = of_criterion(
            [heldout[i] for i in rows], (reported[rows, 0, place] - reported[rows, 1, place]) / temperature,
            [each.pair for each in made if each.part == "train" and each.pair.task == name], seed,
        )  # fmt: skip
        found |= {
            "combined": float((combined[rows, 0] > combined[rows, 1]).mean()), "weight": float(weights[place]),
            "temperature": temperature,
        }  # fmt: skip
        effects.append(
            effect(f"held-out pairs ranked right: {name}", found["accuracy"]["value"], found["length_rule"],
                   low=found["lead"]["low"], high=found["lead"]["high"],
                   note=f"{len(rows)} pairs, against preferring the {found['rule']} answer")
        )  # fmt: skip
    result: Summary = {
        "criteria": criteria,
        "combined": of_pairs(combined[:, 0] - combined[:, 1], [each.pair for each in heldout]),
        "scores": {"mean": float(combined.mean()), "std": float(combined.std())},
        "effects": effects,
    }
    if theirs := verified["heldout"]:
        result["verified"] = of_pairs(margins(theirs) @ weights, theirs)
    return result


def _save(
    run: Run,
    model: Any,
    tokenizer: "Tokenizer",
    history: list[dict[str, float]],
    config: CriteriaConfig,
    summary: Summary,
) -> dict[str, Any]:
    """The combined reward model, and the heads beside it."""
    import torch
    from safetensors.torch import save_file

    from components.preference.reward_scoring import RewardModel, save_reward_model

    heads = model.score.weight.detach()
    weights = torch.tensor([found["weight"] for found in summary["criteria"].values()])
    combined = RewardModel(model.decoder)
    with torch.no_grad():
        combined.score.weight.copy_((weights.to(heads) @ heads)[None])
    facts = save_reward_model(
        run, combined, tokenizer, history, config.sequence_length,
        mean=summary["scores"]["mean"], std=summary["scores"]["std"],
    )  # fmt: skip
    save_file({"heads": heads.cpu().contiguous()}, run.output / HEADS, metadata={"format": "pt"})
    found = {
        name: {key: values[key] for key in ("weight", "temperature")} for name, values in summary["criteria"].items()
    }
    (run.output / FACTS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return facts
