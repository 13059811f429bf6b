"""The artifact store on a local disk: round trips, atomicity, and damage of every kind."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from infra_support import ORIGIN, write_files

from infra.backends import LocalBackend
from infra.errors import CorruptArtifact, InfraError, MissingArtifact
from infra.store import ArtifactStore

names = st.from_regex(r"[a-z0-9_]{1,8}(\.[a-z]{1,4})?", fullmatch=True)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
contents = st.dictionaries(paths, st.binary(max_size=2000), min_size=1, max_size=5).filter(
    # a name cannot be a file and a folder at once
    lambda files: not any(other.startswith(path + "/") for path in files for other in files)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=contents, summary=st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_what_is_committed_is_what_is_opened(files, summary, tmp_path_factory):
    root = tmp_path_factory.mktemp("round-trip")
    committed = ArtifactStore(LocalBackend(root / "store")).commit(
        write_files(root / "output", files), **{**ORIGIN, "summary": summary}
    )
    opened = ArtifactStore(LocalBackend(root / "store")).open(committed.digest)  # as another process would
    stored = {path.relative_to(opened.path).as_posix(): path for path in opened.path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in stored.items()} == files
    assert opened.summary == summary
    assert opened.manifest.digest == committed.digest


def test_the_same_content_from_the_same_origin_is_stored_once(store, commit):
    first, second = commit(store), commit(store)
    assert first.digest == second.digest
    assert first.manifest.created_at == second.manifest.created_at
    assert len(store.list()) == 1


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"kind": "mixture"}, {"stage_version": "2"}, {"config_digest": "d" * 64},
     {"inputs": {"documents": "e" * 64}}, {"summary": {"documents": 3}}, {"files": {"documents.txt": b"one"}}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_content_and_origin_both_make_the_digest(store, commit, change):
    assert commit(store).digest != commit(store, **change).digest


def test_time_and_library_versions_do_not_make_the_digest(store, commit):
    manifest = commit(store).manifest
    later = manifest.model_copy(
        update={"versions": {"torch": "99"}, "created_at": manifest.created_at.replace(year=2001)}
    )
    assert later.digest == manifest.digest


def test_a_commit_on_the_same_disk_copies_nothing_and_leaves_the_folder(store, tmp_path):
    output = write_files(tmp_path / "output", {"weights.bin": b"w" * 1000})
    artifact = store.commit(output, **ORIGIN)
    assert (output / "weights.bin").samefile(artifact.path / "weights.bin")
    assert (artifact.path / "weights.bin").stat().st_mode & 0o222 == 0


def test_a_commit_from_another_disk_copies(store, tmp_path, monkeypatch):
    def other_disk(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_disk)
    output = write_files(tmp_path / "output", {"weights.bin": b"w" * 1000})
    artifact = store.commit(output, **ORIGIN)
    assert not (output / "weights.bin").samefile(artifact.path / "weights.bin")
    assert ArtifactStore(store.backend).open(artifact.digest).path == artifact.path


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)


DAMAGES = pytest.mark.parametrize(
    ("damage", "problem"), [(damage_bit, "sha256"), (truncate, "bytes"), (Path.unlink, "missing")],
    ids=["bit", "truncated", "missing"],
)  # fmt: skip


@DAMAGES
@pytest.mark.parametrize("known", [True, False], ids=["verified before", "fresh process"])
def test_damage_is_found_and_named(store, commit, damage, problem, known):
    artifact = commit(store)
    damage(artifact.path / "documents.txt")
    store = store if known else ArtifactStore(store.backend)
    for read in (store.open, store.verify):
        with pytest.raises(CorruptArtifact, match=rf"{artifact.digest[:12]}: documents.txt: .*{problem}"):
            read(artifact.digest)


@DAMAGES
def test_a_damaged_result_is_forgotten_and_made_good_by_the_next_commit(store, commit, damage, problem, caplog):
    artifact = commit(store)
    store.remember("key", artifact.digest)
    assert store.recall("key") == artifact.digest
    damage(artifact.path / "documents.txt")
    with caplog.at_level(logging.WARNING):
        assert store.recall("key") is None
    assert problem in caplog.text
    assert commit(store).digest == artifact.digest
    assert store.recall("key") == artifact.digest


def test_a_file_that_was_never_committed_is_damage(store, commit):
    artifact = commit(store)
    (artifact.path / "extra.parquet").write_bytes(b"")
    with pytest.raises(CorruptArtifact, match=r"extra.parquet: .*never committed"):
        ArtifactStore(store.backend).open(artifact.digest)


def test_a_changed_manifest_is_damage(store, commit):
    artifact = commit(store)
    path = artifact.path.parent / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["summary"]["documents"] = 1000
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match=r"manifest.json"):
        store.open(artifact.digest)
    assert list(store.list()) == []


@pytest.mark.parametrize("path", ["../escape", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\b", "", "."])
def test_a_manifest_cannot_name_files_outside(store, commit, path):
    artifact = commit(store)
    manifest = json.loads((artifact.path.parent / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (artifact.path.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match=r"manifest.json"):
        store.open(artifact.digest)


@pytest.mark.parametrize("digest", ["../../etc", "", "a" * 63, "A" * 64, "g" * 64])
def test_what_is_no_digest_is_never_looked_up(store, digest):
    with pytest.raises(MissingArtifact):
        store.open(digest)


@pytest.mark.parametrize("key", ["../key", "", "a/b", ".hidden", "k" * 201])
def test_what_is_no_cache_key_is_refused(store, key):
    with pytest.raises(InfraError, match="no cache key"):
        store.recall(key)


def test_links_and_empty_results_are_refused(store, tmp_path):
    output = write_files(tmp_path / "output", {})
    with pytest.raises(InfraError, match="wrote no file"):
        store.commit(output, **ORIGIN)
    (output / "link").symlink_to("/etc/hostname")
    with pytest.raises(InfraError, match="link"):
        store.commit(output, **ORIGIN)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Path("x"), {1, 2}], ids=str)
def test_a_summary_must_be_plain_json(store, commit, value):
    with pytest.raises(InfraError, match=r"'ingest' is not plain JSON"):
        commit(store, summary={"value": value})


def test_delete_find_and_gc(store, commit):
    kept, dropped = commit(store), commit(store, seed=1)
    store.remember("kept", kept.digest)
    store.remember("dropped", dropped.digest)
    assert store.find(kept.digest[:10]) == kept.digest
    assert store.uri(kept.digest) == kept.path.as_uri()
    with pytest.raises(MissingArtifact, match="2 artifacts start"):
        store.find("")
    assert store.gc({kept.digest}) == {dropped.digest}
    assert [manifest.digest for manifest in store.list()] == [kept.digest]
    assert store.recall("kept") == kept.digest
    assert store.recall("dropped") is None
    assert not store.exists(dropped.digest)
    store.delete(dropped.digest)  # again is no error
    with pytest.raises(MissingArtifact):
        store.remember("dropped", dropped.digest)


def test_gc_removes_what_killed_writers_have_left_long_ago(store, commit):
    old, new = (store.backend.new_staging() for _ in range(2))
    write_files(old, {"half.bin": b"x"})
    os.utime(old, (0, 0))
    store.gc(set())
    assert not old.exists()
    assert new.exists()


COMMITTER = """
import sys
from pathlib import Path
from infra.backends import LocalBackend
from infra.store import ArtifactStore
store = ArtifactStore(LocalBackend(Path(sys.argv[1])))
print("ready", flush=True)
store.commit(Path(sys.argv[2]), kind="corpus", stage="ingest", stage_version="1", config_digest="c" * 64, inputs={},
             seed=0, summary={"documents": 2})
