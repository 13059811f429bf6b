"""Pages on a small catalog, drawn without a browser: what they show, and what their buttons do."""

import json
import os
import time
from pathlib import Path

import pytest
import streamlit
from streamlit.testing.v1 import AppTest

from infra.catalog import Catalog
from infra.catalog.access import Access
from infra.catalog.gates import Gates
from infra.settings import load_settings
from infra.store import open_store

FALL = {
    "metric": "mmlu.acc", "difference": {"value": -0.2, "low": -0.3, "high": -0.1, "n": 160}, "worse_p": 0.01,
    "worse_p_holm": 0.02,
}  # fmt: skip


class Home:
    """A run that trains, two checkpoints, and a promotion that the gate has refused."""

    def __init__(self, folder: Path) -> None:
        self.settings = load_settings()
        store, self.catalog = open_store(self.settings), Catalog(self.settings.catalog_url)
        self.digests = {}
        for stage in ("pretrain", "sft"):
            (folder / stage).mkdir()
            (folder / stage / "note.txt").write_text(stage)
            artifact = store.commit(
                folder / stage, kind="checkpoint", stage=stage, stage_version="1", config_digest="c" * 64, inputs={},
                seed=0, summary={"final_loss": 2.0},
            )  # fmt: skip
            self.catalog.record_artifact(artifact.manifest)
            self.digests[stage] = artifact.digest
        self.run = self.catalog.start_run(
            name="tiny-2026-1", recipe={}, recipe_digest="r", seed=1, stages=["pretrain", "sft"]
        )
        row = self.catalog.start_stage(self.run, "pretrain")
        self.catalog.finish_stage(row, "completed", artifact_digest=self.digests["pretrain"], seconds=3000.0)
        self.catalog.start_stage(self.run, "sft")
        self.catalog.set_alias("base", self.digests["pretrain"])
        self.gates = Gates(self.settings.catalog_url)
        gate = self.gates.ask("base", self.digests["sft"], who="ann")
        self.gates.start(gate.id, suite=1)
        self.gates.decide(gate.id, [FALL], ["mmlu.acc"])


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
    yield Home(tmp_path)
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()


def study_artifacts(folder: Path) -> tuple[Path, Path]:
    """A law by the stage itself, fitted to runs that follow one, and what became of a larger model."""
    from support import make_artifact, make_run

    from components.scaling.shapes import StudyShape
    from components.scaling.study import PredictConfig, predict

    sweeps = {}
    for size in (20_000, 60_000, 120_000):
        points = [
            {"parameters": size, "tokens": tokens, "learning_rate": rate, "batch_tokens": batch,
             "loss": 2 + size**-0.1 + tokens**-0.1 + abs(rate - 0.01) + abs(batch - 512) / 1e4}
            for tokens in (1e5, 2e5, 4e5) for rate in (0.005, 0.01, 0.02) for batch in (256, 512, 1024)
        ]  # fmt: skip
        (folder / str(size)).mkdir()
        (folder / str(size) / "points.json").write_text(json.dumps(points))
        facts = {"active_parameters": size, "parameters": size}
        sweeps[f"own-{size}"] = make_artifact("scaling-law", folder / str(size), facts)
    shape = StudyShape(
        hidden_size=96, intermediate_size=288, num_hidden_layers=5, num_attention_heads=3, num_key_value_heads=1
    )
    run = make_run(folder / "law")
    predict(PredictConfig(shape=shape, tokens=500_000, resamples=3), sweeps, run)
    prediction = json.loads((run.output / "prediction.json").read_text())
    best = {"learning_rate": 0.01, "batch_tokens": 512, "loss": 3.0}
    outcome = folder / "outcome"
    outcome.mkdir()
    (outcome / "outcome.json").write_text(
        json.dumps({"prediction": prediction, "loss": 3.0, "best": best, "points": [best], "loss_error": 0.01,
                    "gap_to_best": 0.0})
    )  # fmt: skip
    return run.output, outcome


def page(view: str, run: str, digest: str, role: str):
    from importlib import import_module

    import streamlit as st

    from dashboard.access import Person

    st.session_state["person"] = Person("ann", role)
    if digest:
        st.query_params["checkpoint"] = digest
    import_module(f"dashboard.views.{view}").show(run)


def opened(view: str, home: Home, digest: str = "", role: str = "operator") -> AppTest:
    streamlit.cache_data.clear()  # a page looks again after some seconds
    shown = AppTest.from_function(page, args=(view, home.run, digest, role), default_timeout=120).run()
    assert not shown.exception
    return shown


