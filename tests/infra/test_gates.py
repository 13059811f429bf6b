"""Promotions: what is asked for, measured and decided, what moves an alias against a verdict, and what is kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.catalog import Catalog
from infra.catalog.access import Access
from infra.catalog.gates import Gates, at_work
from infra.errors import InfraError

OLD, NEW, THIRD = "a" * 64, "b" * 64, "c" * 64
FALL = [
    {"metric": "mmlu.acc", "difference": {"value": -0.2, "low": -0.3, "high": -0.1, "n": 160}, "worse_p_holm": 0.01}
]


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def catalog(url):
    catalog = Catalog(url)
    catalog.set_alias("live", OLD, who="ann")
    yield catalog
    catalog.close()


@pytest.fixture
def gates(url, catalog):
    gates = Gates(url)
    yield gates
    gates.close()


@pytest.fixture
def refused(gates) -> int:
    gate = gates.ask("live", NEW, who="bob")
    gates.start(gate.id, suite=1)
    gates.decide(gate.id, FALL, ["mmlu.acc"])
    return gate.id


def test_a_passed_gate_moves_the_alias_and_its_figures_stand_beside_the_audit(url, catalog, gates):
    gate = gates.ask("live", NEW, who="bob")
    assert (gate.before, gate.state, at_work(gate)) == (OLD, "waiting", True)
    assert catalog.resolve_alias("live") == OLD
    assert gates.start(gate.id, suite=3).state == "running"
    assert gates.note_progress(gate.id, "mmlu", 0.5)
    assert gates.decide(gate.id, FALL, []).state == "passed"
    assert catalog.resolve_alias("live") == NEW
    entry = Access(url).audit()[0]
    assert (entry.who, entry.action, entry.before, entry.after, entry.gate_id) == ("bob", "promote", OLD, NEW, gate.id)
    kept = gates.get(gate.id)
    assert (kept.differences, kept.progress, kept.suite) == (FALL, 0.5, 3)
    with pytest.raises(InfraError, match="is passed: there is nothing to override"):
        gates.override(gate.id, who="bob", reason="because I want it so")


def test_a_refused_one_moves_only_with_a_written_reason(url, catalog, gates, refused):
    assert catalog.resolve_alias("live") == OLD
    assert Access(url).audit()[0].action == "refuse promotion"
    with pytest.raises(InfraError, match="at least 10 letters"):
        gates.override(refused, who="ann", reason="  well      ")
    assert catalog.resolve_alias("live") == OLD
    gates.override(refused, who="ann", reason="the suite's mmlu is not what we sell")
    assert catalog.resolve_alias("live") == NEW
    entry = Access(url).audit()[0]
    assert (entry.who, entry.action, entry.gate_id) == ("ann", "override gate", refused)
    assert entry.reason == "the suite's mmlu is not what we sell"
    assert gates.get(refused).state == "refused", "the verdict stays what it was"


def test_what_was_moved_meanwhile_is_not_moved_over(catalog, gates, refused):
    gate = gates.ask("live", NEW, who="bob")
    gates.start(gate.id, suite=1)
    catalog.set_alias("live", THIRD, who="carol")
    with pytest.raises(InfraError, match="was moved to cccc"):
        gates.decide(gate.id, [], [])
    with pytest.raises(InfraError, match="was moved to cccc"):
        gates.override(refused, who="ann", reason="a very good reason")
    assert catalog.resolve_alias("live") == THIRD
    gates.fail(gate.id, "moved meanwhile")
    assert gates.get(gate.id).state == "failed"
    gates.fail(refused, "too late")
    assert gates.get(refused).state == "refused"


def test_one_at_a_time_is_measured_and_a_dead_one_stands_in_nobodys_way(url, gates):
    first = gates.ask("live", NEW, who="bob")
    gates.start(first.id, suite=1)
    with pytest.raises(InfraError, match="is being measured for bob"):
        gates.ask("live", THIRD, who="carol")
    with pytest.raises(InfraError, match="is running, not waiting"):
        gates.start(first.id, suite=1)
    with pytest.raises(InfraError, match="means aaaaaaaaaaaa already"):
        gates.ask("live", OLD, who="carol")
    gates.fail(first.id, "out of memory")
    script = (
        "import os, sys; from infra.catalog.gates import Gates; g = Gates(sys.argv[1]);"
        "g.start(g.ask('live', sys.argv[2], who='eve').id, suite=1); os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", script, url, THIRD], env=env).returncode == -9
    dead = gates.recent(1)[0]
    assert dead.state == "running" and not at_work(dead)
    gates.ask("live", NEW, who="bob")
    assert gates.get(dead.id).error == "its process ended without a word"
    assert [gate.who for gate in gates.recent(after=NEW)] == ["bob", "bob"]
