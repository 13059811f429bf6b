"""``qwenforge conversations``: check conversations one by one, and write them in the form that another tool reads."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.sft.conversation_store import FILE, read_conversations
from components.sft.exchange import Form, Messages, Unreadable, written
from components.sft.imported import Checker, ImportedConfig, reason_of, rows_of
from flows.errors import UsageError
from flows.terminal import stdout
from infra.errors import MissingArtifact
from infra.settings import load_settings
from infra.store import open_store


def conversations_command(sources: Sequence[str], output: Path | None, form: Form) -> dict[str, Any]:
    """Check ``sources`` (files, or a stage's conversations); what holds goes to ``output`` as JSONL in ``form``."""
    if output is not None and output.exists():
        raise UsageError(f"{output} is there already: name a new file")
    checker = Checker(ImportedConfig(), None)
    kept = 0
    refused: list[dict[str, Any]] = []
    lines: list[str] = []
    for source in sources:
        for number, row in _rows(source):
            try:
                messages, tools = checker.check(row)
                if output is not None:
                    lines.append(json.dumps(written(messages, tools, form), ensure_ascii=False) + "\n")
                kept += 1
            except Unreadable as error:
                refused.append({"file": source, "record": number, "reason": str(error)})
    if output is not None:
        partial = output.with_name(f".{output.name}.partial")
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(output)
    reasons = Counter(reason_of(row["reason"]) for row in refused)
    return {
        "kept": kept, "refused": len(refused), "by_reason": dict(reasons.most_common()), "records": refused,
        "written": str(output) if output else None,
    }  # fmt: skip


def _rows(source: str) -> Iterator[tuple[int, Any]]:
    """Records of a file, or the SFT conversations of an artifact or folder."""
    path = Path(source).expanduser()
    if path.is_file():
        yield from rows_of(path)
        return
    if not path.is_dir():
        store = open_store(load_settings())
        try:
            artifact = store.open(store.find(source))
        except MissingArtifact as error:
            raise UsageError(f"{source} is no file, no folder and no artifact: {error}") from None
        path = artifact.path
    if not (path / FILE).is_file():
        raise UsageError(f"{source} holds no {FILE}")
    for number, conversation in enumerate(read_conversations(path, "sft"), 1):
        messages: Messages = list(conversation.messages)
        yield number, {"messages": messages, "tools": conversation.meta.get("tools")}


def print_conversations(result: dict[str, Any]) -> None:
    """A line for each reason, with the first record that it hit; then the counts."""
    console = stdout()
    for reason, count in result["by_reason"].items():
        first = next(row for row in result["records"] if reason_of(row["reason"]) == reason)
        console.print(f"{count} x {reason}; first {first['file']}:{first['record']}: {first['reason']}", markup=False)
    to = f", written to {result['written']}" if result["written"] else ""
    console.print(f"{result['kept']} conversations hold{to}; {result['refused']} refused", markup=False)


__all__ = ["conversations_command", "print_conversations"]
