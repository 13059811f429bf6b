"""Which stages of a recipe are done already: the pipeline's cache keys, followed through the store."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from flows.stages import Stage, cache_key
from infra.store import ArtifactStore


@dataclass(frozen=True)
class Resolved:
    """A stage of a recipe; ``digest`` is its finished artifact, ``key`` is known once all inputs are."""

    stage: Stage
    config: BaseModel
    key: str | None
    digest: str | None


def resolve(
    pipeline: Sequence[Stage],
    recipe: BaseModel,
    seed: int,
    store: ArtifactStore,
    redo: Collection[str] = (),
    *,
    verify: bool = True,
) -> list[Resolved]:
    """State of every stage, in order. Stages in ``redo`` count as not done whatever the store holds."""
    digests: dict[str, str] = {}
    rows = []
    for stage in pipeline:
        config = stage.config(recipe)
        key = digest = None
        if all(producer in digests for producer in stage.inputs.values()):
            inputs = {name: digests[producer] for name, producer in stage.inputs.items()}
            key = cache_key(stage, config, seed, inputs)
            digest = None if stage.id in redo else store.recall(key, verify=verify)
            if digest:
                digests[stage.id] = digest
        rows.append(Resolved(stage, config, key, digest))
    return rows


__all__ = ["Resolved", "resolve"]
