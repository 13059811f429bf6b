"""``qwenforge dashboard``: Streamlit on dashboard/app.py, bound to loopback unless told otherwise."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from flows.errors import UsageError
from infra.settings import load_settings

APP = Path(__file__).parent.parent / "dashboard" / "app.py"


def dashboard_command(address: str, port: int) -> int:
    """Serve until Ctrl-C; the exit code of the server."""
    if find_spec("streamlit") is None:
        raise UsageError("the dashboard needs its extra: make dashboard, or pip install -e '.[dashboard]'")
    home = load_settings().home
    print(f"dashboard of {home} at http://{address}:{port} (Ctrl-C ends it)", flush=True)
    options = {
        "server.address": address, "server.port": port, "server.headless": "true", "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false", "client.toolbarMode": "minimal", "theme.primaryColor": "#2f6fde",
    }  # fmt: skip
    command = [sys.executable, "-m", "streamlit", "run", str(APP)]
    command += [f"--{name}={value}" for name, value in options.items()]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
