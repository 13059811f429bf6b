"""Recipe files: merging, overrides, and errors that a user can act on."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from flows.recipe_file import RecipeError, load, parse_override


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shape(Strict):
    layers: int = Field(2, ge=1)
    sizes: tuple[int, ...] = (1, 2)


class Training(Strict):
    learning_rate: float = Field(1e-3, gt=0)
    shape: Shape = Shape()
    notes: dict[str, float] = {}


class Small(Strict):
    name: str
    training: Training = Training()


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_extends_merges_tables_and_replaces_values_and_lists(write):
    write("base.toml", 'name = "base"\n[training]\nlearning_rate = 0.5\n[training.shape]\nlayers = 4\nsizes = [1, 2]')
    child = write("child.toml", 'extends = "base.toml"\nname = "child"\n[training.shape]\nsizes = [9]')

    recipe = load(child, Small)

    assert recipe.name == "child"
    assert recipe.training.learning_rate == 0.5
    assert recipe.training.shape == Shape(layers=4, sizes=(9,))


def test_overrides_win_over_the_file(write):
    path = write("a.toml", 'name = "a"\n[training]\nlearning_rate = 0.5')
    recipe = load(path, Small, ["training.learning_rate=0.25", "training.shape.layers=3", "name=b c"])
    assert (recipe.name, recipe.training.learning_rate, recipe.training.shape.layers) == ("b c", 0.25, 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=3", 3), ("a.b=1e-3", 1e-3), ("a.b=true", True), ("a.b=[1, 2]", [1, 2]), ("a.b=plain words", "plain words"),
     ('a.b="x=y"', "x=y"), ("a.b=x=y", "x=y"), ("a.b={c = 1}", {"c": 1})],
)  # fmt: skip
def test_override_values_are_toml_or_else_text(text, value):
    assert parse_override(text) == (("a", "b"), value)


@pytest.mark.parametrize("text", ["a.b", "=3", "a..b=3"])
def test_malformed_override_is_an_error(text):
    with pytest.raises(RecipeError, match="KEY=VALUE"):
        parse_override(text)


def message(path: Path, overrides=()) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, Small, overrides)
    return str(caught.value)


def test_unknown_key_names_file_key_path_and_what_was_meant(write):
    path = write("a.toml", 'name = "a"\n[training]\nlearning_rat = 0.5')
    assert message(path) == f"{path}: training.learning_rat: unknown key; did you mean 'learning_rate'?"


def test_wrong_type_names_what_was_expected_and_given(write):
    path = write("a.toml", 'name = "a"\n[training.shape]\nlayers = "four"')
    assert message(path).startswith(f"{path}: training.shape.layers: expected a valid integer")
    assert "'four'" in message(path)


def test_value_out_of_range(write):
    path = write("a.toml", 'name = "a"\n[training]\nlearning_rate = -1.0')
    assert message(path) == f"{path}: training.learning_rate: expected greater than 0, got -1.0"


def test_missing_value(write):
    path = write("a.toml", "[training]")
    assert message(path) == f"{path}: name: missing, a value is required"


def test_error_names_the_file_that_gave_the_value(write):
    base = write("base.toml", 'name = "base"\n[training.shape]\nlayers = 0')
    child = write("child.toml", 'extends = "base.toml"\nname = "child"')
    assert message(child).startswith(f"{base}: training.shape.layers")
    assert message(child, ["training.shape.layers=-1"]).startswith("--set training.shape.layers: training.shape.layers")


def test_every_problem_is_a_line(write):
    path = write("a.toml", "nam = 1\n[training]\nlearning_rate = 'x'")
    assert len(message(path).splitlines()) == 3


def test_invalid_toml_says_where(write):
    path = write("a.toml", "name = \n")
    assert message(path).startswith(f"{path}: not valid TOML")
    assert "line 1" in message(path)


def test_absent_file_suggests_a_neighbour(write, tmp_path):
    write("pocket.toml", "")
    assert message(tmp_path / "poket.toml").endswith(f"no such recipe; did you mean '{tmp_path / 'pocket.toml'}'?")


def test_circle_of_extends(write):
    write("a.toml", 'extends = "b.toml"')
    path = write("b.toml", 'extends = "a.toml"')
    assert "in a circle (b.toml -> a.toml -> b.toml)" in message(path)