def button(shown: AppTest, label: str):
    return next(each for each in shown.button if each.label == label)


def test_the_system_page_shows_hosts_the_processes_of_a_run_and_how_a_queue_comes(home, monkeypatch):
    shown = opened("system", home)
    hosts, processes = (each.value for each in shown.dataframe[:2])
    assert (hosts["running"][0], hosts["runs"][0]) == (1, 1)
    assert os.getpid() in list(processes["pid"]), "this process drives the run"
    assert "No Prefect server is known here" in shown.info[0].value
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "does not answer" in opened("system", home).warning[0].value
    home.catalog.finish_run(home.run, "completed")
    assert "No run is at work on this host" in opened("system", home).info[0].value


def test_the_scaling_page_shows_what_a_study_has_predicted_and_then_what_came_out(home, tmp_path):
    law, outcome = study_artifacts(tmp_path)
    digests = {}
    for stage, folder in (("law-dense", law), ("held-out-dense", outcome)):
        artifact = open_store(home.settings).commit(
            folder, kind="scaling-law", stage=stage, stage_version="1", config_digest="c" * 64, inputs={}, seed=0,
            summary={},
        )  # fmt: skip
        home.catalog.record_artifact(artifact.manifest)
        digests[stage] = artifact.digest
    home.run = home.catalog.start_run(name="study", recipe={}, recipe_digest="r", seed=1, stages=list(digests))
    assert "has not finished" in opened("scaling", home).info[0].value
    row = home.catalog.start_stage(home.run, "law-dense")
    home.catalog.finish_stage(row, "completed", artifact_digest=digests["law-dense"], seconds=1.0)
    shown = opened("scaling", home)
    assert "has not been trained yet" in shown.info[0].value
    row = home.catalog.start_stage(home.run, "held-out-dense")
    home.catalog.finish_stage(row, "completed", artifact_digest=digests["held-out-dense"], seconds=1.0)
    shown = opened("scaling", home)
    assert "A model of 539,456 (active) parameters, 4.5 times" in "".join(text.value for text in shown.markdown)
    table = shown.dataframe[-1].value.set_index("quantity")
    assert table.loc["loss", "low"] <= table.loc["loss", "predicted"] <= table.loc["loss", "high"]
    assert table.loc["loss", "outcome"] == 3.0
    assert any("+1.0% off" in text.value and "best of 1 runs" in text.value for text in shown.caption)


def test_a_refused_promotion_shows_its_figures_and_is_overridden_only_with_a_reason(home):
    shown = opened("checkpoints", home, home.digests["sft"])
    assert "worse in mmlu.acc" in shown.error[0].value
    assert any("Holm" in each.value and each.value["worse"][0] for each in shown.dataframe)
    button(shown, "Move base against the gate").click().run()
    assert "at least 10 letters" in shown.error[-1].value
    assert home.catalog.resolve_alias("base") == home.digests["pretrain"]
    shown.text_area(key="override_reason").set_value("we want it nevertheless")
    button(shown, "Move base against the gate").click().run()
    assert not shown.exception
    assert home.catalog.resolve_alias("base") == home.digests["sft"]
    entry = Access(home.settings.catalog_url).audit()[0]
    assert (entry.who, entry.action, entry.reason) == ("ann", "override gate", "we want it nevertheless")


def test_a_viewer_sees_verdicts_and_changes_nothing(home):
    shown = opened("checkpoints", home, home.digests["sft"], role="viewer")
    assert "worse in mmlu.acc" in shown.error[0].value
    assert not [each.label for each in shown.button]
    assert "lets you look only" in shown.info[-1].value


def test_a_checkpoint_is_verified_in_the_background_and_damage_is_named(home):
    stored = next((home.settings.home / "artifacts").rglob("note.txt"))
    shown = opened("checkpoints", home, home.digests["sft"])
    assert [each.label for each in shown.selectbox if each.options == ["note.txt"]] == ["File"]
    for damage, expected in ((b"", "Every byte"), (b"damaged", "note.txt: ")):
        if damage:
            for copy in (home.settings.home / "artifacts").rglob("note.txt"):
                copy.chmod(0o644)
                copy.write_bytes(damage)
        button(shown, "Verify every byte").click().run()
        deadline = time.monotonic() + 120
        while any("Verifying" in each.value for each in shown.info):
            assert time.monotonic() < deadline
            time.sleep(0.5)
            shown.run()
        said = [each.value for each in (*shown.success, *shown.error)]
        assert any(expected in each for each in said), (said, stored)
