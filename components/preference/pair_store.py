"""Preference pairs on disk: one Parquet file, read by DPO and the reward model."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.sft.problems import Message
from components.stage import Artifact, StageError

FILE = "pairs.parquet"
COLUMNS = (
    "id", "split", "task", "messages", "chosen", "rejected", "chosen_score", "rejected_score", "source",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the first better than the second. Scores are in [0, 1]."""

    id: str
    split: Literal["train", "heldout"]
    task: str
    messages: list[Message]
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    source: Literal["verified", "review", "human", "corrupted"] = "verified"

    def conversation(self, which: Literal["chosen", "rejected"]) -> list[Message]:
        """The prompt with one of the two answers."""
        return [*self.messages, {"role": "assistant", "content": getattr(self, which)}]


def write_pairs(folder: Path, pairs: Iterable[Pair]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {name: json.dumps(pair.messages, ensure_ascii=False) if name == "messages" else getattr(pair, name)
         for name in COLUMNS}
        for pair in pairs
    ]  # fmt: skip
    schema = pa.schema([(n, pa.float64() if n.endswith("_score") else pa.string()) for n in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / FILE, compression="zstd")


def read_pairs(source: Artifact | Path, split: str | None = None) -> list[Pair]:
    """All pairs of a split (or of both), in file order."""
    import pyarrow.parquet as pq

    folder = source if isinstance(source, Path) else source.path
    if not (folder / FILE).exists():
        raise StageError(f"{folder}: no {FILE} there; make it with the pairs stage")
    rows = pq.read_table(folder / FILE).to_pylist()
    pairs = [Pair(**{**row, "messages": json.loads(row["messages"])}) for row in rows]
    return [pair for pair in pairs if split is None or pair.split == split]
