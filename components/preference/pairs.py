"""Stage ``pairs``: preference pairs from the SFT policy's own answers (report, section 4.2, offline RL).

The policy resamples answers to new queries; those that pass the verifier are chosen, those that fail rejected; an
automated second review removes what the verifier alone would let through.
"""

import hashlib
import json
import operator
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from components.stage import Inputs, Run, StageConfig, StageError, Summary, effect

if TYPE_CHECKING:
    from components.preference.pair_store import Pair


class PairsConfig(StageConfig):
    """How many answers, how they are drawn and what is kept of them."""

    samples: int = Field(8, ge=2, description="answers a prompt")
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(64, ge=1)
    prompts_per_chunk: int = Field(200, ge=1, description="prompts between resumable points")
    pairs_per_prompt: int = Field(3, ge=1)
    balance_ratio: float = Field(2.0, ge=1, description="most pairs of a family / those of the median family")
    heldout_share: float = Field(0.1, gt=0, lt=1, description="share of prompts whose pairs are never trained on")
    longest_chosen: int = Field(400, ge=1, description="characters; the second review drops longer chosen answers")
    # Off, neither is part of the dump, and cache keys stay what they were.
    reviews: str = Field(
        "",
        description="file of human verdicts (qwenforge reviews export), which override the automated ones",
        exclude_if=operator.not_,
    )
    reviews_sha256: str = Field(
        "", description="filled in from the file, so that its content is in the digest", exclude_if=operator.not_
    )

    @model_validator(mode="before")
    @classmethod
    def _read_reviews(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("reviews"):
            return values
        path = Path(str(values["reviews"])).expanduser()
        if not path.is_file():
            raise ValueError(f"reviews: no file {path}; write it with qwenforge reviews export {path}")
        return {**values, "reviews_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def make_pairs(config: PairsConfig, inputs: Inputs, run: Run) -> Summary:
    """Write ``pairs.parquet``; the effect is the share of chosen answers that verify against the policy's pass rate."""
    from components.preference.pair_store import write_pairs
    from components.preference.pairing import Judged, balance, pairs_of_prompt, review
    from components.sft.conversation_store import read_conversations
    from components.sft.sampling import judge, sample_answers
    from components.sft.tasks import verify
    from components.training.checkpoint import write_atomically
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    conversations = read_conversations(inputs["conversations"], "preference")
    model = load_model(inputs["policy"].path, run.device)
    tokenizer = Tokenizer.load(inputs["policy"].path)
    judged: list[list[Judged]] = []
    chunks = range(0, len(conversations), config.prompts_per_chunk)
    with run.progress(len(conversations), "pairs", unit="prompt") as bar:
        for start in chunks:
            part = conversations[start : start + config.prompts_per_chunk]
            saved = run.state / f"answers-{start:08d}.json"
            if saved.exists():
                judged += [[Judged(**answer) for answer in answers] for answers in json.loads(saved.read_text())]
                bar.advance(len(part))
                continue
            sampled = sample_answers(
                model, tokenizer, [c.prompt for c in part], samples=config.samples,
                temperature=config.temperature, max_new_tokens=config.max_new_tokens, seed=run.seed + 1 + start,
            )  # fmt: skip
            chunk = [
                [Judged(a.text, len(a.tokens), a.finished, *judge(c, a)) for a in answers]
                for c, answers in zip(part, sampled, strict=True)
            ]
            write_atomically(saved, json.dumps([[asdict(a) for a in answers] for answers in chunk]).encode())
            judged += chunk
            bar.advance(len(part))

    by_id = {c.id: c for c in conversations}
    proposed = [
        pair
        for conversation, answers in zip(conversations, judged, strict=True)
        for pair in pairs_of_prompt(
            conversation, answers, limit=config.pairs_per_prompt, heldout_share=config.heldout_share
        )
    ]
    reasons = [review(pair, by_id[pair.id.rsplit("-", 1)[0]], config.longest_chosen) for pair in proposed]
    pairs = balance(
        [pair for pair, reason in zip(proposed, reasons, strict=True) if reason is None], config.balance_ratio
    )
    human: dict[str, int] = {}
    if config.reviews:
        pairs, human = _as_people_see_them(pairs, config, run)
    splits = Counter(pair.split for pair in pairs)
    if not splits["train"] or not splits["heldout"]:
        raise StageError(
            f"pairs: {len(pairs)} pairs from {len(conversations)} prompts do not fill both splits; the policy "
            "passes or fails almost everything. Change conversations.preference_per_family, pairs.samples or sft.epochs"
        )
    write_pairs(run.output, pairs)
    verdicts = [answer for answers in judged for answer in answers]
    pass_rate = sum(a.correct for a in verdicts) / len(verdicts)
    automated = [pair for pair in pairs if pair.source != "human"] or pairs  # people may decide against a verifier
    known = [(p, by_id[p.id.rsplit("-", 1)[0]]) for p in automated if p.id.rsplit("-", 1)[0] in by_id]
    verified = sum(verify((p.task, c.answer), p.chosen).correct for p, c in known) / max(1, len(known))
    return {
        "prompts": len(conversations),
        "answers": len(verdicts),
        "pass_rate": pass_rate,
        "format_rate": sum(a.format for a in verdicts) / len(verdicts),
        "proposed": len(proposed),
        "review": dict(sorted(Counter(reason for reason in reasons if reason).items())),
        "pairs": dict(sorted(splits.items())),
        "pairs_by_task": dict(sorted(Counter(pair.task for pair in pairs).items())),
        "chosen_characters": sum(len(p.chosen) for p in pairs) / len(pairs),
        "rejected_characters": sum(len(p.rejected) for p in pairs) / len(pairs),
        **({"human": human} if config.reviews else {}),
        "effects": [
            effect("verified chosen answers", verified, pass_rate, note="against all answers of the policy"),
        ],
    }  # fmt: skip


def _as_people_see_them(pairs: "list[Pair]", config: PairsConfig, run: Run) -> "tuple[list[Pair], dict[str, int]]":
    """Human verdicts over these pairs, and beside them the pairs that people decided in earlier runs.

    The verdicts travel with the artifact: the reward model's fresh pairs are held to them too.
    """
    from components.preference.reviews import FILE, override, read_reviews, unseen

    path = Path(config.reviews).expanduser()
    verdicts = read_reviews(path)
    shutil.copyfile(path, run.output / FILE)
    added = unseen(pairs, verdicts)
    kept, changes = override(pairs, verdicts)
    return kept + added, {"verdicts": len(verdicts), **dict(sorted(changes.items())), "added": len(added)}
