"""Reading metric curves back, thinned in the database: a page draws hundreds of points, a run may have millions."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import Engine, Row, TextClause, bindparam, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

# One point from each of equal spans of steps, its first: that takes a few seeks in the index over (run, key, step),
# where a mean of every span would read all of a long run's points.
_CURVES = text("""
    WITH RECURSIVE place(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM place WHERE i < :points),
    span AS (
        SELECT run_uuid, key, MIN(step) AS first, MAX(step) AS last
        FROM metrics WHERE run_uuid IN :runs AND key IN :metrics GROUP BY run_uuid, key
    ),
    chosen AS (
        SELECT DISTINCT s.run_uuid, s.key, (
            SELECT MIN(m.step) FROM metrics AS m WHERE m.run_uuid = s.run_uuid AND m.key = s.key
            AND m.step >= s.first + place.i * (s.last - s.first) / :points
        ) AS step FROM span AS s CROSS JOIN place
    )
    SELECT c.run_uuid, c.key, c.step, AVG(m.value) AS value
    FROM chosen AS c JOIN metrics AS m ON m.run_uuid = c.run_uuid AND m.key = c.key AND m.step = c.step
    WHERE m.is_nan = :no
    GROUP BY c.run_uuid, c.key, c.step ORDER BY c.run_uuid, c.key, c.step
""").bindparams(bindparam("runs", expanding=True), bindparam("metrics", expanding=True))
_LAST = text("SELECT run_uuid, key, value FROM latest_metrics WHERE run_uuid IN :runs AND is_nan = :no").bindparams(
    bindparam("runs", expanding=True)
)


@dataclass(frozen=True)
class Curve:
    """One metric of one MLflow run."""

    run_id: str
    metric: str
    steps: list[int]
    values: list[float]


def curves(uri: str, run_ids: Sequence[str], points: int = 400, *, metrics: Sequence[str]) -> list[Curve]:
    """These metrics of these MLflow runs, at most ``points`` + 1 points each. Empty where there is no such run yet.

    ``uri`` is a database (``sqlite:///...``, ``postgresql://...``), read directly, or an MLflow server, asked.
    """
    if not run_ids or not metrics:
        return []
    if uri.startswith(("http://", "https://")):
        return _from_server(uri, run_ids, points, metrics)
    rows = _query(uri, _CURVES, runs=list(run_ids), metrics=list(metrics), points=points)
    found: dict[tuple[str, str], Curve] = {}
    for run, metric, step, value in rows:
        curve = found.setdefault((run, metric), Curve(run, metric, [], []))
        curve.steps.append(int(step))
        curve.values.append(float(value))
    return list(found.values())


def last_values(uri: str, run_ids: Sequence[str]) -> list[tuple[str, str, float]]:
    """(run, metric, value) of the last point of every metric of these MLflow runs."""
    if not run_ids:
        return []
    if uri.startswith(("http://", "https://")):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        return [(run, name, value) for run in run_ids for name, value in client.get_run(run).data.metrics.items()]
    return [(run, key, float(value)) for run, key, value in _query(uri, _LAST, runs=list(run_ids))]


def _query(uri: str, query: TextClause, **parameters: object) -> Sequence[Row]:
    try:
        with _engine(uri).connect() as connection:
            return connection.execute(query, {**parameters, "no": False}).all()
    except SQLAlchemyError:  # no run has been tracked yet, so the tables are not there
        return []


@lru_cache(maxsize=4)
def _engine(uri: str) -> Engine:
    return create_engine(uri)


def _from_server(uri: str, run_ids: Sequence[str], points: int, metrics: Sequence[str]) -> list[Curve]:
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), []
    for run in run_ids:
        for metric in set(metrics) & set(client.get_run(run).data.metrics):
            history = sorted(client.get_metric_history(run, metric), key=lambda point: point.step)
            kept = history[:: max(1, len(history) // points)]
            found.append(Curve(run, metric, [point.step for point in kept], [point.value for point in kept]))
    return found
