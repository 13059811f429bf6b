"""Conversations on disk: one Parquet file of prompts, answers and splits, read by every post-training stage."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.sft.problems import Message
from components.stage import Artifact, StageError

Split = Literal["sft", "preference", "rl", "heldout"]
FILE = "conversations.parquet"
COLUMNS = ("id", "split", "task", "messages", "answer", "meta")


@dataclass(frozen=True)
class Conversation:
    """One row. ``messages`` ends with the assistant's answer in split ``sft`` and with the user elsewhere; what a
    factory holds out has its reference answer, too."""

    id: str
    split: Split
    task: str
    messages: list[Message]
    answer: Any
    meta: dict[str, Any]

    @property
    def prompt(self) -> list[Message]:
        """The messages up to the last user turn."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages


def write_conversations(folder: Path, conversations: Iterable[Conversation]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        (c.id, c.split, c.task, *(json.dumps(v, ensure_ascii=False) for v in (c.messages, c.answer, c.meta)))
        for c in conversations
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    table = pa.table({name: pa.array(c, pa.string()) for name, c in zip(COLUMNS, columns, strict=True)})
    pq.write_table(table, folder / FILE, compression="zstd")


def read_conversations(source: Artifact | Path, split: Split | None = None) -> list[Conversation]:
    """All conversations of a split (or of all), in file order."""
    import pyarrow.parquet as pq

    folder = source if isinstance(source, Path) else source.path
    if not (folder / FILE).exists():
        raise StageError(f"{folder}: no {FILE} there; make it with the conversations stage")
    rows = pq.read_table(folder / FILE).to_pylist()
    return [
        Conversation(
            row["id"], row["split"], row["task"], *(json.loads(row[name]) for name in ("messages", "answer", "meta"))
        )
        for row in rows
        if split is None or row["split"] == split
    ]
