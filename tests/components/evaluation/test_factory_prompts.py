"""What the factories hold out is asked of a checkpoint, judged by their own checks, and compared before and after."""

from pathlib import Path

import pandas as pd
import pytest
from post_training import save_tiny
from support import PlainArtifact, make_artifact, make_run

from components.evaluation import measure
from components.evaluation.before_after import before_after
from components.evaluation.evaluate import EvaluationConfig, evaluate
from components.evaluation.items import read_items
from components.sft.conversation_store import read_conversations
from components.sft.factories.build import FactoriesConfig, make_factories
from components.sft.factories.held_out import answered
from components.sft.sampling import Answer

FEW = {"mathematics": 12, "cross_lingual": 12}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> PlainArtifact:
    run = make_run(tmp_path_factory.mktemp("factories"))
    summary = make_factories(FactoriesConfig(records=FEW, held_out=5), {}, run)
    assert summary["conversations"] == sum(FEW.values())
    return make_artifact("conversations", run.output)


def test_no_record_shares_its_source_with_a_held_out_prompt(written: PlainArtifact) -> None:
    held_out = read_conversations(written, "heldout")
    assert len(held_out) == 5 * len(FEW)
    records = [c.prompt[-1]["content"] for c in read_conversations(written, "sft")]
    assert not {answered(c, "").source for c in held_out} & set(records)


def test_off_it_changes_no_cache_key_and_no_record(written: PlainArtifact, tmp_path: Path) -> None:
    assert "held_out" not in FactoriesConfig().model_dump()
    assert "benchmarks" not in EvaluationConfig().model_dump()
    run = make_run(tmp_path)
    make_factories(FactoriesConfig(records=FEW), {}, run)
    assert read_conversations(run.output, "heldout") == []


def test_before_and_after_by_factory(written: PlainArtifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that answers with the reference passes everything; an untrained one nothing."""
    base = make_artifact("checkpoint", save_tiny(tmp_path / "base"))
    right = {str(c.prompt): c.messages[-1]["content"] for c in read_conversations(written, "heldout")}
    items: dict[str, pd.DataFrame] = {}
    for stage in ("evaluate-start", "evaluate-sft"):
        if stage == "evaluate-sft":
            monkeypatch.setattr(
                measure, "sample_answers",
                lambda model, tokenizer, prompts, **_: [[Answer(right[str(p)], [], [], [], True)] for p in prompts],
            )  # fmt: skip
        run = make_run(tmp_path / stage)
        evaluate(EvaluationConfig(), {"checkpoint": base, "factories": written}, run)
        items[stage] = read_items(run.output)
    rows = {row["title"]: row for row in before_after(items, {}, seed=0)["rows"]}
    title = "answers that pass the factories' checks, greedy"
    for name in (title, f"{title}: mathematics", f"{title}: cross lingual"):
        cell = rows[name]["cells"]["sft"]
        assert (rows[name]["before"], cell["value"], cell["difference"]) == (0.0, 1.0, 1.0)
    assert rows[title]["cells"]["sft"]["low"] > 0.5