print("done", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15])
def test_kill_9_during_a_commit_leaves_all_or_nothing(store, tmp_path, delay):
    output = write_files(tmp_path / "output", {f"part-{number:03}.bin": os.urandom(40_000) for number in range(60)})
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMITTER, store.backend.location, str(output)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    done = "done" in process.stdout.read()
    process.wait()
    visible = store.list()
    assert len(visible) == 1 if done else len(visible) <= 1
    for manifest in visible:  # whatever can be seen is whole
        store.verify(manifest.digest)
    again = store.commit(output, **ORIGIN)
    assert len(store.verify(again.digest).files) == 60


def test_two_processes_that_commit_the_same_agree(store, tmp_path):
    output = write_files(tmp_path / "output", {f"part-{number}.bin": os.urandom(10_000) for number in range(20)})
    command = [sys.executable, "-c", COMMITTER, store.backend.location, str(output)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(store.list()) == 1
    assert list((tmp_path / "store" / "staging").iterdir()) == []


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(store, commit, monkeypatch):
    kept = commit(store)

    def full(*_, **__):
        raise OSError(28, "No space left on device", "weights.bin")

    monkeypatch.setattr("infra.backends._link_or_copy", full)
    with pytest.raises(InfraError, match=r"the disk is full"):
        commit(store, seed=1)
    assert [manifest.digest for manifest in store.list()] == [kept.digest]
    assert list((Path(store.backend.location) / "staging").iterdir()) == []


def test_a_store_where_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InfraError, match=r"a file is where a folder should be"):
        LocalBackend(tmp_path / "file" / "store")
