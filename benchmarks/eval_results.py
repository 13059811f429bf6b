"""What ``qwenforge bench eval`` has measured so far, turn by turn, in the file that it leaves."""

import json
from pathlib import Path
from typing import Any

from infra.hardware import describe_host


class Kept:
    """Results and the turns of what is not done yet, in a file (or nowhere). Anything else in the file is lost."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        content = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
        self.rows: list[dict[str, Any]] = [row for row in content.get("eval", []) if "how" in row]
        self.started: dict[str, Any] = content.get("started", {})

    def result(self, name: str, how: dict[str, Any]) -> dict[str, Any] | None:
        return next((row for row in self.rows if (row["task"], row["how"]) == (name, how)), None)

    def turns(self, name: str, how: dict[str, Any], *, fresh: bool) -> dict[str, Any]:
        """Turns of a task that an earlier call has done in the same way."""
        if fresh or self.started.get(name, {}).get("how") != how:
            self.started[name] = {"how": how, "turns": {}}
        return self.started[name]["turns"]

    def finish(self, name: str, result: dict[str, Any]) -> None:
        self.started.pop(name, None)
        self.rows = [row for row in self.rows if (row["task"], row["how"]) != (name, result["how"])] + [result]
        self.write()

    def write(self) -> None:
        if self.file is None:
            return
        content = {"host": describe_host(), "eval": self.rows} | ({"started": self.started} if self.started else {})
        partial = self.file.with_name(f"{self.file.name}.partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.file)
