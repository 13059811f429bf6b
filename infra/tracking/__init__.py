"""MLflow tracking that can never slow down or stop a run. ``tracking`` has the queue and its worker thread, ``run`` is
what callers log to, ``journal`` the file that outlives the process, ``operations`` the calls to MLflow (imported in the
background), ``embedded`` its SQLite database."""

from infra.tracking.run import TrackedRun
from infra.tracking.tracking import Tracking

__all__ = ["TrackedRun", "Tracking"]
