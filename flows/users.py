"""``qwenforge users``: people who may log in to the dashboard. Passwords come from the environment or the terminal."""

import getpass
import os

from flows.errors import UsageError
from flows.terminal import stdout, table
from infra.catalog.access import Access, Role
from infra.settings import load_settings


def set_command(name: str, role: Role, with_password: bool) -> None:
    """Add ``name``, or change its role and perhaps its password."""
    password = _new_password() if with_password else None
    _access().set_user(name, role, password, who=getpass.getuser())


def remove_command(name: str) -> None:
    _access().remove_user(name, who=getpass.getuser())


def print_users() -> None:
    rows = [[user.name, user.role, f"{user.created_at:%Y-%m-%d %H:%M}"] for user in _access().users()]
    stdout().print(table("", {"name": "left", "role": "left", "since": "left"}, rows))


def _access() -> Access:
    return Access(load_settings().catalog_url)


def _new_password() -> str:
    if given := os.environ.get("QWENFORGE_PASSWORD"):
        return given
    try:
        password = getpass.getpass("Password: ")
        again = getpass.getpass("Again: ")
    except EOFError:
        raise UsageError("no password: set QWENFORGE_PASSWORD, or run this in a terminal") from None
    if password != again:
        raise UsageError("the two passwords differ")
    return password
