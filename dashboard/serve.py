"""Streamlit's own command line (``python -m dashboard.serve run dashboard/app.py``) with the pages' imports done.

Streamlit imports pandas, and an app what it needs, within the first session: whoever comes first would wait seconds.
"""

import sys
from importlib import import_module

NEEDED = (
    "altair", "pandas", "pyarrow.parquet", "infra.catalog.access", "infra.catalog.gates",
    "infra.catalog.reviews", "infra.catalog.views",
    "infra.catalog.service", "infra.s3", "infra.settings", "infra.store", "infra.tracking.reading",
    "components.evaluation.agreement",
)  # fmt: skip
"""What pages import. Not the pages themselves: their caches need Streamlit's runtime."""


def main() -> None:
    for module in NEEDED:
        import_module(module)
    draw_once()
    from streamlit.web.cli import main as streamlit

    sys.exit(streamlit())


def draw_once() -> None:
    """Altair reads its schema with the first chart, pyarrow its converters with the first table."""
    import altair
    import pandas
    import pyarrow

    table = pandas.DataFrame({"step": [0, 1]})
    altair.Chart(table).mark_line().encode(x="step:Q").to_dict()
    pyarrow.Table.from_pandas(table)


if __name__ == "__main__":
    main()
