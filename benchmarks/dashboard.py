"""Hypothesis: every page of the dashboard is drawn within two seconds, with 1,000 runs and 10 million metric points.

A home is seeded (catalog, MLflow's database, the newest run's artifacts), the dashboard is started on it, and each page
is opened in a fresh context of a real Chromium: from the request to the page's own content being drawn and the script
at rest. Nothing of the page was read before: the first row is the first thing that the server draws at all.

    qwenforge bench dashboard [--runs 1000] [--points 10000000] [--json FILE]
    qwenforge bench dashboard --home .qwenforge --screenshots docs/dashboard    pictures of the pages of a real home
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TARGET = 2.0  # seconds
CHART = '[data-testid="stVegaLiteChart"] .marks'
"""A chart that has been drawn, as canvas or as SVG."""
PAGES = {  # path -> what is on the page only when it has read what it shows
    "": "Stages done", "training?stage=pretrain": CHART, "data": CHART, "scaling": "Fitted laws",
    "checkpoints": "Made from", "preferences": "answers; the first 500", "evaluation": "Item by item",
    "system": "GB free",
}  # fmt: skip
PICTURES = {"overview": "", "training": "training?stage=pretrain", "preferences": "preferences?view=Label",
            "evaluation": "evaluation"}  # fmt: skip
MOST_BYTES = 150_000


def main(given: list[str] | None = None) -> int:
    """Print a line a page; exit code 1 when one takes longer than the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--home", type=Path, help="a home that exists already; nothing is seeded")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write four pictures, and time nothing")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args(given)
    from benchmarks.dashboard_browser import served
    from benchmarks.dashboard_seed import seed

    with TemporaryDirectory(prefix="qwenforge-dashboard-") as scratch:
        home = arguments.home or Path(scratch)
        if not arguments.home:
            began = time.perf_counter()
            seed(home, arguments.runs, arguments.points)
            print(f"seeded {arguments.runs:,} runs, {arguments.points:,} points in {time.perf_counter() - began:.0f} s")
        with served(home) as address:
            if arguments.screenshots:
                take_pictures(address, arguments.screenshots)
                return 0
            rows = measure(address)
    print(f"{'page':<14} {'first':>8} {'again':>8}   seconds")
    for row in rows:
        print(
            f"{row['page']:<14} {row['first']:>8.2f} {row['again']:>8.2f}   {'' if row['first'] < TARGET else 'over'}"
        )
    if arguments.json:
        result = {"runs": arguments.runs, "points": arguments.points, "target": TARGET, "pages": rows}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if max(row["first"] for row in rows) < TARGET else 1


def measure(address: str) -> list[dict[str, Any]]:
    """Seconds of each page's first drawing, and of another one just after."""
    from benchmarks.dashboard_browser import browser

    rows = []
    with browser() as chrome:
        for path, sign in PAGES.items():
            first, again = (draw(chrome, f"{address}/{path}", sign) for _ in range(2))
            rows.append({"page": path.split("?")[0] or "overview", "first": first, "again": again})
    return rows


def draw(chrome: Any, url: str, sign: str) -> float:
    """Open a page as somebody who has never been there; seconds until it is drawn."""
    from benchmarks.dashboard_browser import SETTLED

    context = chrome.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(url)
    drawn = page.locator(CHART) if sign == CHART else page.get_by_text(sign)
    drawn.first.wait_for(timeout=120_000)
    page.locator(SETTLED).wait_for(timeout=120_000)
    seconds = time.perf_counter() - began
    failure = page.locator('[data-testid="stException"]')
    if failure.count():
        raise RuntimeError(f"{url}: {failure.first.inner_text()}")
    context.close()
    return seconds


def take_pictures(address: str, folder: Path) -> None:
    """PNGs small enough for a README: a palette of 64 colours."""
    import io

    from PIL import Image

    from benchmarks.dashboard_browser import SETTLED, browser

    folder.mkdir(parents=True, exist_ok=True)
    with browser() as chrome:
        page = chrome.new_context(viewport={"width": 1280, "height": 860}).new_page()
        for name, path in PICTURES.items():
            page.goto(f"{address}/{path}")
            page.locator(SETTLED).wait_for(timeout=120_000)
            page.wait_for_timeout(3000)  # charts draw themselves after the script is at rest
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(64)
            file = folder / f"{name}.png"
            picture.save(file, optimize=True)
            size = file.stat().st_size
            print(f"{file}: {size / 1000:.0f} KB{'' if size < MOST_BYTES else ', too large'}")
