"""Pages on a small catalog, drawn without a browser: what they show, and what their buttons do."""

import os
import time
from pathlib import Path

import pytest
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
    import streamlit

    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
    yield Home(tmp_path)
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()


def page(view: str, run: str, digest: str, role: str):
    from importlib import import_module

    import streamlit as st

    from dashboard.access import Person

    st.session_state["person"] = Person("ann", role)
    if digest:
        st.query_params["checkpoint"] = digest
    import_module(f"dashboard.views.{view}").show(run)


def opened(view: str, home: Home, digest: str = "", role: str = "operator") -> AppTest:
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
