"""Who is looking, and what he may do: a login wherever others can reach the dashboard."""

import getpass
import ipaddress
import time
from dataclasses import dataclass

import streamlit as st

from dashboard import reading
from infra.catalog.access import Access, Role, may

TRIES, LOCKED_SECONDS = 5, 60
"""After this many wrong passwords for one name, that name has to wait."""


@dataclass(frozen=True)
class Person:
    """``name`` stands in the audit."""

    name: str
    role: Role

    def may(self, needed: Role) -> bool:
        """Nobody changes anything through a read-only dashboard."""
        allowed: Role = "viewer" if reading.settings().dashboard_read_only else self.role
        return may(allowed, needed)


@st.cache_resource
def access() -> Access:
    return Access(reading.settings().catalog_url)


@st.cache_resource
def failures() -> dict[str, list[float]]:
    """Times of wrong passwords by name, of all sessions of this server."""
    return {}


def is_loopback(address: str | None) -> bool:
    """Whether only this machine reaches a server that is bound to ``address``."""
    try:
        return address == "localhost" or ipaddress.ip_address(address or "0.0.0.0").is_loopback
    except ValueError:  # another host name
        return False


def enter() -> bool:
    """Whether somebody is there: on loopback whose machine it is, elsewhere who has logged in."""
    if is_loopback(st.get_option("server.address")) and not reading.settings().dashboard_login:
        st.session_state["person"] = Person(getpass.getuser(), "operator")
        return True
    name = st.session_state.get("name")
    role = access().role_of(name) if name else None  # asked each time: who was removed is out
    if not name or role is None:
        return False
    st.session_state["person"] = Person(name, role)
    with st.sidebar:
        st.caption(f"{name} · {role}")
        if st.button("Log out"):
            st.session_state.clear()
            st.rerun()
    return True


def person() -> Person:
    """Who looks at this page, once he has entered."""
    return st.session_state["person"]


def ask() -> None:
    """The login form."""
    st.title("qwenforge")
    with st.form("login", width=400):
        name = st.text_input("Name", autocomplete="username")
        password = st.text_input("Password", type="password", autocomplete="current-password")
        sent = st.form_submit_button("Log in", type="primary")
    if not sent:
        return
    recent = [at for at in failures().get(name, []) if time.monotonic() - at < LOCKED_SECONDS]
    if len(recent) >= TRIES:
        st.error("Too many wrong passwords for this name. Try again in a minute.")
    elif access().log_in(name, password):
        failures().pop(name, None)
        st.session_state["name"] = name
        st.rerun()
    else:
        failures()[name] = [*recent, time.monotonic()]
        st.error("Name or password is wrong.")
