"""Stage ``dpo``: direct preference optimisation with the Online Merging Optimizer (report, section 4.2).

Published values: 1 epoch over about 150,000 pairs, learning rate 7e-7. Beta is not published; 0.1 is the paper's.
"""

import operator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from components.stage import Inputs, Run, StageError, Summary, effect
from components.training.config import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from components.preference.pair_store import Pair
    from components.sft.sequences import PackedSequences
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer


class DPOConfig(TrainingConfig):
    """Defaults are the published values where there are any."""

    learning_rate: float = Field(7e-7, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1, description="pairs an update")
    sequence_length: int = Field(32_768, ge=16, description="tokens of a packed window")
    beta: float = Field(0.1, gt=0, description="strength of the pull towards the reference")
    chosen_coefficient: float = Field(
        0.0, ge=0, description="weight of the chosen answers' negative log-likelihood (arXiv 2404.19733)"
    )
    # Off, these two are not part of the dump: cache keys and digests from before they existed stay what they were.
    length_normalised: bool = Field(
        False,
        description="compare log-probabilities per token (Tulu 3, arXiv 2411.15124); asks for a larger beta",
        exclude_if=operator.not_,
    )
    flip_rate: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of pairs taken to be mislabelled: robust DPO (arXiv 2403.00409)",
        exclude_if=operator.not_,
    )
    merging: Literal["dare", "ties", "none"] = Field(
        "dare", description="online merging: OnDARE, OnTIES or plain AdamW"
    )
    merging_alpha: float = Field(1e-4, ge=0, lt=1, description="share of the SFT task vector in every step")
    merging_keep: float = Field(0.9, gt=0, le=1, description="share of the entries that a merge keeps")
    merging_rescale: bool = Field(True, description="OnDARE: divide what is kept by merging_keep")


def train_dpo(config: DPOConfig, inputs: Inputs, run: Run) -> Summary:
    """Align the SFT policy on verified pairs; the effect is on pairs whose prompts it never saw."""
    import numpy as np
    import torch

    from components.evaluation.statistics import paired_difference
    from components.preference.losses import dpo_loss
    from components.preference.pair_store import read_pairs
    from components.training.loop import train
    from components.training.saving import save_trained
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    model = load_model(inputs["policy"].path, run.device)
    tokenizer = Tokenizer.load(inputs["policy"].path)
    training, heldout = read_pairs(inputs["pairs"], "train"), read_pairs(inputs["pairs"], "heldout")
    if not training or not heldout:
        raise StageError("dpo: the preferences hold no train or no heldout pairs; make more with the pairs stage")

    def batches_of(pairs: "list[Pair]") -> "list[PackedSequences]":
        size = config.batch_size
        return [
            _pack_pairs(pairs[i : i + size], tokenizer, config.sequence_length, run.device)
            for i in range(0, len(pairs), size)
        ]

    # The reference's log-probabilities are computed once, before the first update, and outlive a kill.
    # (pairs, 2): of the chosen and of the rejected answer.
    reference = _cached(run.state / "reference.pt", lambda: _log_probs(model, batches_of(training)))
    heldout_batches = batches_of(heldout)
    heldout_reference = _cached(run.state / "heldout.pt", lambda: _log_probs(model, heldout_batches))
    batches = -(-len(training) // config.batch_size)

    def batch_at(step: int) -> "Tensor":
        """Indices of the pairs: they are packed where they are used, so that ranks can share them pair by pair."""
        epoch, place = divmod(step, batches)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(run.seed * 1_000_003 + epoch))
        return order[place * config.batch_size : (place + 1) * config.batch_size]

    def objective(model: "Transformer", batch: "Tensor") -> "tuple[Tensor, dict[str, float]]":
        packed = _pack_pairs([training[i] for i in batch.tolist()], tokenizer, config.sequence_length, run.device)
        reference_chosen, reference_rejected = reference[batch].to(run.device).unbind(1)
        log_probs, lengths = _sequence_log_probs(model, packed)
        chosen, rejected = log_probs.chunk(2)
        chosen_length, rejected_length = lengths.chunk(2)
        likelihood = -(chosen / chosen_length).mean()
        if config.length_normalised:
            chosen, reference_chosen = chosen / chosen_length, reference_chosen / chosen_length
            rejected, reference_rejected = rejected / rejected_length, reference_rejected / rejected_length
        result = dpo_loss(
            chosen, rejected, reference_chosen, reference_rejected, config.beta, flip_rate=config.flip_rate
        )
        margin = result.chosen_reward - result.rejected_reward
        return result.loss.mean() + config.chosen_coefficient * likelihood, {
            "chosen_reward": result.chosen_reward.mean().item(),
            "rejected_reward": result.rejected_reward.mean().item(),
            "margin": margin.mean().item(),
            "accuracy": (margin > 0).float().mean().item(),
            "chosen_loss": likelihood.item(),
            "tokens": float((packed.document_ids >= 0).sum()),
        }

    history = train(
        model, objective, batch_at, config=config, steps=batches * config.epochs, run=run, name="dpo",
        optimizer=_optimizer(config, model, inputs, run), rows=min(config.batch_size, len(training)),
        documents_at=lambda step: [training[i].id for i in batch_at(step).tolist()],
        flops_per_token=model.config.training_flops_per_token(config.sequence_length),
    )  # fmt: skip
    facts = save_trained(run, model, tokenizer, "dpo", history, config.sequence_length)
    after = _log_probs(model, heldout_batches)
    right = (after[:, 0] > after[:, 1]).double().numpy()
    right_before = (heldout_reference[:, 0] > heldout_reference[:, 1]).double().numpy()
    prompts = np.array([pair.id.rsplit("-", 1)[0] for pair in heldout])
    gain = paired_difference(right, right_before, clusters=prompts, seed=run.seed)
    margin = (after - heldout_reference) @ torch.tensor([1.0, -1.0])
    return {
        **facts,
        "pairs": len(training),
        "heldout_pairs": len(heldout),
        "heldout_margin": float(config.beta * margin.mean()),
        "heldout_reward_accuracy": float((margin > 0).double().mean()),
        "effects": [
            effect("held-out pairs ranked right", float(right.mean()), float(right_before.mean()), low=gain.low,
                   high=gain.high, note=f"by log-probability, {len(heldout)} pairs, against the SFT policy"),
        ],
    }  # fmt: skip


