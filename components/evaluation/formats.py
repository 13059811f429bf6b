"""How the report card writes numbers and texts."""

import math
from collections.abc import Mapping
from typing import Any


def number(value: float | None, unit: str = "", digits: int | None = None) -> str:
    """A value in its unit: shares as percent, others with about four significant digits, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit in ("%", "share"):
        return f"{100 * value:.{1 if digits is None else digits}f}%"
    if digits is not None:
        return f"{value:,.{digits}f}"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 0.01 <= abs(value) < 10:
        return f"{value:.3f}"
    return f"{value:,.1f}" if 10 <= abs(value) < 1e6 else f"{value:.3g}"


def difference(value: float | None, unit: str = "") -> str:
    """A signed difference; shares in percentage points."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit in ("%", "share"):
        return f"{100 * value:+.1f} pp"
    return f"{value:+.3f}"


def cell(metric: Mapping[str, Any] | None, unit: str = "") -> str:
    """``value [low, high]`` of one metric."""
    if metric is None:
        return "–"
    digits = {"%": 1}.get(unit, 3 if abs(metric["value"]) < 10 else 1)
    return f"{number(metric['value'], unit, digits)} [{interval(metric, unit, digits)}]"


def interval(bounds: Mapping[str, Any], unit: str = "", digits: int | None = None) -> str:
    """``low, high``."""
    return f"{number(bounds['low'], unit, digits)}, {number(bounds['high'], unit, digits)}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02.0f} s" if minutes else f"{rest:.1f} s"


def scientific(value: float | None) -> str:
    """Compute: 3.21e+14 as 3.21e14."""
    return "–" if not value else f"{value:.2e}".replace("e+0", "e").replace("e+", "e")


def significant(value: float | None) -> str:
    """Three significant digits, whatever the size; counts from a thousand on in full."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table_text(text: Any, limit: int = 400) -> str:
    """One line for a Markdown table: no line breaks, no pipes, not longer than ``limit``."""
    flat = str(text).replace("\n", " ⏎ ").replace("|", "\\|").replace("<", "&lt;")
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


FILTERS = {
    "number": number, "difference": difference, "cell": cell, "interval": interval, "duration": duration,
    "scientific": scientific, "significant": significant, "table_text": table_text,
}  # fmt: skip
"""Jinja filters of the report's templates."""
