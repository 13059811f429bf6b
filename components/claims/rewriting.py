"""Conversations told in another way: without their reasoning, under one system prompt, behind a long text."""

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.sft.conversation_store import Conversation, Split, read_conversations, write_conversations
from components.stage import Inputs, Run, StageConfig, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Telling = Literal["as they are", "without reasoning", "one system prompt", "long", "short and long"]
ONE_PROMPT = "You are a helpful assistant."


class RewriteConfig(StageConfig):
    """How SFT conversations are told; held-out ones stay as they are."""

    telling: Telling = "as they are"
    per_family: int = Field(500, ge=1, description="SFT conversations of each family, drawn by the seed")
    characters: int = Field(1_500, ge=100, description="long: of the text before the question")


def rewrite(config: RewriteConfig, inputs: Inputs, run: Run) -> Summary:
    """Stage: ``conversations`` (and, for long ones, ``shards`` and a ``checkpoint`` with their tokenizer) retold."""
    rng = random.Random(f"{run.seed}-rewrite")
    by_family: dict[str, list[Conversation]] = {}
    for conversation in read_conversations(inputs["conversations"], "sft"):
        by_family.setdefault(conversation.task, []).append(conversation)
    drawn = [
        conversation
        for _, members in sorted(by_family.items())
        for conversation in rng.sample(members, min(len(members), config.per_family))
    ]
    if config.telling in ("long", "short and long"):
        sentences = haystack(inputs["shards"].path, inputs["checkpoint"].path, "train")
        long = [behind_text(c, sentences, config.characters, rng) for c in drawn]
        # In the mixture every second one stays short: as many examples on both sides.
        drawn = long if config.telling == "long" else [long[i] if i % 2 else drawn[i] for i in range(len(drawn))]
    elif config.telling != "as they are":
        tell = without_reasoning if config.telling == "without reasoning" else under_one_prompt
        drawn = [tell(conversation) for conversation in drawn]
    kept: list[Conversation] = []
    others: tuple[Split, ...] = ("heldout", "preference", "rl")
    for split in others:
        kept += read_conversations(inputs["conversations"], split)
    write_conversations(run.output, [*drawn, *kept])
    return {"conversations": len(drawn)}


def without_reasoning(conversation: Conversation) -> Conversation:
    """Only the last line of the answer."""
    *prompt, answer = conversation.messages
    return replace(conversation, messages=[*prompt, {**answer, "content": answer["content"].splitlines()[-1]}])


def under_one_prompt(conversation: Conversation, prompt: str = ONE_PROMPT) -> Conversation:
    """The same turns under ``prompt``, whatever stood there."""
    turns = [message for message in conversation.messages if message["role"] != "system"]
    return replace(conversation, messages=[{"role": "system", "content": prompt}, *turns])


def behind_text(
    conversation: Conversation, sentences: "Sequence[str]", characters: int, rng: random.Random
) -> Conversation:
    """The same question at the end of a long text that has nothing to do with it."""
    chosen: list[str] = []
    place = rng.randrange(len(sentences))
    while sum(map(len, chosen)) < characters:
        chosen.append(sentences[place % len(sentences)])
        place += 1
    messages = [dict(message) for message in conversation.messages]
    question = next(message for message in messages if message["role"] == "user")
    question["content"] = f"{' '.join(chosen)}\n\n{question['content']}"
    return replace(conversation, messages=messages)


def haystack(shards: "Path", checkpoint: "Path", side: Literal["train", "test"]) -> list[str]:
    """Sentences of held-out prose; what one side gets the other never sees."""
    from components.claims.measuring import filler
    from components.evaluation.held_out import HeldOutConfig, held_out_documents
    from model.tokenizer import Tokenizer

    documents = held_out_documents(shards, checkpoint, HeldOutConfig(tokens_per_domain=4_000))
    found = filler(documents[side == "test" :: 2], Tokenizer.load(checkpoint))
    return [sentence for sentence in found if sentence.isascii()]


def long_questions(inputs: Inputs, short: "Sequence[Conversation]", characters: int) -> list[Conversation]:
    """The same questions behind texts of ``shards`` that no training has seen; equal under every seed. ``sft`` has the
    tokenizer."""
    sentences = haystack(inputs["shards"].path, inputs["sft"].path, "test")
    rng = random.Random("long questions")
    return [behind_text(conversation, sentences, characters, rng) for conversation in short]
