"""The human review queue."""

import pytest

from infra.catalog import Catalog, Reviews
from infra.catalog.reviews import item_of, shown_swapped
from infra.errors import InfraError


def pair(number: int, chosen: str = "", rejected: str = "") -> dict:
    return {
        "id": f"q{number}-0", "split": "train", "task": "truth",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "chosen": chosen or f"right {number}", "rejected": rejected or f"wrong {number}", "chosen_score": 1.0,
        "rejected_score": 0.5,
    }  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def reviews(request, tmp_path):
    if request.param == "sqlite":
        reviews = Reviews(f"sqlite:///{tmp_path}/catalog.db", patience=5)
    else:
        from sqlalchemy import text

        reviews = Reviews(request.getfixturevalue("postgres_url"), patience=5)
        reviews._write(lambda session: session.execute(text("TRUNCATE review_items, reviews")))
    yield reviews
    reviews.close()


def test_a_pair_is_queued_once_whichever_answer_was_chosen(reviews):
    assert reviews.queue([item_of(pair(1), "s"), item_of(pair(2), "s")]) == 2
    turned = pair(1, chosen="wrong 1", rejected="right 1")
    assert item_of(turned, "t").key == item_of(pair(1), "s").key
    assert reviews.queue([item_of(turned, "t"), item_of(pair(3), "t")]) == 1
    assert reviews.counts() == (3, 0, 0)


def test_the_order_of_the_answers_tells_nothing_of_the_choice():
    first = [item_of(pair(number), "s").automated == "a" for number in range(400)]
    assert 150 < sum(first) < 250  # binomial: five deviations
    swapped = [shown_swapped(item_of(pair(number), "s").key, "ann") for number in range(400)]
    assert 150 < sum(swapped) < 250
    other = [shown_swapped(item_of(pair(number), "s").key, "bob") for number in range(400)]
    assert 150 < sum(one == two for one, two in zip(swapped, other, strict=True)) < 250


def test_labellers_share_some_pairs_and_then_take_those_that_nobody_has(reviews):
    reviews.queue(item_of(pair(number), "s") for number in range(30))
    seen: dict[str, list[str]] = {"ann": [], "bob": []}
    for _ in range(15):
        for name, keys in seen.items():
            item = reviews.next_for(name)
            reviews.submit(item.key, name, "a", seconds=1)
            keys.append(item.key)
    both = set(seen["ann"]) & set(seen["bob"])
    assert both == {key for key in seen["ann"] if key < "33"} != set()
    assert reviews.counts("ann") == (30, 30 - len(both), 15)


def test_a_verdict_is_kept_replaced_and_taken_back(reviews):
    reviews.queue([item_of(pair(1), "s")])
    key = reviews.next_for("ann").key
    reviews.submit(key, "ann", "a", seconds=3.5, swapped=True, criteria={"truthfulness": "a", "conciseness": "tie"})
    assert reviews.next_for("ann") is None
    assert reviews.next_for("bob").key == key
    reviews.submit(key, "ann", "bad", seconds=1)
    (judged,) = reviews.judged()
    assert (judged.verdict, len(judged.reviews), judged.item.messages) == ("bad", 1, pair(1)["messages"])
    assert reviews.undo("ann") == key
    assert reviews.undo("ann") is None
    assert not reviews.judged()


def test_the_majority_decides_and_a_divided_vote_decides_nothing(reviews):
    reviews.queue([item_of(pair(1), "s")])
    key = reviews.next_for("ann").key
    for name, verdict in (("ann", "a"), ("bob", "b")):
        reviews.submit(key, name, verdict, seconds=1, criteria={"helpfulness": verdict})
    assert reviews.judged()[0].verdict is None
    reviews.submit(key, "eve", "b", seconds=1, criteria={"helpfulness": "tie", "relevance": "a"})
    judged = reviews.judged()[0]
    assert judged.verdict == "b"
    assert (judged.criterion("helpfulness"), judged.criterion("relevance"), judged.criterion("truthfulness")) == (
        None, "a", None,
    )  # fmt: skip


def test_what_is_no_verdict_is_refused(reviews):
    reviews.queue([item_of(pair(1), "s")])
    key = reviews.next_for("ann").key
    with pytest.raises(InfraError, match="no verdict 'better'"):
        reviews.submit(key, "ann", "better", seconds=1)
    with pytest.raises(InfraError, match="no criterion beauty=a"):
        reviews.submit(key, "ann", "a", seconds=1, criteria={"beauty": "a"})
    with pytest.raises(InfraError, match="no pair in the review queue 'gone'"):
        reviews.submit("gone", "ann", "a", seconds=1)


def test_a_catalog_of_the_first_revision_is_brought_up_with_its_runs(tmp_path):
    from alembic import command
    from alembic.config import Config

    from infra.catalog import migrations
    from infra.catalog.engine import open_engine

    url = f"sqlite:///{tmp_path}/catalog.db"
    config = Config()
    config.set_main_option("script_location", str(migrations._FOLDER))
    engine = open_engine(url)
    with engine.connect().execution_options(write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO runs (id, name, recipe, recipe_digest, seed, state, started_at, host, pid) "
            "VALUES ('r', 'old', '{}', 'd', 0, 'completed', '2026-01-01 00:00:00', 'h', 1)"
        )
        connection.exec_driver_sql(
            "INSERT INTO stages (run_id, stage, state, attempts, metrics) VALUES ('r', 'ingest', 'cached', 1, '{}')"
        )
    engine.dispose()
    catalog = Catalog(url)
    assert [stage.stage for stage in catalog.stages_of("r")] == ["ingest"]
    assert Reviews(url).counts() == (0, 0, 0)
