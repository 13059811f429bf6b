"""The playground in a real browser, as a user comes to it: without any run, beside one served checkpoint."""

import pytest
from served import make_checkpoint, serving

from benchmarks.dashboard_browser import browser, chromium, served


@pytest.mark.skipif(chromium() is None, reason="no Chromium is installed")
@pytest.mark.timeout(900)
def test_a_question_is_answered_and_its_tokens_are_coloured(tmp_path):
    with (
        serving(str(make_checkpoint(tmp_path / "tiny")), tmp_path / "api") as api,
        served(tmp_path / "home", QWENFORGE_API_URLS=api.url) as address,
        browser() as opened,
    ):
        page = opened.new_page()
        page.set_default_timeout(120_000)  # the machine may be busy with other tests
        page.goto(f"{address}/playground")
        box = page.get_by_test_id("stChatInputTextArea")
        box.fill("a few words?")
        box.press("Enter")
        page.get_by_text("perplexity").wait_for()
        token = page.locator('[data-testid="stHtml"] span').first
        assert token.get_attribute("title").count("%") == 6, "its own probability and five alternatives"
        assert "rgba" in token.evaluate("each => getComputedStyle(each).backgroundColor")
