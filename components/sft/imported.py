"""Stage ``imported``: conversations of one's own, checked record by record before anything is trained on them.

Reads JSONL, JSON and Parquet (compressed, too) in OpenAI's, ShareGPT's and Alpaca's forms. What cannot be understood,
or would teach the wrong thing, goes to ``quarantine.jsonl`` with file, record and reason, and the rest goes on.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from components.sft.conversation_store import Conversation, read_conversations, write_conversations
from components.sft.exchange import Messages, Unreadable, parse
from components.stage import Inputs, Run, StageConfig, StageError, Summary

if TYPE_CHECKING:
    from model.tokenizer import Tokenizer

QUARANTINE = "quarantine.jsonl"
SHOWN = 200
"""Characters of a refused record that are kept."""
Row = tuple[int, Any]
"""Number of a record in its file (lines of JSONL, rows otherwise), and its value or why it could not be read."""


class ImportedConfig(StageConfig):
    """Which files, and what a record may be like."""

    files: tuple[str, ...] = Field((), description="JSONL, JSON or Parquet, relative to the working folder")
    content: str = Field("", description="sha256 over the files, filled in: other content is another result")
    max_turn_bytes: int = Field(1_000_000, ge=1, description="UTF-8 bytes of one turn")
    max_tokens: int = Field(32_768, ge=1, description="tokens of a whole conversation")
    max_broken_share: float = Field(0.5, ge=0, le=1, description="stop when more of a file's records are refused")

    @model_validator(mode="after")
    def _hash_files(self) -> Self:
        """A missing file is found before anything starts."""
        if self.files and not self.content:
            digest = hashlib.sha256()
            for name in self.files:
                path = Path(name).expanduser()
                if not path.is_file():
                    raise ValueError(f"files: no such file: {name}")
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            object.__setattr__(self, "content", digest.hexdigest())
        return self


def import_conversations(config: ImportedConfig, inputs: Inputs, run: Run) -> Summary:
    """Conversations of all files in split ``sft``. Input ``tokenizer`` counts tokens; with ``conversations`` none comes
    as close to one of its held-out prompts as the contamination rule forbids."""
    from components.data.contamination import contaminates
    from components.data.words import comparable_words
    from model.tokenizer import Tokenizer

    checker = Checker(config, Tokenizer.load(inputs["tokenizer"].path))
    heldout = [
        comparable_words(c.meta["content"])
        for c in (read_conversations(inputs["conversations"], "heldout") if "conversations" in inputs else [])
    ]
    kept: list[Conversation] = []
    refused: list[dict[str, Any]] = []
    with run.progress(len(config.files), "conversations", unit="file") as bar:
        for name in config.files:
            before = len(kept), len(refused)
            for number, row in rows_of(Path(name).expanduser()):
                try:
                    messages, tools = checker.check(row)
                    words = [comparable_words(m["content"]) for m in messages if m["role"] == "user"] if heldout else []
                    if any(contaminates(own, other) for own in words for other in heldout):
                        raise Unreadable("as good as a held-out prompt")
                except Unreadable as error:
                    shown = (
                        row.args[0] if isinstance(row, Unreadable) else json.dumps(row, ensure_ascii=True, default=str)
                    )
                    refused.append({"file": name, "record": number, "reason": str(error), "text": shown[:SHOWN]})
                    continue
                meta = {"source": f"{Path(name).name}:{number}", **({"tools": tools} if tools else {})}
                kept.append(Conversation(f"sft-imported-{len(kept):06d}", "sft", "imported", messages, None, meta))
            _stop_where_broken(config, name, len(kept) - before[0], len(refused) - before[1], refused)
            bar.advance()
    if not kept:
        raise StageError("imported: no conversation is left to train on")
    write_conversations(run.output, kept)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in refused)
    (run.output / QUARANTINE).write_text("".join(lines), encoding="utf-8")
    return {
        "conversations": len(kept), "turns": sum(len(c.messages) for c in kept), "quarantined": len(refused),
        "by_reason": dict(sorted(Counter(reason_of(row["reason"]) for row in refused).items())),
    }  # fmt: skip


class Checker:
    """What a record must be like; it remembers what it has let through, since a copy teaches nothing new. Without a
    tokenizer tokens are not counted."""

    def __init__(self, config: ImportedConfig, tokenizer: "Tokenizer | None") -> None:
        from model.tokenizer import CONTROL_TOKENS

        self._config, self._tokenizer = config, tokenizer
        self._control = sorted({*CONTROL_TOKENS, *(tokenizer.control if tokenizer else ())})
        self._seen: set[str] = set()

    def check(self, row: Any) -> tuple[Messages, list[Any]]:
        """Messages and tools of a record; Unreadable with the reason where it must not be trained on."""
        if isinstance(row, Unreadable):
            raise row
        messages, tools = parse(row)
        for number, message in enumerate(messages):
            self._check_turn(number, message)
        _check_order(messages)
        if self._tokenizer:
            size = len(self._tokenizer.render_chat(messages, False, tools or None))
            if size > self._config.max_tokens:
                raise Unreadable(f"too long: {size:,} tokens, more than {self._config.max_tokens:,}")
        key = json.dumps([messages, tools], sort_keys=True)
        if key in self._seen:
            raise Unreadable("copy of an earlier record")
        self._seen.add(key)
        return messages, tools

    def _check_turn(self, number: int, message: dict[str, Any]) -> None:
        text = message["content"]
        if not text.strip() and not message.get("tool_calls"):
            raise Unreadable(f"empty turn: number {number + 1} ({message['role']})")
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            raise Unreadable("invalid UTF-8: half of a surrogate pair") from None
        if size > self._config.max_turn_bytes:
            raise Unreadable(f"turn too long: {size:,} bytes, more than {self._config.max_turn_bytes:,}")
        whole = text + json.dumps(message.get("tool_calls", ""), ensure_ascii=False)
        if typed := next((token for token in self._control if token in whole), None):
            raise Unreadable(f"control token in the text: {typed}")


def _check_order(messages: Sequence[dict[str, Any]]) -> None:
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        raise Unreadable("wrong order of turns: a system turn that is not the first")
    rest = roles[roles[:1] == ["system"] :]
    if not rest or rest[0] != "user":
        raise Unreadable("wrong order of turns: the first speaker is not the user")
    if rest[-1] != "assistant":
        raise Unreadable("wrong order of turns: the last speaker is not the assistant")
    for before, role in pairwise(rest):
        if role == before != "tool":
            raise Unreadable(f"wrong order of turns: {role} twice in a row")
    for place, message in enumerate(messages):
        if message["role"] == "tool" and not (
            messages[place - 1].get("tool_calls") or messages[place - 1]["role"] == "tool"
        ):
            raise Unreadable("wrong order of turns: a tool result that no call has asked for")
        if message.get("tool_calls") and message["role"] != "assistant":
            raise Unreadable(f"a tool call by the {message['role']}")


def rows_of(path: Path) -> Iterator[Row]:
    """Records of a file; what cannot be read at all comes as Unreadable. StageError for another kind of file."""
    from components.data.readers import decompressed, seekable, unreadable
    from components.data.reading import COMPRESSIONS

    suffixes = [s for s in path.suffixes if s not in COMPRESSIONS][-1:]
    with path.open("rb") as raw:
        stream = decompressed(raw, path.name)
        try:
            if suffixes == [".parquet"]:
                import pyarrow.parquet as pq

                with seekable(stream) as file:
                    batches = pq.ParquetFile(file).iter_batches(batch_size=256)
                    yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
            elif suffixes == [".json"]:
                rows = _json(stream.read())
                yield from enumerate(rows if isinstance(rows, list) else [rows], 1)
            elif suffixes and suffixes[0] in (".jsonl", ".ndjson"):
                for number, line in enumerate(io.BufferedReader(stream, 1 << 20), 1):  # type: ignore[type-var]
                    if line.strip():
                        yield number, _json(line)
            else:
                raise StageError(f"{path}: expected .jsonl, .json or .parquet, perhaps compressed")
        except unreadable() as error:
            yield 0, Unreadable(f"file cannot be read: {error}")


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Unreadable(f"invalid UTF-8: byte {error.start}")
    except (ValueError, RecursionError) as error:
        return Unreadable(f"broken JSON: {error}")


def reason_of(message: str) -> str:
    """What comes before the details: reasons are counted by it."""
    return message.partition(":")[0]


def _stop_where_broken(
    config: ImportedConfig, name: str, kept: int, refused: int, rows: Sequence[dict[str, Any]]
) -> None:  # fmt: skip
    if refused > config.max_broken_share * (kept + refused):
        reasons = Counter(reason_of(row["reason"]) for row in rows[-refused:])
        raise StageError(
            f"imported: {refused} of {kept + refused} records of {name} are refused ({reasons.most_common(3)}); "
            "mend the file, or raise imported.max_broken_share"
        )


__all__ = ["ImportedConfig", "import_conversations"]
