"""The data stages' plan: against sums by hand, scaling with tokens and cores, and without a measurement."""

import json
from pathlib import Path

import pytest

from flows import data_plan
from flows.data_plan import plan_data, read_rates
from flows.plan import make_plan, print_plan
from flows.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
MEASURED = {
    "date": "2026-01-02", "host": {"cpu": "a processor"}, "bytes_per_token": 4.0, "document_bytes": 2000.0,
    "stored_share": 0.5,
    "rates": {
        "reading and writing": 100e6, "clean": 10e6, "deduplicate": 5e6, "quality": 4e6, "domains": 8e6,
        "decontaminate": 20e6, "shards": 2e6,
    },
}  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(data_plan, "RESULTS", tmp_path)
    return tmp_path


def test_hours_and_storage_are_sums_of_rates_and_sizes(results):
    (results / "2026-01-02-data.json").write_text(json.dumps(MEASURED))
    recipe = load_recipe(RECIPES / "0.5B.toml")
    found = plan_data(recipe, cores=1000)
    tokens = recipe.pretrain.tokens + recipe.extend.tokens
    assert found["tokens"] == tokens > 18e12
    assert found["text_bytes"] == 4 * tokens
    chosen = 4 * tokens / recipe.quality.keep_share
    assert found["extracted_bytes"] == pytest.approx(chosen / 0.12)
    hours = {row["stage"]: row["core_hours"] for row in found["stages"]}
    assert hours["clean"] == pytest.approx(chosen / 0.12 * (1 / 100e6 + 1 / 10e6) / 3600)
    assert hours["deduplicate"] == pytest.approx(chosen / 0.12 * 0.23 * (1 / 100e6 + 1 / 5e6) / 3600)
    assert hours["shards"] == pytest.approx(4 * tokens * (1 / 100e6 + 1 / 2e6) / 3600)
    assert hours["mixture"] == pytest.approx(4 * tokens / 100e6 / 3600)
    assert found["hours"] == pytest.approx(sum(hours.values()) / 1000)
    assert found["storage"]["token files"] == 4 * tokens  # 151,936 tokens take four bytes each
    assert found["storage"]["ingested text"] == pytest.approx(chosen / 0.12 * 0.5)
    assert found["storage_bytes"] == pytest.approx(sum(found["storage"].values()))


def test_the_plan_of_a_published_size_shows_them(results, capsys):
    (results / "2026-01-02-data.json").write_text(json.dumps(MEASURED))
    plan = make_plan(RECIPES / "7B.toml", hardware="h100", gpus=64)
    assert plan["data"]["cores"] == 16 * 64
    assert make_plan(RECIPES / "7B.toml", hardware="h100", gpus=64, cores=10)["data"]["cores"] == 10
    print_plan(plan)
    shown = capsys.readouterr().out
    assert "data for 18.2 T tokens, on 1,024 cores" in shown
    assert "token files 72.7 TB" in shown
    assert "2026-01-02-data.json" in shown


def test_the_newest_measurement_with_rates_counts(results):
    (results / "2026-01-02-data.json").write_text(json.dumps(MEASURED))
    (results / "2026-02-01-data.json").write_text(json.dumps({"date": "2026-02-01", "rows": {}}))
    assert read_rates()["file"] == "2026-01-02-data.json"


def test_without_a_measurement_the_plan_names_the_command(results, capsys):
    plan = make_plan(RECIPES / "pocket.toml")
    assert plan["data"] is None
    print_plan(plan)
    assert "qwenforge bench data --json" in capsys.readouterr().out


def test_what_this_checkout_ships_can_be_read():
    found = read_rates()
    if found is not None:
        assert set(MEASURED["rates"]) <= set(found["rates"])
