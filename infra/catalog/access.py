"""``Access``: who may log in to the dashboard, what each may do there, and the audit of what was done."""

from collections.abc import Sequence
from typing import Literal, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from infra.catalog.database import Database
from infra.catalog.models import AuditEntry, User
from infra.errors import InfraError
from infra.manifest import now

Role = Literal["viewer", "labeller", "operator"]
"""Each may also do what those before it may: look; judge pairs; promote checkpoints and queue pairs."""
SHORTEST_PASSWORD = 10

_hasher = PasswordHasher()  # Argon2id with the parameters of RFC 9106's low-memory profile


def may(role: str, needed: Role) -> bool:
    """Whether ``role`` includes what ``needed`` may do."""
    roles = get_args(Role)
    return roles.index(role) >= roles.index(needed)


class Access(Database):
    """Users and audit of a catalog."""

    def set_user(self, name: str, role: Role, password: str | None = None, *, who: str) -> None:
        """Add a user, or change role and, if given, password of one. Entered in the audit by ``who``."""
        if role not in get_args(Role):
            raise InfraError(f"no role {role!r}; there are {', '.join(get_args(Role))}")
        if not name.isprintable() or not name.strip() or len(name) > 64:
            raise InfraError(f"{name!r} is no name for a user: 1 to 64 printable characters are expected")
        if password is not None and len(password) < SHORTEST_PASSWORD:
            raise InfraError(f"a password of {len(password)} characters; at least {SHORTEST_PASSWORD} are expected")
        hashed = None if password is None else _hasher.hash(password)

        def work(session: Session) -> None:
            user = session.get(User, name)
            if user is None and hashed is None:
                raise InfraError(f"no user {name!r} yet: a password is needed")
            before = user.role if user else None
            user = user or User(name=name, created_at=now())
            user.role = role
            user.password_hash = hashed or user.password_hash
            session.add(user)
            session.add(AuditEntry(at=now(), who=who, action="set user", subject=name, before=before, after=role))

        self._write(work)

    def remove_user(self, name: str, *, who: str) -> None:
        def work(session: Session) -> None:
            user = self._one(session, User, name, "user")
            session.add(AuditEntry(at=now(), who=who, action="remove user", subject=name, before=user.role, after=None))
            session.delete(user)

        self._write(work)

    def users(self) -> Sequence[User]:
        return self._read(lambda session: session.scalars(select(User).order_by(User.name)).all())

    def role_of(self, name: str) -> Role | None:
        """A user's role now; None for whom there is no such user."""
        return self._read(lambda session: session.scalar(select(User.role).where(User.name == name)))

    def log_in(self, name: str, password: str) -> Role | None:
        """The user's role if this is the password. Takes as long for a name that does not exist."""
        user = self._read(lambda session: session.get(User, name))
        try:
            _hasher.verify(user.password_hash if user else _nobodys_hash(), password)
        except (VerificationError, InvalidHashError):
            return None
        return user.role if user else None  # type: ignore[return-value]

    def has_users(self) -> bool:
        return bool(self._read(lambda session: session.scalar(select(func.count()).select_from(User))))

    def note(self, who: str, action: str, subject: str, before: str | None = None, after: str | None = None) -> None:
        """Enter what was done into the audit."""
        entry = AuditEntry(at=now(), who=who, action=action, subject=subject, before=before, after=after)
        self._write(lambda session: session.add(entry))

    def audit(self, limit: int = 200) -> Sequence[AuditEntry]:
        """Latest first."""
        query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
        return self._read(lambda session: session.scalars(query).all())


def _nobodys_hash() -> str:
    global _nobody
    _nobody = _nobody or _hasher.hash("")
    return _nobody


_nobody = ""

__all__ = ["SHORTEST_PASSWORD", "Access", "Role", "may"]
