"""Notices when training goes wrong, in time to refuse the update: ``WatchConfig`` says what is then done.

All ranks see the same losses and norms, so they come to the same verdict without talking.
"""

import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median

from components.training.config import WatchConfig

GAUSSIAN = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""


@dataclass(frozen=True)
class Incident:
    """Something that went wrong at a step, and what was done."""

    step: int
    batch: int
    """What ``batch_at`` was asked for: beyond the step where earlier spans were left out."""
    kind: str
    action: str
    message: str

    @property
    def refuses(self) -> bool:
        """Whether the update must not be made."""
        return self.action in ("skip", "rollback", "lower", "stop")


class Watch:
    """Judges every step before its update."""

    def __init__(self, config: WatchConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=max(config.spike_window, config.flat_window))
        self.warned: set[str] = set()

    def judge(
        self, step: int, batch: int, loss: float, norm: float, metrics: Mapping[str, float], rate: float
    ) -> Incident | None:
        """What is wrong with this step, if anything; a loss that is in order joins the history."""
        incident = self._judge(step, batch, loss, norm, metrics, rate)
        if incident is None or not incident.refuses:
            self.losses.append(loss)
        return incident

    def _judge(
        self, step: int, batch: int, loss: float, norm: float, metrics: Mapping[str, float], rate: float
    ) -> Incident | None:
        config = self.config
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return Incident(
                step, batch, "not finite", config.not_finite,
                f"loss {loss}, gradient norm {norm} at step {step} are not finite; "
                f"lower its learning_rate ({rate:g}) or look at the batch of that step",
            )  # fmt: skip
        limit = self.limit()
        if config.spike != "ignore" and loss > limit:
            return Incident(
                step, batch, "spike", config.spike,
                f"loss {loss:.3f} at step {step} is above {limit:.3f}, which the last {config.spike_window} steps "
                "call unusual",
            )  # fmt: skip
        if config.flat != "ignore" and self._is_flat(loss):
            return self._once(
                step, batch, "flat", config.flat,
                f"the loss has stayed at {loss:.4g} for {config.flat_window} steps: nothing is learnt; "
                "check the learning rate and that parameters are trained",
            )  # fmt: skip
        share = metrics.get("router_top_share", 0.0)
        if config.router != "ignore" and share > config.router_share:
            return self._once(
                step, batch, "router", config.router,
                f"one expert takes {share:.0%} of the tokens at step {step}; raise router_aux_loss_coef",
            )  # fmt: skip
        return None

    def limit(self) -> float:
        """Losses above are spikes; infinite until half a window of steps is known."""
        config = self.config
        recent = list(self.losses)[-config.spike_window :]
        if len(recent) < config.spike_window // 2:
            return math.inf
        middle = median(recent)
        deviation = GAUSSIAN * median(abs(loss - middle) for loss in recent)
        return middle + max(config.spike_least, config.spike_deviations * deviation)

    def state(self) -> str:
        return json.dumps({"losses": list(self.losses), "warned": sorted(self.warned)})

    def load(self, state: str) -> None:
        values = json.loads(state)
        self.losses.clear()
        self.losses.extend(values["losses"])
        self.warned = set(values["warned"])

    def _is_flat(self, loss: float) -> bool:
        if len(self.losses) < self.config.flat_window - 1:
            return False
        recent = [*list(self.losses)[1 - self.config.flat_window :], loss]
        mean = abs(sum(recent) / len(recent))
        return max(recent) - min(recent) < self.config.flat_range * max(mean, 1e-12)

    def _once(self, step: int, batch: int, kind: str, action: str, message: str) -> Incident | None:
        """A condition that lasts is told once."""
        if action == "warn" and kind in self.warned:
            return None
        self.warned.add(kind)
        return Incident(step, batch, kind, action, message)


def incidents_to_json(incidents: list[Incident]) -> str:
    return json.dumps([asdict(incident) for incident in incidents])


def incidents_from_json(text: str) -> list[Incident]:
    return [Incident(**values) for values in json.loads(text)]


__all__ = ["Incident", "Watch", "incidents_from_json", "incidents_to_json"]
