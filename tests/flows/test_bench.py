"""``qwenforge bench``: finds the benchmarks, hands their arguments on."""

import pytest

from flows.bench import FOLDER, bench_command, benchmarks
from flows.errors import UsageError


def test_every_benchmark_states_a_hypothesis() -> None:
    runnable = {file.stem for file in FOLDER.glob("*.py") if "def main(" in file.read_text()}
    assert set(benchmarks()) == runnable
    assert all(benchmarks().values())


@pytest.mark.parametrize("name", sorted(benchmarks()))
def test_every_benchmark_explains_its_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_command(name, ["--help"])
    assert ended.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_an_unknown_benchmark_is_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="there are"):
        bench_command("nothing", [])
