"""Measurements that several claims share: bits per byte, pass keys, verified answers. Items are equal under every seed
unless the seed draws them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.evaluation.held_out import HeldOutConfig, HeldOutDocument, held_out_documents
from components.sft.conversation_store import Conversation

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy as np

    from components.stage import Artifact
    from model.config import ModelConfig
    from model.tokenizer import Tokenizer
    from model.transformer import Transformer


def reshaped(model: "Transformer", config: "ModelConfig") -> "Transformer":
    """The same weights read in another way: positions, not shapes, may differ."""
    from model.transformer import Transformer

    other = Transformer(config).to(model.output_weight.device).eval()
    other.load_state_dict(model.state_dict())
    return other


def texts(shards: "Artifact", tokenizer: "Path", config: HeldOutConfig) -> list[HeldOutDocument]:
    """The held-out documents of a recipe."""
    return held_out_documents(shards.path, tokenizer, config)


def bits(model: "Transformer", documents: Sequence[HeldOutDocument], eos_id: int, length: int) -> "np.ndarray":
    """Bits that each document takes in windows of ``length`` tokens, (documents,)."""
    from components.evaluation.bits_per_byte import document_bits

    return document_bits(model, documents, eos_id, length=length)


def filler(documents: Sequence[HeldOutDocument], tokenizer: "Tokenizer") -> list[str]:
    """Sentences of held-out prose to hide things in."""
    from components.evaluation.passkey import sentences

    prose = [d for d in documents if d.domain != "code" and not d.domain.startswith("synthetic")]
    return [s for d in prose or documents for s in sentences(tokenizer.decode(d.tokens.tolist()))]


def keys_found(
    model: "Transformer", tokenizer: "Tokenizer", haystack: Sequence[str], length: int, count: int, seed: int
) -> list[bool]:
    """Which of ``count`` pass keys, hidden at depths spread evenly over ``length`` tokens, are found; ``seed`` draws
    keys and text."""
    from components.evaluation.passkey import passkey_outcomes, passkey_problems

    return passkey_outcomes(model, tokenizer, passkey_problems(tokenizer, haystack, [length], count, seed))


def right(
    checkpoint: "Path", conversations: "Sequence[Conversation]", device: str, seed: int, *, samples: int = 1,
    max_new_tokens: int = 64,
) -> "np.ndarray":  # fmt: skip
    """Share of verified answers to each conversation, (conversations,): one greedy, or several at temperature 1."""
    from components.sft.sampling import measure
    from model.checkpoint import load_model
    from model.tokenizer import Tokenizer

    outcome = measure(
        load_model(checkpoint, device).eval(), Tokenizer.load(checkpoint), list(conversations), samples=samples,
        temperature=0.0 if samples == 1 else 1.0, max_new_tokens=max_new_tokens, seed=seed,
    )  # fmt: skip
    return outcome.correct


def response_nats(
    checkpoint: "Path", conversations: "Sequence[Conversation]", device: str, batch: int = 64
) -> "tuple[np.ndarray, np.ndarray]":
    """Nats that each conversation's answers take, and their tokens, both (conversations,)."""
    import numpy as np
    import torch

    from components.sft.sequences import pack
    from model.checkpoint import load_model
    from model.loss import token_log_probs
    from model.tokenizer import Tokenizer

    model, tokenizer = load_model(checkpoint, device).eval(), Tokenizer.load(checkpoint)
    nats, counts = [], []
    with torch.inference_mode():
        for start in range(0, len(conversations), batch):
            part = [tokenizer.render_chat_with_mask(c.messages) for c in conversations[start : start + batch]]
            packed = pack(part, max(len(ids) for ids, _ in part), tokenizer.eos_id).to(device)
            hidden = model(packed.input_ids, document_ids=packed.document_ids)
            learnt = token_log_probs(hidden, model.output_weight, packed.labels)[packed.learnt]
            owners = packed.token_sequence.cpu().numpy()
            nats.append(np.bincount(owners, -learnt.double().cpu().numpy(), len(part)))
            counts.append(np.bincount(owners, minlength=len(part)))
    return np.concatenate(nats), np.concatenate(counts).astype(np.float64)


def of_families(conversations: "Iterable[Conversation]", families: Sequence[str], each: int) -> list[Conversation]:
    """The first ``each`` conversations of every family, in the order of the families."""
    found = list(conversations)
    return [c for family in families for c in [c for c in found if c.task == family][:each]]
