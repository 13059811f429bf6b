"""A recipe on disk: TOML with ``extends``, ``--set a.b=c`` on top, and errors that say where and what.

Knows nothing about stages: it turns a file into any frozen Pydantic model.
"""

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
Tree = dict[str, Any]
Origins = dict[tuple[str, ...], str]
"""Key path -> the file (or ``--set``) that gave the value, so that an error names the right place."""


class RecipeError(ValueError):
    """A recipe that cannot be used: one line for each problem, with file, key path and what was expected."""


def load(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read ``path`` and what it extends, apply ``overrides`` (``a.b=c``), validate as ``model``."""
    return validate(path, model, *read(path, overrides))


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[Tree, Origins]:
    """The values of ``path`` over what it extends, with ``overrides`` on top, and where each came from."""
    tree, origins = _read(path, ())
    for override in overrides:
        key, value = parse_override(override)
        _merge(tree, _nest(key, value), origins, f"--set {'.'.join(key)}")
    return tree, origins


def validate(path: Path, model: type[Model], tree: Tree, origins: Origins) -> Model:
    """``tree`` as ``model``; RecipeError with a line for each problem."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = (_explain(problem, model, origins, path) for problem in error.errors(include_url=False))
        raise RecipeError("\n".join(dict.fromkeys(lines))) from None


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """``a.b=c`` as a key path and a value: TOML syntax where it parses (3, 0.5, true, [1, 2]), else a string."""
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise RecipeError(f"--set {text}: expected KEY=VALUE such as sft.epochs=2")
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path, value.strip()


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[Tree, Origins]:
    """The merged tree of ``path`` over the recipe it extends, and where each value came from."""
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(file.name for file in (*seen, resolved))
        raise RecipeError(f"{path}: extends: recipes extend each other in a circle ({chain})")
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise RecipeError(_unreadable(path, error)) from None
    base = own.pop("extends", None)
    tree: Tree = {}
    origins: Origins = {}
    if base is not None:
        if not isinstance(base, str):
            raise RecipeError(f"{path}: extends: expected the name of a recipe file, got {base!r}")
        tree, origins = _read(path.parent / base, (*seen, resolved))
    _merge(tree, own, origins, str(path))
    return tree, origins


def _unreadable(path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"{path}: cannot be read: {error.strerror}"
    siblings = sorted(str(file) for file in path.parent.glob("*.toml")) if path.parent.is_dir() else []
    return f"{path}: no such recipe{_suggestion(str(path), siblings)}"


def _merge(tree: Tree, over: Tree, origins: Origins, origin: str, at: tuple[str, ...] = ()) -> None:
    """Put ``over`` on ``tree`` in place: tables merge, anything else (lists too) replaces."""
    for key, value in over.items():
        path = (*at, key)
        origins[path] = origin
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value, origins, origin, path)
        else:
            tree[key] = value
            if isinstance(value, dict):
                tree[key] = {}
                _merge(tree[key], value, origins, origin, path)


def _nest(path: tuple[str, ...], value: Any) -> Tree:
    for key in reversed(path):
        value = {key: value}
    return value


def _explain(problem: Any, model: type[BaseModel], origins: Origins, path: Path) -> str:
    """One line: where the value stands, its key path, what was expected and, for a typo, what was meant."""
    location = tuple(str(part) for part in problem["loc"])
    origin = next(
        (origins[location[:end]] for end in range(len(location), 0, -1) if location[:end] in origins), str(path)
    )
    where = f"{origin}: {'.'.join(location)}" if location else origin
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggestion(location[-1], _fields(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"{where}: missing, a value is required"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
    if problem["type"] in ("value_error", "assertion_error"):
        return f"{where}: {message}"
    given = repr(problem["input"])
    return f"{where}: expected {message}, got {given if len(given) <= 80 else given[:77] + '...'}"


def _fields(model: type[BaseModel], location: tuple[str, ...]) -> list[str]:
    """Names of the fields of the model that stands at ``location``."""
    here: Any = model
    for part in location:
        models = _models_in(here)
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        # An index into a list or a union's tag is no field: stay at the same type.
        here = annotations[0] if annotations else here
    return [name for m in _models_in(here) for name in m.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a type annotation (``X | None``, ``list[X]``, ``dict[str, X]``) is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _suggestion(word: str, known: Iterable[str]) -> str:
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known and len(known) <= 12 else ""


__all__ = ["RecipeError", "load", "parse_override", "read", "validate"]