def _optimizer(config: DPOConfig, model: "Transformer", inputs: Inputs, run: Run) -> Any:
    """Online merging around the configured optimizer; None, the engine's own, where it is off."""
    from components.preference.online_merging import OnlineMergingOptimizer
    from components.training.optimizer import build_optimizer
    from model.checkpoint import load_model

    if config.merging == "none":
        return None
    base = load_model(inputs["base"].path, run.device).state_dict()
    # tau = theta_sft - theta_base, taken before the first update: the model still holds the SFT weights.
    task_vectors = {p: p.detach() - base[name] for name, p in model.named_parameters()}
    return OnlineMergingOptimizer(
        build_optimizer(model, config), task_vectors, alpha=config.merging_alpha, keep=config.merging_keep,
        method=config.merging, rescale=config.merging_rescale, seed=run.seed,
    )  # fmt: skip


def _pack_pairs(pairs: "list[Pair]", tokenizer: "Tokenizer", length: int, device: str) -> "PackedSequences":
    """All chosen conversations, then all rejected ones."""
    from components.sft.sequences import pack

    conversations = [pair.conversation(which) for which in ("chosen", "rejected") for pair in pairs]
    sequences = [tokenizer.render_chat_with_mask(messages) for messages in conversations]
    return pack(sequences, length, tokenizer.eos_id).to(device)


def _sequence_log_probs(model: "Transformer", packed: "PackedSequences") -> "tuple[Tensor, Tensor]":
    """Sum of the log-probabilities of each sequence's answer tokens, and their number, both (sequences,)."""
    from model.loss import token_log_probs

    hidden = model(packed.input_ids, document_ids=packed.document_ids)
    tokens = token_log_probs(hidden, model.output_weight, packed.labels)[packed.learnt]
    zeros = tokens.new_zeros(len(packed.ends))
    sequence = packed.token_sequence
    return zeros.index_add(0, sequence, tokens), zeros.index_add(0, sequence, tokens.new_ones(len(tokens)))


def _log_probs(model: "Transformer", batches: "list[PackedSequences]") -> "Tensor":
    """(pairs, 2) log-probabilities of chosen and rejected answers, on the CPU."""
    import torch

    with torch.no_grad():
        parts = [torch.stack(_sequence_log_probs(model, batch)[0].chunk(2), dim=1).cpu() for batch in batches]
    return torch.cat(parts)


def _cached(path: "Path", compute: Any) -> "Tensor":
    """A tensor from ``path``, or computed and written there atomically."""
    import io

    import torch

    from components.training.checkpoint import write_atomically

    if path.exists():
        return torch.load(path, weights_only=True)
    value = compute()
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomically(path, buffer.getvalue())
    return value
