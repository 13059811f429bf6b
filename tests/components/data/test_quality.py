import json
import random
from pathlib import Path

import numpy as np
import pytest

from components.data.documents import new_document, read_documents, write_documents
from components.data.features import DENSE, CharacterModel, dense_features, ngrams
from components.data.quality import DIMENSIONS, QualityConfig, score_quality
from components.data.quality_judges import shuffle, soil
from components.data.quality_model import overall_score
from components.data.quality_scoring import keep_thresholds
from components.stage import StageError
from tests.support import make_artifact, make_run

CONFIG = QualityConfig(judged_documents=200, keep_share=0.9)
SUBJECTS = ("The river", "This theorem", "A small village", "The old bridge", "Her first novel", "The spiral galaxy")
VERBS = ("was described in", "is known from", "appears in", "was studied during", "was named after", "depends on")
OBJECTS = ("the great survey of 1894", "the works of a local teacher", "many later reports", "the last ice age")
CHINESE = (
    "今天天气很好，我们去河边散步。",
    "老师说，这座桥建于一百年前。",
    "村里的人以种田为生。",
    "后来他写了一本书。",
)


def prose(rng: random.Random, sentences: int = 6) -> str:
    return " ".join(f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}." for _ in range(sentences))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory):
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("quality")
    hints = ("encyclopedia", "entertainment", "science", "literature")
    documents = [
        new_document(f"{prose(rng)} {n}", source="test", language="en", meta={"domain_hint": hints[n % 4]})
        for n in range(300)
    ]
    documents += [
        new_document("".join(rng.choice(CHINESE) for _ in range(6)) + str(n), source="zh", language="zh")
        for n in range(60)
    ]
    letters = "abcdefghijklmnopqrstuvwxyz     "
    junk = [
        new_document(
            "".join(rng.choice(letters) for _ in range(300)), source="junk", language="en", meta={"label": "junk"}
        )
        for _ in range(60)
    ]
    write_documents(folder / "real", documents)
    write_documents(folder / "raw", [*documents, *junk])
    return {"documents": make_artifact("corpus", folder / "real"), "rejected": make_artifact("corpus", folder / "raw")}


@pytest.fixture(scope="module")
def scored(inputs, tmp_path_factory: pytest.TempPathFactory):
    run = make_run(tmp_path_factory.mktemp("run"))
    return run, score_quality(CONFIG, inputs, run)


def test_junk_that_fools_the_share_of_letters_is_told_apart(scored) -> None:
    effects = {effect["name"]: effect for effect in scored[1]["effects"]}
    assert effects["AUC of known junk"]["value"] > 0.9
    assert effects["AUC of known junk"]["low"] > 0
    assert effects["AUC of cleanliness"]["low"] > 0


def test_every_kept_document_has_all_scores(scored) -> None:
    for document in read_documents(scored[0].output):
        assert set(document.quality) == {*DIMENSIONS, "overall"}
        assert all(0 <= value <= 1 for value in document.quality.values())


def test_other_languages_are_not_judged_by_english_contrasts(scored) -> None:
    chinese = [document for document in read_documents(scored[0].output) if document.language == "zh"]
    assert len(chinese) >= 45  # a group loses a quarter at most
    assert all(document.quality["educational"] == 0.5 for document in chinese)


def test_samples_show_both_sides(scored) -> None:
    rows = [json.loads(line) for line in (scored[0].output / "samples.jsonl").read_text().splitlines()]
    assert {row["kept"] for row in rows} == {True, False}


def test_equal_inputs_give_equal_bytes(inputs, scored, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert score_quality(CONFIG, inputs, run) == scored[1]
    for file in run.output.iterdir():
        assert file.read_bytes() == (scored[0].output / file.name).read_bytes()


def test_good_groups_are_kept_whole_and_no_group_is_thrown_away() -> None:
    overall = np.concatenate([np.linspace(0.8, 1, 80), np.linspace(0, 0.4, 20)])
    groups = [("en", "science")] * 80 + [("zh", "")] * 20
    thresholds = keep_thresholds(overall, groups, keep=0.85, most_dropped=0.25)
    assert (overall[:80] >= thresholds["en", "science"]).all()
    assert (overall[80:] >= thresholds["zh", ""]).sum() == 15


def test_a_dimension_that_was_not_judged_does_not_count() -> None:
    scores = np.array([[0.2, np.nan], [0.2, 0.8], [np.nan, np.nan]])
    assert overall_score(scores, np.array([1.0, 1.0])) == pytest.approx([0.2, 0.5, 0.5])


def test_shuffling_keeps_the_words_and_soiling_adds_to_them() -> None:
    rng = random.Random(0)
    text = prose(rng)
    for _ in range(20):
        assert sorted(shuffle(text, rng).replace(" ", "")) == sorted(text.replace(" ", ""))
        assert soil(text, rng) != text


def test_shuffled_text_surprises_the_character_model() -> None:
    rng = random.Random(0)
    model = CharacterModel([prose(rng) for _ in range(50)])
    text = prose(rng)
    scrambled = "".join(rng.sample(text, len(text)))
    assert model.surprise(scrambled) > model.surprise(text) + 1


def test_features_are_finite_for_any_text() -> None:
    texts = ["", "a", "\n\n", "😀" * 50, "\ufffd", "<b>x</b>", "中文", "x" * 5000]
    values = dense_features(texts, CharacterModel(["abc"]))
    assert values.shape == (len(texts), len(DENSE)) and np.isfinite(values).all()
    assert ngrams(texts).shape == (len(texts), 1 << 16)


def test_unknown_weights_are_an_error(inputs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="weights must be for educational"):
        score_quality(QualityConfig(weights={"beauty": 1.0}), inputs, make_run(tmp_path))
