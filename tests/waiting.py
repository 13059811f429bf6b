"""What tests of several processes wait with."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(what: Callable[[], Found], seconds: float = 600.0, pause: float = 0.2) -> Found:
    """What ``what`` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"it did not happen in {seconds:.0f} s: {what}"
        time.sleep(pause)
    return found
