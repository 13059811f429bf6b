"""Scores with and without the questions that the checkpoint's own recipe found in its training documents."""

import json
from pathlib import Path

import pandas as pd
import pytest
from benchmark_models import tiny_checkpoint

from components.evaluation.harness.contamination import overlapping, report
from components.evaluation.harness.tasks import TASKS
from components.evaluation.items import Items
from components.stage import StageError
from flows.benchmarks import known_overlaps, print_contamination
from infra.settings import load_settings
from infra.store import ArtifactStore, open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    return open_store(load_settings())


def commit(store: ArtifactStore, folder: Path, stage: str, kind: str, inputs: dict[str, str]) -> str:
    return store.commit(
        folder, kind=kind, stage=stage, stage_version="1", inputs=inputs, config_digest="0" * 64, seed=0, summary={}
    ).digest


def matches(folder: Path, *items: str) -> Path:
    folder.mkdir()
    rows = [{"id": str(n), "source": "web", "item": item, "text": "a text"} for n, item in enumerate(items)]
    (folder / "matches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_overlap_of_the_own_recipe_is_found_through_the_lineage(store: ArtifactStore, tmp_path: Path) -> None:
    try:
        ids = [question.id for question in TASKS["human_eval"].load(None)]
    except StageError as error:
        pytest.skip(str(error))
    found = matches(tmp_path / "matches", "humaneval/3", "humaneval/3", "humaneval/0", "arc/7")
    clean = commit(store, found, "decontaminate", "mixture", {})
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shards.json").write_text("{}")
    shards = commit(store, tmp_path / "shards", "shards", "shards", {"documents": clean})
    checkpoint = commit(store, tiny_checkpoint(tmp_path / "model"), "pretrain", "checkpoint", {"shards": shards})
    overlaps = known_overlaps(store, checkpoint, ("human_eval", "mmlu", "ifeval"))
    assert overlaps == {"human_eval": {ids[0]: 1, ids[3]: 2}, "mmlu": {}}
    assert known_overlaps(store, "", ("mmlu",)) == {}


def test_scores_with_and_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = matches(tmp_path / "matches")
    assert overlapping(folder, ["mmlu", "reasoning"]) == {"mmlu": {}}
    items = Items()
    for number in range(10):
        items.add("mmlu.acc", "", str(number), float(number < 4))
        items.add("reasoning.acc", "", str(number), 1.0)
    frame: pd.DataFrame = items.frame()
    facts = report(frame, {"mmlu": {"0": 1, "1": 3, "77": 1}}, seed=0)["mmlu"]
    assert (facts["asked"], facts["overlapping"], facts["documents"]) == (10, 2, 4)
    assert facts["with"]["mmlu.acc"]["value"] == pytest.approx(0.4)
    assert facts["without"]["mmlu.acc"]["value"] == pytest.approx(2 / 8) and facts["without"]["mmlu.acc"]["n"] == 8
    print_contamination("mmlu", facts)
    out = " ".join(capsys.readouterr().out.split())
    assert "2 of 10 questions stood in 4 training documents" in out and "without them 0.25" in out
    print_contamination("mmlu", report(frame, {"mmlu": {}}, seed=0)["mmlu"])
    assert "found none of these 10 questions" in " ".join(capsys.readouterr().out.split())
