"""What people do at the dashboard, in a real browser: judge pairs from the keyboard, promote, roll back, compare."""

import contextlib
import getpass

import httpx
import pytest
from benchmark_models import tiny_checkpoint
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from served import serving
from waiting import wait_for

from benchmarks.dashboard import CHART, PAGES
from benchmarks.dashboard_browser import SETTLED, served
from components.preference.pairs import PairsConfig
from components.preference.reviews import override, read_reviews
from flows.conversion import import_command
from flows.reviews import export_command, queue_command
from infra.catalog import Catalog, Reviews
from infra.catalog.access import Access
from infra.catalog.gates import Gates
from infra.settings import load_settings

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def settings(home, monkeypatch):
    monkeypatch.setenv("QWENFORGE_HOME", str(home))
    return load_settings()


@pytest.mark.parametrize("path", [*PAGES, "data?tab=Kept", "data?tab=Dropped", "preferences?view=Pairs"])
def test_every_view_can_be_opened_by_its_address(page, address, path):
    sign = {"data?tab=Kept": "of the first 5,000", "data?tab=Dropped": "Samples of",
            "preferences?view=Pairs": "decided by: verified"}.get(path, PAGES.get(path, ""))  # fmt: skip
    page.goto(f"{address}/{path}")
    (page.locator(CHART) if sign == CHART else page.get_by_text(sign)).first.wait_for()
    page.locator(SETTLED).wait_for()
    assert "run=" in page.url


def press_until(page, key, sign):
    """The first key may come before the page listens, on a busy machine."""
    for patience in (30_000, 30_000, 120_000):
        page.keyboard.press(key)
        with contextlib.suppress(PlaywrightTimeout):
            page.get_by_text(sign).first.wait_for(timeout=patience)
            return
    raise AssertionError(f"{key} never showed {sign!r}")


def test_ten_pairs_judged_by_keyboard_are_in_the_next_reward_models_data(page, address, settings, tmp_path):
    added, _ = queue_command("latest", 10)
    assert added == 10
    reviews = Reviews(settings.catalog_url)
    me = getpass.getuser()
    page.goto(f"{address}/preferences?view=Label")
    expected = {}
    for number in range(10):
        item = reviews.next_for(me)
        left = page.locator(".st-key-answer_left")
        left.wait_for()
        page.get_by_text(item.messages[0]["content"]).wait_for()
        page.locator(SETTLED).wait_for()
        shown = left.inner_text()
        assert shown.split() in (item.answer_a.split(), item.answer_b.split())  # and nothing that tells which is which
        if number == 0:
            press_until(page, "1", "truthfulness: left")
        key, side = (("ArrowLeft", "left"), ("ArrowRight", "right"), ("ArrowDown", "tie"))[number % 3]
        a_is_left = shown.split() == item.answer_a.split()
        expected[item.key] = {"left": "ab", "right": "ba", "tie": ("tie", "tie")}[side][not a_is_left]
        page.keyboard.press(key)
        page.get_by_text(f"{number + 1} judged by {me}").wait_for()
    page.get_by_text("You have judged all 10 pairs").wait_for()
    assert {pair.item.key: pair.verdict for pair in reviews.judged()} == expected
    assert sum(bool(review.criteria) for pair in reviews.judged() for review in pair.reviews) == 1

    page.keyboard.press("u")  # takes the last one back
    page.get_by_text(f"9 judged by {me}").wait_for()

    file = tmp_path / "reviews.jsonl"
    assert export_command(file) == (9, 0)
    config = PairsConfig(reviews=str(file))
    verdicts = read_reviews(file)
    decided = [verdict.pair for verdict in verdicts if verdict.verdict in ("a", "b")]
    turned = [type(pair)(**{**vars(pair), "chosen": pair.rejected, "rejected": pair.chosen}) for pair in decided]
    data, changes = override(turned, verdicts)  # whatever the verifier had said
    assert [(pair.chosen, pair.source) for pair in data] == [(pair.chosen, "human") for pair in decided]
    assert changes["turned"] == len(decided) and config.reviews_sha256


@pytest.fixture
def checkpoints(settings, tmp_path) -> dict[str, str]:
    """Real ones: ``modest`` has an opinion on nothing, ``worse`` is very sure of random things."""
    made = {}
    for name, spread in (("modest", 0.02), ("worse", 0.4)):
        made[name] = import_command(tiny_checkpoint(tmp_path / name, spread=spread))["digest"]
    return made


