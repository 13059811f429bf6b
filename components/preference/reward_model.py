"""Stage ``reward``: a scalar reward model by Bradley-Terry on preference pairs (report, section 4.3).

Its pairs are those of DPO plus fresh ones over answers that the SFT and the DPO policy sample at several temperatures,
labelled by the verifier. Saved in the layout of ``Qwen2ForSequenceClassification``.
"""

import operator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from components.stage import Inputs, Run, StageError, Summary, effect
from components.training.config import TrainingConfig

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from components.preference.pair_store import Pair
    from components.preference.reward_scoring import RewardModel
    from components.sft.problems import Message
    from components.sft.sequences import PackedSequences
    from model.tokenizer import Tokenizer


class RewardConfig(TrainingConfig):
    """Pairs and their training. The report publishes no values for this stage."""

    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1, description="pairs an update")
    sequence_length: int = Field(32_768, ge=16, description="tokens of a packed window")
    temperatures: tuple[float, ...] = Field((0.7, 1.0, 1.3), description="each policy answers once at each")
    samples: int = Field(2, ge=1, description="answers a prompt, policy and temperature")
    prompts: int = Field(500, ge=1, description="preference prompts that are answered afresh")
    pairs_per_prompt: int = Field(3, ge=1)
    heldout_share: float = Field(0.1, gt=0, lt=1, description="the pairs stage's, so that its held-out prompts stay so")
    max_new_tokens: int = Field(64, ge=1)
    margin: float = Field(
        0.0,
        ge=0,
        description="least lead of an answer that is right over one in a wrong form (arXiv 2307.09288); half of it "
        "where they are one grade apart",
        exclude_if=operator.not_,  # off, it is no part of the dump: cache keys from before it stay what they were
    )


def train_reward_model(config: RewardConfig, inputs: Inputs, run: Run) -> Summary:
    """Train from the SFT checkpoint; the effect is held-out pair accuracy against the best length rule.

    Inputs ``policy``, ``pairs``, ``conversations``, and where there is a second policy ``dpo``.
    """
    import numpy as np
    import torch

    from components.evaluation.statistics import paired_difference
    from components.preference.criterion_report import length_rule
    from components.preference.losses import bradley_terry_loss
    from components.preference.pair_store import read_pairs
    from components.preference.reviews import FILE as REVIEWS
    from components.preference.reviews import override, read_reviews
    from components.preference.reward_scoring import RewardModel, save_reward_model
    from components.sft.sequences import pack
    from components.training.loop import train
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["policy"].path)
    fresh = _fresh_pairs(config, inputs, run, tokenizer)
    if (verdicts := inputs["pairs"].path / REVIEWS).exists():
        fresh, _ = override(fresh, read_reviews(verdicts))
    pairs = read_pairs(inputs["pairs"]) + fresh
    training = [pair for pair in pairs if pair.split == "train"]
    heldout = [pair for pair in pairs if pair.split == "heldout"]
    if not training or not heldout:
        raise StageError("reward: no train or no heldout pairs; raise reward.prompts or reward.heldout_share")
    model = RewardModel(load_model(inputs["policy"].path, run.device)).init_head(run.seed).to(run.device)
    batches = -(-len(training) // config.batch_size)
    margins = config.margin * torch.tensor([pair.chosen_score - pair.rejected_score for pair in training])

    def pack_pairs(members: "list[Pair]") -> "PackedSequences":
        conversations = [pair.conversation(which) for which in ("chosen", "rejected") for pair in members]
        sequences = [tokenizer.render_chat_with_mask(messages) for messages in conversations]
        return pack(sequences, config.sequence_length, tokenizer.eos_id).to(run.device)

    def batch_at(step: int) -> "Tensor":
        """Indices of the pairs: they are packed where they are used, so that ranks can share them pair by pair."""
        epoch, place = divmod(step, batches)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(run.seed * 1_000_003 + epoch))
        return order[place * config.batch_size : (place + 1) * config.batch_size]

    def objective(model: "RewardModel", pair_indices: "Tensor") -> "tuple[Tensor, dict[str, float]]":
        batch = pack_pairs([training[i] for i in pair_indices.tolist()])
        chosen, rejected = model(batch).chunk(2)
        return bradley_terry_loss(chosen, rejected, margins[pair_indices].to(chosen)).mean(), {
            "accuracy": (chosen > rejected).float().mean().item(),
            "margin": (chosen - rejected).mean().item(),
            "tokens": float((batch.document_ids >= 0).sum()),
        }

    history = train(
        model, objective, batch_at, config=config, steps=batches * config.epochs, run=run, name="reward",
        rows=min(config.batch_size, len(training)),
        documents_at=lambda step: [training[i].id for i in batch_at(step).tolist()],
        flops_per_token=model.decoder.config.training_flops_per_token(config.sequence_length),
    )  # fmt: skip
    size = config.batch_size
    with torch.no_grad():
        scores = torch.cat(
            [
                torch.stack(model(pack_pairs(heldout[i : i + size])).chunk(2), dim=1).cpu()
                for i in range(0, len(heldout), size)
            ]
        )  # (pairs, 2)
    facts = save_reward_model(
        run, model, tokenizer, history, config.sequence_length, mean=float(scores.mean()), std=float(scores.std())
    )
    right = (scores[:, 0] > scores[:, 1]).double().numpy()
    rule, by_length = length_rule(training, heldout)
    prompts = np.array([pair.id.rsplit("-", 1)[0] for pair in heldout])
    gain = paired_difference(right, by_length, clusters=prompts, seed=run.seed)
    tasks = sorted({pair.task for pair in heldout})
    return {
        **facts,
        "pairs": {"train": len(training), "heldout": len(heldout), "fresh": len(fresh)},
        "accuracy_by_task": {
            task: float(right[[pair.task == task for pair in heldout]].mean()) for task in tasks
        },
        "effects": [
            effect("held-out pair accuracy", float(right.mean()), float(by_length.mean()), low=gain.low,
                   high=gain.high, note=f"{len(heldout)} pairs, against preferring the {rule} answer"),
        ],
    }  # fmt: skip


