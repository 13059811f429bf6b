"""Cleaning: each rule on a text that breaks it and one that does not; scrubbing; the stage as a whole."""

import json
import random

import pytest
from support import make_artifact, make_run

from components.data import clean as clean_module
from components.data.clean import CleanConfig, clean, language_of
from components.data.documents import new_document, read_documents, write_documents
from components.data.filters import FilterConfig, reason_to_drop
from components.data.language import identify
from components.data.normalize import normalize
from components.data.personal import iban, luhn, scrub
from components.data.personal_probe import measure_scrubbing
from components.data.pool import map_shards

PROSE = (
    "The old mill stood at the end of the valley, and nobody had lived there for years. Children from the village "
    "dared each other to knock at its door, but few did. One evening in autumn a light was seen behind the shutters."
)
CHINESE = "从前，有两个秀才进京赶考，路上遇到了一支送葬的队伍。其中一个顿时心烦意乱，心想这次考试肯定无望了。" * 2
CODE = 'def add(a: int, b: int) -> int:\n    """Sum of both."""\n    return a + b\n\n\nprint(add(1, 2))\n'


@pytest.mark.parametrize(
    ("text", "language", "reason"),
    [
        (PROSE, "en", ""),
        (CHINESE, "zh", ""),
        (CODE, "code", ""),
        ("Too short to be of use.", "en", "too few words"),
        (" ".join(f"{i}," for i in range(100, 160)), "en", "too few words with letters"),
        ("zebra, quartz, window, apple, " * 1 + ", ".join(f"word{i}" for i in range(30)), "en", "no stop words"),
        (PROSE + " lorem ipsum dolor", "en", "lorem ipsum"),
        ("{" * 60 + PROSE, "en", "curly brackets"),
        ("\n".join(f"- the {i} and of point" for i in range(20)), "en", "bullet lines"),
        ("\n".join(f"and so to the {w}..." for w in PROSE.split()), "en", "ellipsis lines"),
        ("\n".join([PROSE] * 6), "en", "duplicate lines"),
        ("the cat sat and " * 30, "en", "top 2-gram"),
        ("好" * 20, "zh", "too few characters"),
        ("1234567890" * 20 + "好" * 50, "zh", "too few letters"),
        ("x = 1\n" + "y" * 2000, "code", "code: longest line"),
        ("# auto-generated, do not edit\n" + CODE, "code", "code: generated"),
        ("   ", "en", "empty"),
    ],
)
def test_filters(text, language, reason):
    assert reason_to_drop(text, language, FilterConfig()) == reason


def test_documentation_is_not_dropped_for_its_examples():
    matrix = "\n".join(f"[{i}, {i + 1}, {i + 2}]," for i in range(12))
    documented = f"Returns the companion matrix of a polynomial.\n\n>>> companion(p)\nMatrix([\n{matrix}])"
    assert reason_to_drop(documented, "en", FilterConfig()) == ""
    assert reason_to_drop(documented.replace(">>> ", ""), "en", FilterConfig()) == "too few words with letters"
    junk = "x1 y2 z3 " * 40
    assert reason_to_drop(f"{junk}\n\n>>> f()\n1", "en", FilterConfig()) == "mean word length"


def test_a_phrase_that_comes_twice_is_no_pattern():
    text = (
        "The point of the line is where it starts. The point of a ray is one that it has and is drawn with to the end."
    )
    assert reason_to_drop(text, "en", FilterConfig(max_top_ngram=(0.05,))) == ""
    assert reason_to_drop(f"{text} The point is this.", "en", FilterConfig(max_top_ngram=(0.05,))) == "top 2-gram"


def test_rules_for_the_web_apply_to_the_web_only():
    menu = "\n".join(["Home", "About us and the team", "Contact", "News of the day", "Shop", "Imprint to read"] * 1) + (
        "\nWith all that you have to know and be\nFurther links\nBack\n"
    )
    assert reason_to_drop(menu, "en", FilterConfig(), web=True) in ("short lines", "no terminal punctuation")
    assert reason_to_drop(menu, "en", FilterConfig()) == ""


def test_repeated_passages_count_from_the_second_on():
    sentence = "he walked along the river to the bridge and then back to the town where they lived"
    other = PROSE + " It was the first in a long time, and it burned until the morning came over the hills again."
    assert reason_to_drop(f"{sentence}. {other}", "en", FilterConfig()) == ""
    assert reason_to_drop(f"{sentence}. {other} {sentence}", "en", FilterConfig()).startswith("duplicate")


