"""MLflow tracking that can never slow down or stop a run. ``tracking`` is what callers use, ``journal`` is the
queue with its file, ``operations`` are the calls to MLflow. MLflow itself is imported in the background."""

from infra.tracking.tracking import TrackedRun, Tracking

__all__ = ["TrackedRun", "Tracking"]
