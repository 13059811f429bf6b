"""``qwenforge reviews`` and ``qwenforge users`` as a user types them."""

import pytest
from support import make_run
from typer.testing import CliRunner

from components.preference.pair_store import Pair, write_pairs
from components.preference.reviews import read_reviews
from flows.cli import app
from flows.errors import UsageError
from infra.catalog import Catalog, Reviews
from infra.catalog.access import Access
from infra.settings import load_settings
from infra.store import open_store


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    return load_settings()


def command(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def run_with_pairs(settings, tmp_path) -> None:
    folder = make_run(tmp_path).output
    write_pairs(
        folder,
        [
            Pair(f"q{n}-0", "train", "truth", [{"role": "user", "content": f"{n}?"}], f"yes {n}", f"no {n}", 1.0, 0.5)
            for n in range(12)
        ],
    )
    stored = open_store(settings).commit(
        folder, kind="preferences", stage="pairs", stage_version="1", config_digest="c", inputs={}, seed=0, summary={}
    )
    catalog = Catalog(settings.catalog_url)
    run = catalog.start_run(name="pocket", recipe={}, recipe_digest="r", seed=0, stages=["pairs"])
    catalog.finish_stage(catalog.start_stage(run, "pairs"), "completed", artifact_digest=stored.digest)
    catalog.finish_run(run, "completed")


def test_pairs_go_to_people_and_their_verdicts_come_back_as_a_file(settings, run_with_pairs, tmp_path):
    with pytest.raises(UsageError, match="nobody has judged"):
        command("reviews", "export", str(tmp_path / "none.jsonl"))
    assert command("reviews", "queue", "--limit", "10").startswith("10 pairs queued; 10 are in the queue")
    assert command("reviews", "queue", "--limit", "10").startswith("0 pairs queued; 10")

    reviews = Reviews(settings.catalog_url)
    for name in ("ann", "bob"):
        for _ in range(10):
            item = reviews.next_for(name)
            disagree = name == "bob" and item.pair_id == "q0-0"
            said = {"a": "b", "b": "a"}[item.automated] if disagree else item.automated
            reviews.submit(item.key, name, said, seconds=2, criteria={"truthfulness": said})
    status = command("reviews", "status")
    assert "10 pairs in the queue, 10 judged" in status
    assert [line.split()[-3] for line in status.splitlines() if line.startswith("ann")] == ["10", "10"]

    file = tmp_path / "reviews.jsonl"
    assert command("reviews", "export", str(file)).startswith("9 verdicts written, 1 divided left out")
    verdicts = read_reviews(file)
    assert len(verdicts) == 9
    assert all(v.pair.chosen.startswith("yes") and set(v.criteria) == {"truthfulness"} for v in verdicts)


def test_users_are_kept_with_roles_and_without_passwords(settings, monkeypatch):
    monkeypatch.setenv("QWENFORGE_PASSWORD", "correct horse battery")
    assert command("users", "set", "ann", "--role", "labeller") == "ann is labeller\n"
    monkeypatch.delenv("QWENFORGE_PASSWORD")
    command("users", "set", "ann", "--role", "operator", "--no-password")
    assert Access(settings.catalog_url).log_in("ann", "correct horse battery") == "operator"
    assert "operator" in command("users", "ls")
    command("users", "rm", "ann")
    assert "ann" not in command("users", "ls")
    assert [entry.action for entry in Access(settings.catalog_url).audit()] == ["remove user", "set user", "set user"]
