"""``Gates``: promotions, from being asked for to the alias that moves or stays. Each verdict is kept with its figures.

Who promotes asks first (``ask``). A process then measures both checkpoints (``start``, ``note_progress``) and says what
it has found (``decide``): without a significant fall the alias moves in the same transaction, with one it stays. It
moves against a verdict only with a written reason (``override``), which is in the audit beside the figures.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from infra.catalog.aliases import meaning, move_alias
from infra.catalog.database import Database, is_alive
from infra.catalog.models import AuditEntry, Gate
from infra.errors import InfraError
from infra.manifest import now

SHORTEST_REASON = 10
"""Characters of a reason that says anything."""
_STARTS_WITHIN = timedelta(minutes=5)  # the process that measures; afterwards it never came up


class Gates(Database):
    """Promotions of a catalog."""

    def ask(self, alias: str, after: str, *, who: str) -> Gate:
        """``who`` wants ``alias`` to mean ``after``. InfraError where it does, or where one is being measured."""

        def work(session: Session) -> Gate:
            before = meaning(session, alias)
            if before == after:
                raise InfraError(f"alias {alias} means {after[:12]} already")
            unfinished = select(Gate).where(Gate.alias == alias, Gate.state.in_(("waiting", "running")))
            for other in session.scalars(unfinished):
                if at_work(other):
                    raise InfraError(
                        f"a promotion of {other.after[:12]} to {alias} is being measured for {other.who}; wait for it"
                    )
                other.state, other.ended_at, other.error = "failed", now(), "its process ended without a word"
            gate = Gate(
                alias=alias, before=before, after=after, state="waiting", who=who, asked_at=now(),
                differences=[], worse=[],
            )  # fmt: skip
            session.add(gate)
            session.flush()
            return gate

        return self._write(work)

    def start(self, gate_id: int, *, suite: int) -> Gate:
        """This process measures, on this version of the suite. InfraError unless the promotion waits for one."""

        def work(session: Session) -> Gate:
            gate = self._one(session, Gate, gate_id, "promotion")
            if gate.state != "waiting":
                raise InfraError(f"promotion {gate_id} is {gate.state}, not waiting to be measured")
            gate.state, gate.suite, gate.host, gate.pid = "running", suite, socket.gethostname(), os.getpid()
            return gate

        return self._write(work)

    def note_progress(self, gate_id: int, doing: str, share: float) -> bool:
        """How far it is, for people to see. One try; whether it went well."""
        values = {"doing": doing[:64], "progress": share}
        try:
            with self._engine.connect().execution_options(write=True) as connection, connection.begin():
                connection.execute(update(Gate).where(Gate.id == gate_id).values(**values))
        except SQLAlchemyError:
            return False
        return True

    def decide(self, gate_id: int, differences: Sequence[Mapping[str, Any]], worse: Sequence[str]) -> Gate:
        """The verdict: the alias moves unless something is ``worse``. The same transaction writes the audit.

        InfraError where the alias has been moved since the promotion was asked for.
        """

        def work(session: Session) -> Gate:
            gate = self._one(session, Gate, gate_id, "promotion")
            gate.differences, gate.worse = [dict(row) for row in differences], list(worse)
            gate.state, gate.ended_at = "refused" if worse else "passed", now()
            if gate.state == "passed":
                move_alias(
                    session, gate.alias, gate.after, who=gate.who, action="promote", expected=gate.before,
                    gate_id=gate.id,
                )  # fmt: skip
            else:
                session.add(
                    AuditEntry(
                        at=now(), who=gate.who, action="refuse promotion", subject=gate.alias, before=gate.before,
                        after=gate.after, gate_id=gate.id,
                    )
                )  # fmt: skip
            return gate

        return self._write(work)

    def fail(self, gate_id: int, error: str) -> None:
        """It could not be measured, or not be carried out. No verdict is overwritten."""

        def work(session: Session) -> None:
            gate = self._one(session, Gate, gate_id, "promotion")
            if gate.state in ("waiting", "running"):
                gate.state, gate.ended_at, gate.error = "failed", now(), error

        self._write(work)

    def override(self, gate_id: int, *, who: str, reason: str) -> Gate:
        """The alias moves although the gate said no, or could not say anything. ``reason`` stands in the audit."""
        reason = " ".join(reason.split())
        if len(reason) < SHORTEST_REASON:
            raise InfraError(f"against the gate a written reason of at least {SHORTEST_REASON} letters is needed")

        def work(session: Session) -> Gate:
            gate = self._one(session, Gate, gate_id, "promotion")
            if gate.state not in ("refused", "failed"):
                raise InfraError(f"promotion {gate_id} is {gate.state}: there is nothing to override")
            move_alias(
                session, gate.alias, gate.after, who=who, action="override gate", expected=gate.before, reason=reason,
                gate_id=gate.id,
            )  # fmt: skip
            return gate

        return self._write(work)

    def get(self, gate_id: int) -> Gate:
        return self._read(lambda session: self._one(session, Gate, gate_id, "promotion"))

    def recent(self, limit: int = 200, *, after: str | None = None, alias: str | None = None) -> Sequence[Gate]:
        """Latest first, perhaps of one checkpoint or one alias only."""
        query = select(Gate).order_by(Gate.id.desc()).limit(limit)
        if after is not None:
            query = query.where(Gate.after == after)
        if alias is not None:
            query = query.where(Gate.alias == alias)
        return self._read(lambda session: session.scalars(query).all())


def at_work(gate: Gate) -> bool:
    """Whether somebody measures or is about to, as far as this host can tell."""
    if gate.state == "waiting":
        return now() - gate.asked_at < _STARTS_WITHIN
    if gate.state != "running":
        return False
    return gate.host != socket.gethostname() or gate.pid is None or is_alive(gate.pid)


__all__ = ["SHORTEST_REASON", "Gates", "at_work"]
