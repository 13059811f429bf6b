"""``qwenforge dashboard``: Streamlit on dashboard/app.py, bound to loopback unless told otherwise."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from flows.errors import UsageError
from infra.settings import Settings, load_settings

APP = Path(__file__).parent.parent / "dashboard" / "app.py"


def dashboard_command(address: str, port: int) -> NoReturn:
    """Become the server, which ends with Ctrl-C. A child would outlive a command that is killed, and keep the port."""
    if find_spec("streamlit") is None:
        raise UsageError("the dashboard needs its extra: make dashboard, or pip install -e '.[dashboard]'")
    settings = load_settings()
    prepare_login(address, settings)
    home = settings.home
    print(f"dashboard of {home} at http://{address}:{port} (Ctrl-C ends it)", flush=True)
    options = {
        "server.address": address, "server.port": port, "server.headless": "true", "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false", "client.toolbarMode": "minimal", "theme.primaryColor": "#2f6fde",
    }  # fmt: skip
    command = [sys.executable, "-m", "dashboard.serve", "run", str(APP)]
    command += [f"--{name}={value}" for name, value in options.items()]
    os.execv(sys.executable, command)


def prepare_login(address: str, settings: Settings) -> None:
    """Make the user that the environment asks for; beyond loopback nobody could log in without any."""
    from infra.catalog.access import Access

    access, password = Access(settings.catalog_url), settings.dashboard_password.get_secret_value()
    if password and not access.log_in("operator", password):
        access.set_user("operator", "operator", password, who="QWENFORGE_DASHBOARD_PASSWORD")
    exposed = address not in ("127.0.0.1", "localhost", "::1")
    if (exposed or settings.dashboard_login) and not access.has_users():
        raise UsageError(
            "the dashboard asks for a login here, and there is no user yet: qwenforge users set NAME --role operator, "
            "or set QWENFORGE_DASHBOARD_PASSWORD"
        )
    access.close()
