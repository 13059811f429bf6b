"""Rollouts one step off: the next one is sampled while the updates of this one are computed.

The sampling policy is then behind by the updates of one rollout, as in asynchronous RLHF (Noukhovitch et al. 2024,
arXiv 2410.18252); the ratio to the log-probabilities under which an answer was sampled corrects for it. A rollout still
depends on its weights alone and never on who was faster, so a run that was killed ends as one that was not.
"""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load, save

from components.training.checkpoint import write_atomically
from model.transformer import Transformer


class OneStepOff:
    """One rollout at a time in a thread, from weights that are kept in ``folder`` until ``sample`` is done.

    ``sample(rollout, model)`` stores what it samples; it runs in the thread, with a model of its own.
    """

    def __init__(self, folder: Path, model: Transformer, sample: Callable[[int, Transformer], None]) -> None:
        self.folder, self.sample = folder, sample
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self.threads = torch.get_num_threads()
        self._running: Future[None] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, rollout: int, model: Transformer) -> None:
        """Sample ``rollout`` with the weights that ``model`` has now."""
        self.wait()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _parameters(model).items()}
        write_atomically(self._path(rollout), save(weights))
        self._running = self.pool.submit(self._run, rollout, weights)

    def wait(self) -> None:
        """Until the rollout that was begun is stored. Its errors are raised here."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def resume(self, rollout: int) -> bool:
        """Sample a rollout that a kill has cut off, with its own weights; whether there was one."""
        path = self._path(rollout)
        if not path.exists():
            return False
        self._run(rollout, load(path.read_bytes()))
        return True

    def close(self) -> None:
        """Sample no more."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, rollout: int, weights: dict[str, torch.Tensor]) -> None:
        torch.set_num_threads(self.threads)  # a thread of its own starts with all cores
        with torch.no_grad():
            for name, tensor in _parameters(self.model).items():
                tensor.copy_(weights[name])
            self.sample(rollout, self.model)
        self._path(rollout).unlink(missing_ok=True)

    def _path(self, rollout: int) -> Path:
        return self.folder / f"{rollout:06d}.safetensors"


def _parameters(model: Transformer) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())
