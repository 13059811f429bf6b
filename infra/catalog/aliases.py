"""Moving an alias: the one place that writes what an alias means, together with the audit of it."""

from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from infra.catalog.models import Alias, AuditEntry
from infra.errors import InfraError
from infra.manifest import now

ANYTHING: Final = "anything"
"""As ``expected``: whatever the alias means now."""


def meaning(session: Session, alias: str) -> str | None:
    """The digest that ``alias`` means now."""
    return session.scalars(select(Alias.digest).where(Alias.alias == alias).order_by(Alias.id.desc()).limit(1)).first()


def move_alias(
    session: Session, alias: str, digest: str, *, who: str, action: str, expected: str | None = ANYTHING,
    run_id: str | None = None, reason: str | None = None, gate_id: int | None = None,
) -> bool:  # fmt: skip
    """Within the caller's transaction ``alias`` means ``digest`` and the audit says so; False when it does already.

    ``expected``: what the alias has to mean now (None: nothing yet), so that nobody overwrites a move that he has not
    seen. Raises InfraError where it means something else.
    """
    before = meaning(session, alias)
    if expected not in (ANYTHING, before):
        raise InfraError(f"alias {alias} was moved to {str(before)[:12]} meanwhile; look again before you promote")
    if before == digest:
        return False
    session.add(Alias(alias=alias, digest=digest, run_id=run_id, moved_at=now()))
    session.add(
        AuditEntry(
            at=now(), who=who, action=action, subject=alias, before=before, after=digest, reason=reason, gate_id=gate_id
        )
    )
    return True


__all__ = ["ANYTHING", "meaning", "move_alias"]
