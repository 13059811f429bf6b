"""``qwenforge promote``: an alias moves to what is no worse, stays from what is, and every decision is audited."""

import json
from pathlib import Path

import pytest
from benchmark_models import tiny_checkpoint

from flows import promotion
from flows.benchmarks import benchmarks_command
from flows.conversion import import_command
from flows.errors import UsageError, exit_code
from flows.promotion import Refused, promote_command
from infra.catalog import Catalog
from infra.catalog.access import Access
from infra.catalog.gates import Gates
from infra.settings import load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWENFORGE_DEVICE", "cpu")
    suite = {"tasks": ("python_reference",), "limit": 24, "max_new_tokens": 8}  # less of the same
    monkeypatch.setattr(promotion, "SUITE", suite)
    return tmp_path / "home"


@pytest.fixture
def digests(home: Path, tmp_path: Path) -> dict[str, str]:
    """``modest`` has an opinion on nothing; ``worse`` is very sure of random things."""
    made = {}
    for name, spread in (("modest", 0.02), ("worse", 0.4)):
        made[name] = import_command(tiny_checkpoint(tmp_path / name, spread=spread))["digest"]
    return made


def test_a_fall_is_refused_unless_overridden(
    home: Path, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = load_settings().catalog_url
    catalog = Catalog(url)
    assert promote_command("modest", "live")["from"] is None, "the first one has nothing to be worse than"
    with pytest.raises(Refused, match=r"worse than live .*python_reference.bits_per_byte \+.*--override") as refused:
        promote_command("worse", "live")
    assert exit_code(refused.value) == 1
    assert catalog.resolve_alias("live") == digests["modest"]

    def measured_again(*arguments, **options):
        raise AssertionError("both have been measured")

    monkeypatch.setattr(promotion, "run_tasks", measured_again)
    with pytest.raises(UsageError, match="say why"):
        promote_command("worse", "live", override="so")
    done = promote_command("worse", "live", override="a test of what is worse")
    assert done["override"] and catalog.resolve_alias("live") == digests["worse"]
    done = promote_command(digests["modest"][:16], "live")
    assert done["moved"] and not done["worse"] and done["differences"][0]["difference"]["value"] < 0
    assert not promote_command("modest", "live")["moved"], "it is there already"

    audit = [entry for entry in reversed(Access(url).audit()) if entry.subject == "live"]
    assert [(entry.action, entry.after) for entry in audit] == [
        ("promote", digests["modest"]), ("refuse promotion", digests["worse"]), ("refuse promotion", digests["worse"]),
        ("override gate", digests["worse"]), ("promote", digests["modest"]),
    ]  # fmt: skip
    assert audit[3].reason == "a test of what is worse"
    gates = Gates(url)
    assert gates.get(audit[1].gate_id).worse == ["python_reference.bits_per_byte"]
    assert gates.get(audit[1].gate_id).differences[0]["worse_p_holm"] < 0.05
    assert not (home / "promotions.jsonl").exists()


def test_the_dashboards_job_decides_as_the_command_does(home: Path, digests: dict[str, str]) -> None:
    url = load_settings().catalog_url
    promote_command("modest", "live")
    gate = Gates(url).ask("live", digests["worse"], who="ann")
    assert promotion.main(gate.id) == 0
    decided = Gates(url).get(gate.id)
    assert (decided.state, decided.worse, decided.suite) == ("refused", ["python_reference.bits_per_byte"], 1)
    assert "python_reference" in str(decided.doing)
    gone = Gates(url).ask("live", "0" * 64, who="ann")
    assert promotion.main(gone.id) == 1
    assert "0000" in str(Gates(url).get(gone.id).error)


def test_an_alias_behind_the_gate_is_not_taken_by_an_import(digests: dict[str, str], tmp_path: Path) -> None:
    promote_command("modest", "live")
    with pytest.raises(UsageError, match="qwenforge promote alone"):
        import_command(tmp_path / "worse", alias="live")


def test_mistakes_are_one_line(digests: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        promote_command(str(tmp_path / "modest"), "live")
    with pytest.raises(UsageError, match="is no alias"):
        promote_command("nothing", "live")
    with pytest.raises(UsageError, match="no task 'mmul'; there are mmlu"):
        benchmarks_command("modest", "mmul")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        benchmarks_command("modest", "mmlu", output=tmp_path / "full")


def test_two_checkpoints_on_the_same_questions(digests: dict[str, str], tmp_path: Path) -> None:
    found = benchmarks_command(
        "worse", "python_reference", against="modest", output=tmp_path / "out", limit=24, chat=None
    )
    (row,) = found["differences"]
    assert row["metric"] == "python_reference.bits_per_byte" and row["worse_p_holm"] < 0.001
    assert row["difference"]["low"] > 0
    value = found["metrics"]["python_reference.bits_per_byte"]["value"]
    other = found["against"]["metrics"]["python_reference.bits_per_byte"]["value"]
    assert row["difference"]["value"] == pytest.approx(value - other)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"] == found["metrics"]
    assert (tmp_path / "out" / "items.parquet").is_file()
    json.dumps(found)
