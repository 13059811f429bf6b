import json
from pathlib import Path

import pytest

from components.data.documents import new_document, read_documents, write_documents
from components.data.mixture import MixtureConfig, mix
from components.data.mixture_solver import allocate, target_shares, total_variation
from components.stage import StageError
from tests.support import make_artifact, make_run


def corpus(folder: Path, sizes: dict[str, int], length: int = 100):
    """``sizes`` documents of ``length`` bytes each, by domain, with rising quality."""
    documents = [
        new_document(
            f"{domain} {number} ".ljust(length, "x"),
            source="test",
            language="en",
            domain=domain,
            quality={"overall": number / count},
        )
        for domain, count in sizes.items()
        for number in range(count)
    ]
    write_documents(folder, documents)
    return make_artifact("corpus", folder)


@pytest.fixture
def inputs(tmp_path: Path):
    return {
        "documents": corpus(tmp_path / "natural", {"science": 50, "e-commerce": 100, "news": 50}),
        "synthetic": corpus(tmp_path / "synthetic", {"synthetic-math": 20}),
    }


CONFIG = MixtureConfig(
    factors={"e-commerce": 0.25, "science": 2.0},
    shares={"synthetic-math": 0.2},
    budget_bytes=15_000,
    quality_preference=1.0,
)


def test_shares_reach_the_target(tmp_path: Path, inputs) -> None:
    run = make_run(tmp_path)
    summary = mix(CONFIG, inputs, run)

    facts = json.loads((run.output / "mixture.json").read_text())
    assert facts["unmet"] == {}
    assert total_variation(facts["after"], facts["target"]) < 0.01
    # natural bytes 50 : 100 : 50 become 100 : 25 : 50 of the 80% that synthetic mathematics leaves
    assert facts["target"]["science"] == pytest.approx(0.8 * 100 / 175, abs=1e-5)
    assert summary["effects"][0]["value"] < summary["effects"][0]["baseline"]


def test_the_best_documents_are_kept_and_repeated(tmp_path: Path, inputs) -> None:
    run = make_run(tmp_path)
    mix(CONFIG, inputs, run)

    documents = list(read_documents(run.output))
    kept = {d.quality["overall"] for d in documents if d.domain == "e-commerce"}
    assert kept and min(kept) > 0.8
    science = sorted((d.copies, d.quality["overall"]) for d in documents if d.domain == "science")
    assert science == sorted(science, key=lambda pair: pair[1])
    assert max(copies for copies, _ in science) <= CONFIG.maximum_copies


def test_what_is_missing_goes_to_the_others_and_is_said() -> None:
    wanted, unmet = allocate({"a": 100, "b": 10_000}, {"a": 0.5, "b": 0.5}, budget=2_000, maximum_copies=4)
    assert wanted == {"a": 400.0, "b": 1_600.0}
    assert unmet == {"a": "a: 50.0% wanted, 20.0% is there at 4 copies"}


def test_a_budget_beyond_everything_is_unmet_everywhere() -> None:
    wanted, unmet = allocate({"a": 100, "b": 100}, {"a": 0.5, "b": 0.5}, budget=2_000, maximum_copies=4)
    assert wanted == {"a": 400.0, "b": 400.0}
    assert set(unmet) == {"a", "b"}


def test_the_share_of_an_absent_domain_goes_to_the_others() -> None:
    assert target_shares({"news": 10}, {}, {"code": 0.3}) == {"news": 1.0}


def test_fixed_shares_that_leave_nothing_are_an_error() -> None:
    with pytest.raises(StageError, match=r"lower mixture\.shares"):
        target_shares({"news": 10, "code": 10}, {}, {"code": 1.2})


def test_equal_inputs_give_equal_bytes(tmp_path: Path, inputs) -> None:
    first, second = make_run(tmp_path / "1"), make_run(tmp_path / "2")
    mix(CONFIG, inputs, first)
    mix(CONFIG, inputs, second)
    for file in first.output.iterdir():
        assert file.read_bytes() == (second.output / file.name).read_bytes()