def test_a_promotion_is_measured_refused_overridden_with_a_reason_and_rolled_back(
    page, address, home, settings, checkpoints
):  # fmt: skip
    catalog, access, me = Catalog(settings.catalog_url), Access(settings.catalog_url), getpass.getuser()
    catalog.set_alias("base", checkpoints["modest"])  # measured against something real
    page.goto(f"{address}/checkpoints?checkpoint={checkpoints['worse']}")
    page.get_by_text("Promote this checkpoint to").wait_for()
    page.get_by_role("button", name="Promote ...").click()
    assert catalog.resolve_alias("base") == checkpoints["modest"]  # asked first
    page.get_by_role("button", name="Yes, promote base").click()
    page.get_by_text(f"Promotion to base, asked for by {me}").wait_for()
    page.get_by_text("worse in python_reference.bits_per_byte").wait_for(timeout=600_000)
    assert catalog.resolve_alias("base") == checkpoints["modest"]
    gate = Gates(settings.catalog_url).recent(1)[0]
    assert (gate.state, gate.who, gate.before) == ("refused", me, checkpoints["modest"])
    assert {row["metric"] for row in gate.differences} > {"mmlu.acc", "python_reference.bits_per_byte"}

    page.get_by_text("Promote all the same").click()
    page.get_by_role("button", name="Move base against the gate").click()
    page.get_by_text("at least 10 letters").wait_for()
    page.get_by_label("Reason, for the audit").fill("its answers are wanted worse")
    page.get_by_role("button", name="Move base against the gate").click()
    page.get_by_text("Promote all the same").wait_for(state="detached")
    assert catalog.resolve_alias("base") == checkpoints["worse"]
    entry = access.audit()[0]
    assert (entry.who, entry.action, entry.before, entry.after, entry.reason, entry.gate_id) == (
        me, "override gate", checkpoints["modest"], checkpoints["worse"], "its answers are wanted worse", gate.id,
    )  # fmt: skip

    page.get_by_role("button", name="Roll back ...").click()
    page.get_by_label("Reason, for the audit").fill("nobody liked the answers")
    page.get_by_role("button", name="Yes, roll back base").click()
    page.get_by_role("dialog").wait_for(state="detached")
    assert catalog.resolve_alias("base") == checkpoints["modest"]
    assert (access.audit()[0].action, access.audit()[0].reason) == ("roll back", "nobody liked the answers")

    # what is better moves the alias by itself; both have been measured before
    catalog.set_alias("base", checkpoints["worse"])
    with serving("base", home) as api:  # one that runs meanwhile goes along
        assert httpx.get(f"{api.url}/health").json()["digest"] == checkpoints["worse"]
        page.goto(f"{address}/checkpoints?checkpoint={checkpoints['modest']}")
        page.get_by_role("button", name="Promote ...").click()
        page.get_by_role("button", name="Yes, promote base").click()
        page.get_by_text("Promoted to base").wait_for()
        assert catalog.resolve_alias("base") == checkpoints["modest"]
        wait_for(lambda: httpx.get(f"{api.url}/health").json()["digest"] == checkpoints["modest"])
        asked = {"model": "base", "prompt": "two", "max_tokens": 2}
        assert httpx.post(f"{api.url}/v1/completions", json=asked, timeout=60).status_code == 200

    # what base meant in an earlier run is gone from the store, and no alias moves to what nobody can serve
    page.goto(f"{address}/checkpoints?checkpoint={catalog.alias_history('long')[1].digest}")
    page.get_by_role("button", name="Promote ...").click()
    page.get_by_text("This checkpoint is no longer in the store").wait_for()


def test_curves_of_several_runs_lie_over_one_another(page, address, settings):
    runs = [run for run in Catalog(settings.catalog_url).list_runs() if run.state == "completed"][1:3]
    wanted = "".join(f"&compare={run.name} · {run.id[:8]}" for run in runs)
    page.goto(f"{address}/training?stage=pretrain{wanted}")
    page.get_by_text("Where they ended").wait_for()


def test_a_login_shows_each_role_what_it_may_do(chrome, home, settings):
    access = Access(settings.catalog_url)
    for name in ("viewer", "operator"):
        access.set_user(name, name, "correct horse battery", who="test")
    with served(home, QWENFORGE_DASHBOARD_LOGIN="true") as address:
        for name, expected in (("viewer", "lets you look only"), ("operator", "Promote this checkpoint to")):
            context = chrome.new_context()
            page = context.new_page()
            page.set_default_timeout(120_000)
            page.goto(f"{address}/checkpoints")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password", exact=True).fill("wrong horse battery")
            page.get_by_role("button", name="Log in").click()
            page.get_by_text("Name or password is wrong").wait_for()
            assert not page.get_by_text("Made from").count()
            page.get_by_label("Password", exact=True).fill("correct horse battery")
            page.get_by_role("button", name="Log in").click()
            page.get_by_text(expected).wait_for()
            context.close()


def test_a_read_only_dashboard_changes_nothing(chrome, home):
    with served(home, QWENFORGE_DASHBOARD_READ_ONLY="true") as address:
        context = chrome.new_context()
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{address}/checkpoints")
        page.get_by_text("lets you look only").wait_for()
        page.goto(f"{address}/preferences?view=Label")
        page.get_by_text("lets you look only").wait_for()
        context.close()
