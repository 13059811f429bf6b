"""The command ``claims``: what outlives a kill, what a budget stops, and what it says where nothing is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from toy_claims import ToyConfig, toy

from components.claims.registry import CLAIMS
from flows import claims as flow
from flows.errors import UsageError
from flows.recipe import load_recipe
from flows.terminal import Display
from infra.settings import Settings, load_settings
from infra.store import ArtifactStore, open_store

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from toy_claims import ToyConfig, toy
from flows import claims as flow
from flows.terminal import Display
from infra.settings import load_settings
from infra.store import open_store
settings = load_settings()
claims = [toy("first", ToyConfig(log={log!r})), toy("second", ToyConfig(log={log!r}, gap=2.0, kill_at={mark!r}))]
found = flow.measure_all(claims, {{}}, 3, None, settings, open_store(settings), Display())
print(len(found["second"].scores))
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWENFORGE_DEVICE", "cpu")
    return load_settings()


@pytest.fixture
def store(settings: Settings) -> ArtifactStore:
    return open_store(settings)


def measured(claims, settings, store, budget=None):
    return flow.measure_all(claims, {}, 3, budget, settings, store, Display())


def test_a_killed_command_goes_on_where_it_was(settings: Settings, tmp_path: Path):
    log, mark = tmp_path / "log", tmp_path / "mark"
    script = SCRIPT.format(folder=str(Path(__file__).parent), log=str(log), mark=str(mark))
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True) for _ in range(3)]
    assert [run.returncode for run in runs] == [-9, 0, 0], runs[1].stderr
    assert runs[1].stdout.split() == ["3"]
    lines = log.read_text().splitlines()
    stages = [line for line in lines if line.startswith("stage")]
    assert len(stages) == len(set(stages)) == 9, "0 of the first claim, 1 and 2 under three seeds, each made once"
    assert lines.count("measure seed 1") == 3, "of both claims, and once more of the one that was killed"
    assert lines.count("measure seed 0") == lines.count("measure seed 2") == 2, "the third attempt measures nothing"


def test_other_settings_are_other_results(settings: Settings, store: ArtifactStore, tmp_path: Path):
    one, other = (toy("one", ToyConfig(log=str(tmp_path / "log"), gap=gap)) for gap in (1.0, 3.0))
    assert measured([one], settings, store)["one"].scores[0]["effect"].treated[0] == 1.0
    assert measured([other], settings, store)["one"].scores[0]["effect"].treated[0] == 3.0


def test_a_spent_budget_begins_nothing_but_reads_what_is_there(
    settings: Settings, store: ArtifactStore, tmp_path: Path
):
    known, new = (toy(name, ToyConfig(log=str(tmp_path / name))) for name in ("known", "new"))
    measured([known], settings, store)
    found = measured([known, new], settings, store, budget=0)
    assert sorted(found["known"].scores) == [0, 1, 2]
    assert (found["new"].scores, found["new"].problem) == ({}, "the budget was spent")
    rows = flow.report([known, new], found, "toy")["claims"]
    assert [row["verdict"] for row in rows] == ["holds", "not measured"]


def test_one_claim_that_fails_leaves_the_others_alone(settings: Settings, store: ArtifactStore, tmp_path: Path):
    bad, good = (toy(n, ToyConfig(log=str(tmp_path / n), fail=n == "bad")) for n in ("bad", "good"))
    rows = flow.report([bad, good], measured([bad, good], settings, store), "toy")["claims"]
    assert [row["verdict"] for row in rows] == ["not measured", "holds"]
    assert "it cannot be measured" in rows[0]["problem"]
    json.dumps(rows, allow_nan=False)


def test_a_missing_run_is_named(store: ArtifactStore):
    path = Path("recipes/pocket.toml")
    with pytest.raises(UsageError, match=r"not there yet: .*extend.*; first: qwenforge run recipes/pocket.toml"):
        flow.finished(CLAIMS, load_recipe(path), store, path)


def test_an_unknown_claim_is_named():
    with pytest.raises(UsageError, match=r"--only yarm: no such claim; there are .*yarn"):
        flow.choose(CLAIMS, ["yarm"])


def test_claims_are_told_apart_and_start_from_stages_that_exist():
    from flows.stages import PIPELINE

    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS) >= 20
    known = {stage.id for stage in PIPELINE}
    for claim in CLAIMS:
        assert set(claim.needs) <= known
        assert claim.contrasts
        json.dumps(claim.config.model_dump(mode="json"))


def test_the_plan_says_what_is_there_and_what_is_left(settings: Settings, capsys: pytest.CaptureFixture[str]):
    rows = flow.plan_command(Path("recipes/pocket.toml"), [], ["yarn", "dpo"], 3)
    assert [(row["id"], row["measured"], row["seeds"]) for row in rows] == [("yarn", 0, 3), ("dpo", 0, 3)]
    assert all(row["minutes_left"] == row["minutes"] > 0 for row in rows)
    flow.print_plan(rows)
    assert "0 of 3" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no such claim"):
        flow.plan_command(Path("recipes/pocket.toml"), [], ["nothing"], 3)
