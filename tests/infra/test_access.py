"""Users, roles, and the audit that every promotion leaves."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from infra.catalog import Catalog
from infra.catalog.access import Access, may
from infra.errors import InfraError

PASSWORD = "correct horse battery"


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def access(url):
    access = Access(url, patience=5)
    yield access
    access.close()


def test_a_user_logs_in_with_the_password_alone(access):
    assert not access.has_users()
    access.set_user("ann", "labeller", PASSWORD, who="root")
    assert access.has_users()
    assert access.log_in("ann", PASSWORD) == "labeller"
    assert access.log_in("ann", PASSWORD + " ") is None
    assert access.log_in("bob", PASSWORD) is None
    assert access.log_in("bob", "") is None
    assert PASSWORD not in access.users()[0].password_hash
    assert access.users()[0].password_hash.startswith("$argon2id$")


def test_role_and_password_change_apart_and_both_are_audited(access):
    access.set_user("ann", "viewer", PASSWORD, who="root")
    access.set_user("ann", "operator", who="root")
    assert access.log_in("ann", PASSWORD) == access.role_of("ann") == "operator"
    access.set_user("ann", "operator", PASSWORD * 2, who="root")
    assert access.log_in("ann", PASSWORD) is None
    access.remove_user("ann", who="root")
    assert access.role_of("ann") is None
    assert [(e.who, e.action, e.subject, e.before, e.after) for e in access.audit()] == [
        ("root", "remove user", "ann", "operator", None), ("root", "set user", "ann", "operator", "operator"),
        ("root", "set user", "ann", "viewer", "operator"), ("root", "set user", "ann", None, "viewer"),
    ]  # fmt: skip


def test_what_is_no_user_is_refused(access):
    with pytest.raises(InfraError, match="at least 10"):
        access.set_user("ann", "viewer", "short", who="root")
    with pytest.raises(InfraError, match="no role 'king'"):
        access.set_user("ann", "king", PASSWORD, who="root")
    with pytest.raises(InfraError, match="a password is needed"):
        access.set_user("ann", "viewer", who="root")
    with pytest.raises(InfraError, match="no name for a user"):
        access.set_user(" ", "viewer", PASSWORD, who="root")
    with pytest.raises(InfraError, match="no user 'ann'"):
        access.remove_user("ann", who="root")
    assert not access.has_users()


def test_roles_include_the_ones_before_them():
    assert [may(role, "labeller") for role in ("viewer", "labeller", "operator")] == [False, True, True]


def test_every_move_of_an_alias_is_in_the_audit(url, access):
    catalog = Catalog(url)
    assert catalog.set_alias("rl", "a" * 64, who="ann")
    assert not catalog.set_alias("rl", "a" * 64, who="ann")
    assert catalog.set_alias("rl", "b" * 64, who="bob", expected="a" * 64)
    assert catalog.set_alias("rl", "a" * 64, who="ann", action="roll back", expected="b" * 64)
    with pytest.raises(InfraError, match="moved to aaaa"):
        catalog.set_alias("rl", "c" * 64, who="bob", expected="b" * 64)
    assert [(e.who, e.action, e.subject, (e.before or "")[:1], e.after[0]) for e in access.audit()] == [
        ("ann", "roll back", "rl", "b", "a"), ("bob", "set alias", "rl", "a", "b"), ("ann", "set alias", "rl", "", "a"),
    ]  # fmt: skip
    catalog.close()


def test_without_the_audit_there_is_no_promotion(url, access):
    catalog = Catalog(url, patience=0.1)
    catalog.set_alias("rl", "a" * 64)
    with access._engine.connect().execution_options(write=True) as connection, connection.begin():
        connection.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'audit is full'); END")
        )
    with pytest.raises(DatabaseError, match="audit is full"):
        catalog.set_alias("rl", "b" * 64)
    assert catalog.resolve_alias("rl") == "a" * 64
    catalog.close()
