"""Errors of the outside world that the user can act on. Shown as one line, without a traceback."""


class InfraError(Exception):
    """What went wrong, where, and what to do about it, in one line."""


class MissingArtifact(InfraError):
    """The store holds no artifact of this digest."""


class CorruptArtifact(InfraError):
    """Stored bytes are not those that were committed. Names the artifact and the file."""

    def __init__(self, digest: str, file: str, problem: str) -> None:
        super().__init__(f"artifact {digest[:12]}: {file}: {problem}; delete the artifact and run its stage again")
        self.digest = digest
        self.file = file


__all__ = ["CorruptArtifact", "InfraError", "MissingArtifact"]
