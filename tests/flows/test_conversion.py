"""``import`` and ``export``: artifacts with names, forms for others, exit code 2 and one line for each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_shapes import make_config, make_model
from smollm2 import PINNED, smollm2_file

from flows.artifacts import collect_garbage
from flows.checkpoints import find_checkpoint
from flows.conversion import export_command, exported_line, import_command, imported_line
from flows.errors import UsageError
from infra.catalog import Catalog
from infra.settings import load_settings
from infra.store import open_store
from model.checkpoint import load_model, save_model
from model.conversion import open_source
from model.gguf_export import export_gguf
from model.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("QWENFORGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A checkpoint that somebody else has made."""
    tokenizer = Tokenizer.train(["the cat sat on the mat", "what is 17 + 25?"], 320)
    save_model(tmp_path / "Their Model", make_model(make_config(vocab_size=320)), tokenizer)
    return tmp_path / "Their Model"


def test_a_folder_becomes_an_artifact_without_ancestors(theirs, home):
    done = import_command(theirs)
    assert done["alias"] == "their-model"
    assert f"artifact {done['digest'][:12]} (qwenforge chat their-model)" in imported_line(done)
    settings = load_settings()
    store = open_store(settings)
    artifact = find_checkpoint("their-model", settings, store)
    assert (artifact.digest, artifact.kind, artifact.manifest.stage) == (done["digest"], "checkpoint", "import")
    assert artifact.manifest.inputs == {}
    assert store.verify(artifact.digest).summary["parameters"] == done["parameters"]
    first, second = load_model(theirs).state_dict(), load_model(artifact.path).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not list(home.glob("import-*")), "no scratch folder is left"


def test_importing_twice_is_one_artifact(theirs):
    assert import_command(theirs)["digest"] == import_command(theirs, alias="again")["digest"]
    settings = load_settings()
    assert len(open_store(settings).list()) == 1
    assert set(Catalog(settings.catalog_url).aliases()) == {"their-model", "again"}


def test_an_imported_checkpoint_outlives_garbage_collection(theirs, capsys):
    digest = import_command(theirs)["digest"]
    collect_garbage(dry_run=False)
    assert open_store(load_settings()).exists(digest)


def test_a_gguf_file_loses_the_type_in_its_name(theirs, tmp_path):
    file = tmp_path / "Some-Model.Q4_1.gguf"
    export_gguf(open_source(theirs), file, "int4")
    done = import_command(file, dtype="bfloat16")
    assert (done["alias"], done["format"]) == ("some-model", "gguf")


def test_the_pinned_checkpoint_is_fetched_and_named():
    smollm2_file()  # skips without a network
    done = import_command(PINNED)
    assert (done["alias"], done["parameters"], done["conversations"]) == ("smollm2", 134_543_808, True)


@pytest.mark.parametrize(
    ("source", "alias", "message"),
    [
        ("nowhere", "", "nowhere: no such file or folder"),
        ("empty", "", r"empty/config\.json: cannot be read as JSON"),
        ("text.gguf", "", r"text\.gguf: not a whole GGUF file: GGUF magic invalid"),
        ("pin.toml", "", r"pin\.toml: package"),
        ("Their Model", "rl", "alias rl is kept for recipes"),
        ("Their Model", "Größe", "alias 'Größe': use up to 64"),
    ],
)
def test_what_cannot_be_imported(theirs, tmp_path, source, alias, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("this is no model, whatever its name says")
    (tmp_path / "pin.toml").write_text('name = "a"\npackage = "b"\n')
    with pytest.raises(UsageError, match=message):
        import_command(tmp_path / source, alias=alias)
    assert open_store(load_settings()).list() == []


@pytest.mark.parametrize("target", ["folder", "model.gguf"])
def test_exports_say_what_was_measured(theirs, tmp_path, target):
    import_command(theirs)
    form = "gguf" if target.endswith(".gguf") else "hf"
    done = export_command("their-model", tmp_path / target, format=form)
    line = exported_line(done)
    assert line.startswith(f"{tmp_path / target}: ")
    assert ("of transformers', " if form == "hf" else "of the checkpoint's") in line


def test_a_quantised_export_prints_perplexities_and_chats(theirs, tmp_path):
    (tmp_path / "text").write_text("the cat sat on what is 17. " * 20)
    done = export_command(str(theirs), tmp_path / "small", quantize="int8", text=tmp_path / "text")
    assert f"perplexity {done['perplexity_before']:.4g} before, {done['perplexity_after']:.4g} after" in exported_line(
        done
    )
    assert find_checkpoint(str(tmp_path / "small"), load_settings(), open_store(load_settings())).path
    assert load_model(tmp_path / "small").config == load_model(theirs).config


@pytest.mark.parametrize(
    ("target", "choices", "message"),
    [
        ("Their Model", {}, "is there already; name a new one"),
        ("out.gguf", {}, "named like a GGUF file: add --format gguf"),
        ("out", {"quantize": "int8", "dtype": "float16"}, "quantize int8 and dtype float16 exclude each other"),
    ],
)
def test_what_cannot_be_exported(theirs, tmp_path, target, choices, message):
    with pytest.raises(UsageError, match=message):
        export_command(str(theirs), tmp_path / target, **choices)


def command(*arguments: str, talk: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, input=talk, capture_output=True, text=True, timeout=250,
    )  # fmt: skip


def test_the_command_line_end_to_end(theirs, tmp_path):
    done = command("import", str(theirs), "--alias", "mine", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["alias"] == "mine"
    spoken = command("chat", "mine", "--max-new-tokens", "3", talk="Hello?\n")
    assert spoken.returncode == 0, spoken.stderr
    (theirs / "model.safetensors").write_bytes(b"short")
    for arguments, words in (
        (("import", str(theirs)), "model.safetensors: not a whole safetensors file"),
        (("export", str(theirs), str(tmp_path / "out")), "model.safetensors: not a whole safetensors file"),
        (("chat", str(theirs)), "model.safetensors: not a whole safetensors file"),
        (("chat", str(PINNED)), "is a file; qwenforge import"),
        (("chat", "nobody"), "nobody is no alias (mine), no artifact and no folder"),
    ):
        failed = command(*arguments)
        assert failed.returncode == 2, failed.stderr
        assert words in failed.stderr
        assert len(failed.stderr.strip().splitlines()) == 1, failed.stderr
