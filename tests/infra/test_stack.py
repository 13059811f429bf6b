"""What a stack is made of, without starting it: ports, files, Supervisor's configuration."""

import configparser
import shlex
import socket
import stat
import tempfile

import pytest

from infra.errors import InfraError
from infra.stack import down, read_place, status
from infra.stack import postgres as cluster
from infra.stack.place import LOOPBACK, USUAL_PORTS, choose_ports, prepare_place, write_private
from infra.stack.services import check_installed, service_environment, services
from infra.stack.supervision import configuration


@pytest.fixture(autouse=True)
def _short_temporary_folder(monkeypatch, tmp_path):
    """Where sockets go when a home's path is too long for them, as pytest's are (``tmp_path``: has its own first)."""
    with tempfile.TemporaryDirectory(prefix="qf-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture
def place(tmp_path):
    return prepare_place(tmp_path / "home % of 'it'", "rl", free_ports=True)


def test_a_port_that_is_taken_is_replaced_and_the_others_stay():
    with socket.socket() as taken, socket.socket() as free:
        for listener in (taken, free):
            listener.bind((LOOPBACK, 0))
        taken.listen()
        used, unused = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        ports = choose_ports({"mlflow": used, "prefect": unused})
    assert ports["mlflow"] != used
    assert ports["prefect"] == unused
    assert len(set(ports.values())) == len(ports)
    assert set(USUAL_PORTS) < set(ports)


def test_ports_and_secrets_stay_from_one_start_to_the_next(place):
    again = prepare_place(place.home, "sft", free_ports=True)
    assert (again.ports, again.secrets) == (place.ports, place.secrets)
    assert read_place(place.home) == again
    assert len(set(place.secrets.values())) == 3
    assert stat.S_IMODE((place.folder / "secrets.json").stat().st_mode) == 0o600
    assert prepare_place(place.home.parent / "other", "rl", free_ports=True).secrets != place.secrets


def test_a_private_file_is_never_open_to_others_not_even_while_it_is_written(tmp_path):
    (tmp_path / "secret").write_text("old")
    (tmp_path / "secret").chmod(0o644)
    write_private(tmp_path / "secret", "new")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_settings_of_a_client_lead_to_the_stack(place):
    settings = place.settings()
    assert settings.home == place.home
    assert settings.artifacts_uri == "s3://qwenforge/artifacts"
    assert settings.catalog_url == place.database("catalog")
    assert settings.tracking_uri == f"http://127.0.0.1:{place.ports['mlflow']}"


def test_sockets_are_short_enough_for_the_system(tmp_path):
    deep = prepare_place(tmp_path / ("d" * 100), "rl", free_ports=True)
    assert len(str(deep.runtime / "supervisor.sock")) < 100
    assert prepare_place(tmp_path / ("e" * 100), "rl", free_ports=True).runtime != deep.runtime


def test_supervisor_reads_its_configuration_as_it_was_meant(place):
    from supervisor.options import ServerOptions

    (place.folder / "supervisord.conf").write_text(configuration(place, services(place)))
    options = ServerOptions()
    options.configfile = str(place.folder / "supervisord.conf")
    options.realize(args=[])
    programs = {group.name: group.process_configs[0] for group in options.process_group_configs}
    for service in services(place):
        assert shlex.split(programs[service.name].command) == service.command
        assert service.environment.items() <= programs[service.name].environment.items()
    parser = configparser.RawConfigParser()
    parser.read(place.folder / "supervisord.conf")
    assert parser["unix_http_server"]["chmod"] == "0700"


def test_settings_of_other_servers_do_not_leak_into_the_services(place, monkeypatch):
    monkeypatch.setenv("PREFECT_API_KEY", "cloud")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("QWENFORGE_STORE_URI", "s3://elsewhere")
    environment = service_environment(place)
    assert "PREFECT_API_KEY" not in environment
    assert "AWS_SESSION_TOKEN" not in environment
    assert environment["QWENFORGE_STORE_URI"] == "s3://qwenforge/artifacts"


def test_missing_binaries_are_named_with_their_package(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster.Path, "glob", lambda self, pattern: [])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="apt-get install postgresql"):
        check_installed()


def test_where_there_was_no_stack_there_is_nothing_to_show_or_stop(tmp_path):
    assert status(tmp_path) == []
    assert down(tmp_path, volumes=True, report=print) is False
