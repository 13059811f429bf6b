"""What can go wrong for a user, as one message and an exit code: 2 bad input, 1 a failure, 130 stopped."""

import errno

from components.stage import StageError
from infra.errors import InfraError


class UsageError(Exception):
    """A command that cannot be carried out as given."""


class StageFailed(Exception):
    """A stage could not finish: which, why and how to go on. ``cause`` is the stage's own error."""

    def __init__(self, stage: str, cause: BaseException, hint: str = "") -> None:
        debug = "" if isinstance(cause, StageError | InfraError | OSError) else "; QWENFORGE_DEBUG=1 shows where"
        super().__init__(f"stage {stage} failed: {describe(cause)}{debug}" + (f"\n{hint}" if hint else ""))
        self.stage = stage
        self.cause = cause


class Stopped(Exception):
    """The user or the system asked the run to end."""


def describe(error: BaseException) -> str:
    """One line: the message of an error made for people, type and message of any other."""
    text = " ".join(str(error).split())
    if isinstance(error, StageError | InfraError) and text:
        return text
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some of it (qwenforge artifacts gc) or set QWENFORGE_HOME to another one"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def exit_code(error: BaseException) -> int:
    """The process's exit code for ``error``."""
    from flows.recipe_file import RecipeError

    if isinstance(error, Stopped):
        return 130
    return 2 if isinstance(error, RecipeError | UsageError | InfraError) else 1


def message(error: BaseException) -> str:
    """What the user reads. An error that nobody foresaw says how to see more."""
    from flows.recipe_file import RecipeError

    if isinstance(error, RecipeError | UsageError | InfraError | Stopped | StageFailed | StageError):
        return str(error)
    return f"{describe(error)} (set QWENFORGE_DEBUG=1 to see where)"


__all__ = ["StageFailed", "Stopped", "UsageError", "describe", "exit_code", "message"]