def _fresh_pairs(config: RewardConfig, inputs: Inputs, run: Run, tokenizer: Any) -> "list[Pair]":
    """Verifier-labelled pairs of the policies' answers at every temperature; resumes by policy and temperature."""
    import json
    from dataclasses import asdict

    from components.preference.pairing import Judged, pairs_of_prompt
    from components.sft.conversation_store import read_conversations
    from components.sft.sampling import judge, sample_answers, spread
    from components.training.checkpoint import write_atomically
    from model.checkpoint import load_model

    conversations = spread(read_conversations(inputs["conversations"], "preference"), config.prompts)
    answers: list[list[Judged]] = [[] for _ in conversations]
    rounds = [(policy, t) for policy in ("policy", "dpo") if policy in inputs for t in config.temperatures]
    with run.progress(len(rounds), "reward: sampling", unit="round") as bar:
        for index, (policy, temperature) in enumerate(rounds):
            saved = run.state / f"answers-{index}.json"
            if not saved.exists():
                model = load_model(inputs[policy].path, run.device)
                sampled = sample_answers(
                    model, tokenizer, [c.prompt for c in conversations], samples=config.samples,
                    temperature=temperature, max_new_tokens=config.max_new_tokens, seed=run.seed + 101 + index,
                )  # fmt: skip
                rows = [
                    [asdict(Judged(a.text, len(a.tokens), a.finished, *judge(c, a))) for a in given]
                    for c, given in zip(conversations, sampled, strict=True)
                ]
                write_atomically(saved, json.dumps(rows).encode())
            for place, given in enumerate(json.loads(saved.read_text())):
                answers[place] += [Judged(**answer) for answer in given]
            bar.advance()
    return [
        pair
        for conversation, given in zip(conversations, answers, strict=True)
        for pair in pairs_of_prompt(
            conversation, given, limit=config.pairs_per_prompt, heldout_share=config.heldout_share, graded=True
        )
    ]


def load_reward_model(folder: "Path", device: str = "cpu") -> "tuple[RewardModel, Tokenizer]":
    """The reward model of a folder and its tokenizer. (torch is imported late: the command line reads this module.)"""
    from components.preference import reward_scoring

    return reward_scoring.load_reward_model(folder, device)


def score(model: "RewardModel", tokenizer: "Tokenizer", conversations: "list[list[Message]]") -> list[float]:
    """Normalised scores of conversations that end with an answer, about mean 0 and deviation 1."""
    from components.preference import reward_scoring

    return reward_scoring.score(model, tokenizer, conversations)