def test_normalisation_keeps_code_and_tidies_prose():
    assert normalize("a\u00a0b \r\n\r\n\r\n\r\nc\u200b\u0301 \n") == "a b\n\n\u0107"
    assert normalize("e\u0301") == "é"
    assert normalize("def f():\r\n\r\n\r\n\r\n    pass\r\n", code=True) == "def f():\n\n\n\n    pass"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (PROSE, "en"), (CHINESE, "zh"), ("これはペンです。それは私の本ではありません。", "ja"),
        ("이것은 한국어 문장입니다. 오늘은 날씨가 좋습니다.", "ko"), ("12 34 56", "und"),
        ("Der Mann ging über die Straße und kaufte sich ein Brötchen beim Bäcker.", "de"),
    ],
)  # fmt: skip
def test_language_identification(text, language):
    assert identify(text)[0] == language


def test_identification_overrules_a_wrong_declaration_and_fills_a_missing_one():
    config = CleanConfig()
    assert language_of(CHINESE, "en", config) == "zh"
    assert language_of(PROSE, "und", config) == "en"
    assert language_of(CODE, "code", config) == "code"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Mail anna.smith+x@example.co.uk.", "Mail <EMAIL>."),
        ("Call (212) 555-0147 or +44 20 7946 0958!", "Call <PHONE> or <PHONE>!"),
        ("Card 4111 1111 1111 1111 please", "Card <CARD> please"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN <IBAN>"),
        ("from 81.23.45.67 at noon", "from <IP> at noon"),
        ("SSN 219-09-9999, born 1950", "SSN <ID>, born 1950"),
        ("身份证 11010519491231002X 已登记", "身份证 <ID> 已登记"),
        ("part 000-12-3456, 666-12-3456, order 219-00-9999, 110105194912310021", None),
        ("Card 4111 1111 1111 1112, version 3.11.7.2, 2024-05-17, 127.0.0.1, pi 3.14159265", None),
    ],
)
def test_personal_data_is_replaced_and_look_alikes_are_not(text, scrubbed):
    assert scrub(text, "en") == (text if scrubbed is None else scrubbed)


def test_checksums_against_published_examples():
    assert luhn("4012888888881881")
    assert iban("GB82 WEST 1234 5698 7654 32")
    assert not iban("GB82 WEST 1234 5698 7654 33")


def test_the_probe_finds_what_it_planted():
    probe = measure_scrubbing()
    assert probe.replaced >= 0.95 * probe.planted
    assert probe.kept >= 0.95 * probe.harmless


@pytest.fixture
def corpus(tmp_path):
    rng = random.Random(1)
    words = PROSE.replace(",", "").split()
    documents = [
        new_document(f"{PROSE} {i} {' '.join(rng.sample(words, 12))}.", source="good", language="en",
                     meta={"domain_hint": "literature"})
        for i in range(30)
    ]  # fmt: skip
    documents += [
        new_document(f"{i + 100}, " * 40, source="noise", language="und", meta={"label": "junk"}) for i in range(20)
    ]
    documents.append(new_document(f"{PROSE} Write to me@example.org.", source="good", language="en"))
    write_documents(tmp_path / "corpus", documents)
    return make_artifact("corpus", tmp_path / "corpus")


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_stage_drops_junk_keeps_text_and_says_why(tmp_path, corpus):
    run = make_run(tmp_path / "run")
    summary = clean(CleanConfig(), {"documents": corpus}, run)
    kept = list(read_documents(run.output))
    assert summary["documents_out"] == len(kept) == 31
    assert kept[-1].text.endswith("<EMAIL>.")
    assert kept[-1].id != list(read_documents(corpus))[-1].id
    assert summary["by_reason"] == {"too few words with letters": 20}
    dropped = [json.loads(line) for line in (run.output / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == 3
    effects = {entry["name"]: entry for entry in summary["effects"]}
    assert effects["labelled junk removed"]["value"] == 1.0
    assert effects["real text lost"]["value"] == 0.0


def test_the_result_does_not_depend_on_shards_or_on_a_kill(tmp_path, corpus, monkeypatch):
    whole = make_run(tmp_path / "whole")
    summary = clean(CleanConfig(), {"documents": corpus}, whole)
    cut = make_run(tmp_path / "cut")

    def dies_after_two(work, jobs, layout):
        for job in jobs[:2]:
            yield work(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(clean_module, "map_shards", dies_after_two)
    with pytest.raises(KeyboardInterrupt):
        clean(CleanConfig(shard_size=8), {"documents": corpus}, cut)
    monkeypatch.setattr(clean_module, "map_shards", map_shards)
    assert clean(CleanConfig(shard_size=8), {"documents": corpus}, cut) == summary
    assert files_of(cut.output) == files_of(whole.output)


def test_processes_return_results_in_order():
    assert list(map_shards(abs, [-3, -1, -2], workers=2)) == [3, 1, 2]
