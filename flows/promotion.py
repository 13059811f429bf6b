"""``qwenforge promote``: an alias moves to a checkpoint only if a fixed suite does not find it significantly worse."""

import getpass
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.stage import StageError
from flows.benchmarks import print_differences, run_tasks
from flows.checkpoints import find_checkpoint, find_digest
from flows.errors import UsageError
from flows.terminal import Display, stdout
from infra.catalog import Catalog
from infra.errors import MissingArtifact
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store

if TYPE_CHECKING:
    import pandas as pd

SUITE: dict[str, Any] = {"tasks": ("python_reference", "mmlu", "reasoning"), "limit": 160, "max_new_tokens": 64}
"""Language modelling, knowledge and reasoning; minutes on two cores for a model of 135M parameters."""
VERSION = 1
"""Of the suite: raised when anything in it changes, so that no old measurement is compared with a new one."""
ALPHA = 0.05
"""Chance of refusing a checkpoint that is no worse, over all metrics together (Holm)."""


class Refused(StageError):
    """The suite found the checkpoint significantly worse."""


def promote_command(name: str, alias: str, *, force: bool = False) -> dict[str, Any]:
    """Measure, compare, move the alias, and write it down either way.

    Raises ``Refused`` where the suite finds a fall and ``force`` is not given.
    """
    settings, display = load_settings(), Display()
    store, catalog = open_store(settings), Catalog(settings.catalog_url)
    if Path(name).is_dir():
        raise UsageError(f"{name} is a folder; an alias needs an artifact of the store: qwenforge import {name}")
    find_checkpoint(name, settings, store)  # refuses what is no checkpoint
    digest = find_digest(name, settings, store)
    before = catalog.resolve_alias(alias)
    record: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "user": getpass.getuser(),
        "host": socket.gethostname(), "alias": alias, "from": before, "to": digest, "forced": False,
        "suite": VERSION, "differences": [], "worse": [], "moved": True,
    }  # fmt: skip
    if before == digest:
        return record | {"moved": False}
    if before is not None:
        if not store.exists(before):
            raise MissingArtifact(f"alias {alias} means artifact {before[:12]}, which is no longer in the store")
        with display.live():
            after, old = (measured(one, settings, store, display) for one in (digest, before))
        record |= judge(after, old)
        record["forced"] = force and bool(record["worse"])
        record["moved"] = force or not record["worse"]
    if record["moved"]:
        # measuring took minutes: what somebody else has moved meanwhile is not moved over
        catalog.set_alias(alias, digest, expected=before)
    audit(settings, record)
    if not record["moved"]:
        raise Refused(refusal(record))
    return record


def judge(after: "pd.DataFrame", before: "pd.DataFrame") -> dict[str, Any]:
    """The differences of all metrics that both have, and those that are worse beyond chance."""
    from components.evaluation.harness.measure import compare

    differences = compare(after, before, seed=0)
    return {
        "differences": differences,
        "worse": [row["metric"] for row in differences if row["worse_p_holm"] <= ALPHA],
    }


def measured(digest: str, settings: Settings, store: ArtifactStore, display: Display) -> "pd.DataFrame":
    """Items of the suite on a checkpoint, from the home folder where it has been measured before."""
    import pandas as pd

    file = settings.home / "promotions" / f"{digest}-{VERSION}.parquet"
    if file.is_file():
        return pd.read_parquet(file)
    display.line(f"measuring {digest[:12]}")
    items, _ = run_tasks(
        digest, SUITE["tasks"], settings, store, display, limit=SUITE["limit"], max_new_tokens=SUITE["max_new_tokens"]
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    items.to_parquet(partial, index=False)
    partial.replace(file)
    return items


def audit(settings: Settings, record: dict[str, Any]) -> None:
    """One line of ``promotions.jsonl``, written at once: two promotions at a time do not mix."""
    line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")
    file = os.open(settings.home / "promotions.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


def refusal(record: dict[str, Any]) -> str:
    """What fell and by how much, in one line."""
    falls = [
        f"{row['metric']} {row['difference']['value']:+.4g} [{row['difference']['low']:+.4g}, "
        f"{row['difference']['high']:+.4g}], p {row['worse_p_holm']:.4f}"
        for row in record["differences"]
        if row["metric"] in record["worse"]
    ]
    return (
        f"{record['to'][:12]} is worse than {record['alias']} ({record['from'][:12]}): {'; '.join(falls)}. The alias "
        "stays; --force moves it all the same"
    )


def print_promotion(record: dict[str, Any]) -> None:
    """What was compared and what happened."""
    if record["differences"]:
        print_differences(f"against {record['from'][:12]}, which {record['alias']} meant", record["differences"])
    if not record["moved"]:
        stdout().print(f"{record['alias']} means {record['to'][:12]} already")
        return
    how = " although it is worse (--force)" if record["forced"] else ""
    stdout().print(f"{record['alias']} now means {record['to'][:12]}{how}")


__all__ = ["Refused", "judge", "print_promotion", "promote_command"]
