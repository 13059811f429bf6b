"""Corpus files: what is wrong is named with file and key path before anything is fetched."""

import pytest

from components.data.ingest import IngestConfig
from components.data.sources import load_corpus

GOOD = """
[[source]]
name = "mine"
kind = "path"
path = "data.jsonl"
format = "jsonl"
licence = "CC0-1.0"
"""


def corpus(folder, text=GOOD):
    (folder / "data.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    file = folder / "corpus.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_relative_paths_start_at_the_corpus_file(tmp_path):
    (source,) = load_corpus(corpus(tmp_path))
    assert source.path == "data.jsonl"
    assert len(source.fingerprint) == 16


def test_a_changed_file_changes_the_config(tmp_path):
    file = corpus(tmp_path)
    before = IngestConfig(corpus=str(file))
    (tmp_path / "data.jsonl").write_text('{"text": "other"}\n', encoding="utf-8")
    assert IngestConfig(corpus=str(file)) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("data.jsonl", "gone.jsonl"), r"corpus\.toml: source\.0\.path: there is no file or folder .*gone\.jsonl"),
        (('format = "jsonl"', 'format = "word"'), r"corpus\.toml: source\.0\.path\.format"),
        (("licence", "license"), r"corpus\.toml: source\.0\.path\.licen[cs]e"),
        (('"mine"\n', '"mine"\nextract = "a.*"\n'), "needs one group"),
        (("[[source]]", "[[source"), "not valid TOML"),
        ((GOOD, GOOD + GOOD), "mine is used twice"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, change, message):
    file = corpus(tmp_path, GOOD.replace(*change))
    with pytest.raises(ValueError, match=message):
        IngestConfig(corpus=str(file))


def test_a_missing_corpus_file_is_named():
    with pytest.raises(ValueError, match=r"no corpus file nowhere\.toml"):
        IngestConfig(corpus="nowhere.toml")


def test_the_pocket_corpus_is_valid_and_states_every_licence():
    sources = IngestConfig().sources
    assert len(sources) > 20
    assert all(source.licence for source in sources)
    assert {"en", "zh", "ja", "code"} <= {source.language for source in sources}
    assert len({source.domain_hint for source in sources} - {""}) >= 5
