"""The services around a recipe (Postgres, S3, MLflow, Prefect, dashboard, API) as local processes. ``place`` is where a
stack lives, ``services`` what it consists of, ``postgres`` its database, ``supervision`` what starts and restarts the
processes (Supervisor), ``stack`` up, down and status. Nothing here knows a recipe."""

from infra.stack.place import POOL, Place, read_place
from infra.stack.stack import Status, down, status, up

__all__ = ["POOL", "Place", "Status", "down", "read_place", "status", "up"]
