"""Reading metric curves back, thinned in the database: a page draws hundreds of points, a run may have millions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import Engine, bindparam, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

# Equal spans of steps, the mean of each; the first aggregate finds the span's width.
_CURVES = text("""
    SELECT p.run_uuid, p.key, MIN(p.step) AS step, AVG(p.value) AS value
    FROM metrics AS p JOIN (
        SELECT run_uuid, key, MIN(step) AS first, (MAX(step) - MIN(step)) / :points + 1 AS width
        FROM metrics WHERE run_uuid IN :runs AND is_nan = :no GROUP BY run_uuid, key
    ) AS s ON s.run_uuid = p.run_uuid AND s.key = p.key
    WHERE p.run_uuid IN :runs AND p.is_nan = :no
    GROUP BY p.run_uuid, p.key, (p.step - s.first) / s.width
    ORDER BY p.run_uuid, p.key, step
""").bindparams(bindparam("runs", expanding=True))


@dataclass(frozen=True)
class Curve:
    """One metric of one MLflow run."""

    run_id: str
    metric: str
    steps: list[int]
    values: list[float]


def curves(uri: str, run_ids: Sequence[str], points: int = 400) -> list[Curve]:
    """All metrics of these MLflow runs, at most ``points`` + 1 points each. Empty where there is no such run yet.

    ``uri`` is a database (``sqlite:///...``, ``postgresql://...``), read directly, or an MLflow server, asked.
    """
    if not run_ids:
        return []
    if uri.startswith(("http://", "https://")):
        return _from_server(uri, run_ids, points)
    try:
        with _engine(uri).connect() as connection:
            rows = connection.execute(_CURVES, {"runs": list(run_ids), "points": points, "no": False}).all()
    except SQLAlchemyError:  # no run has been tracked yet, so the tables are not there
        return []
    found: dict[tuple[str, str], Curve] = {}
    for run, metric, step, value in rows:
        curve = found.setdefault((run, metric), Curve(run, metric, [], []))
        curve.steps.append(int(step))
        curve.values.append(float(value))
    return list(found.values())


@lru_cache(maxsize=4)
def _engine(uri: str) -> Engine:
    return create_engine(uri)


def _from_server(uri: str, run_ids: Sequence[str], points: int) -> list[Curve]:
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), []
    for run in run_ids:
        for metric in client.get_run(run).data.metrics:
            history = sorted(client.get_metric_history(run, metric), key=lambda point: point.step)
            kept = history[:: max(1, len(history) // points)]
            found.append(Curve(run, metric, [point.step for point in kept], [point.value for point in kept]))
    return found
