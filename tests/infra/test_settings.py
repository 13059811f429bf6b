"""Settings from the environment and from .env."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import InfraError
from infra.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch, tmp_path):
    import os

    for name in list(os.environ):
        if name.startswith("QWENFORGE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing(tmp_path):
    settings = load_settings()
    assert settings.home == tmp_path / ".qwenforge"
    assert settings.home.is_dir()
    assert settings.artifacts_uri == str(tmp_path / ".qwenforge" / "artifacts")
    assert settings.catalog_url == f"sqlite:///{tmp_path}/.qwenforge/catalog.db"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/.qwenforge/mlflow.db"
    assert (settings.device, settings.threads) == ("auto", 0)


def test_the_environment_wins_over_the_file(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("QWENFORGE_THREADS=3\nQWENFORGE_STORE_URI=s3://bucket/a\nOTHER=1\n")
    monkeypatch.setenv("QWENFORGE_THREADS", "2")
    settings = load_settings()
    assert (settings.threads, settings.artifacts_uri) == (2, "s3://bucket/a")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("THREADS", "-1", "QWENFORGE_THREADS .*greater than or equal to 0"),
        ("DEVICE", "tpu", "QWENFORGE_DEVICE .*'auto', 'cpu' or 'cuda'"),
        ("STORE_URI", "gs://bucket", "QWENFORGE_STORE_URI .*expected a folder or s3://bucket/prefix"),
        ("STORE_URI", "s3://", "QWENFORGE_STORE_URI .*bucket is missing"),
        ("HOME", "/proc/nowhere", "cannot create /proc/nowhere.*QWENFORGE_HOME"),
        ("HOME", "/etc/hostname", "cannot create /etc/hostname.*QWENFORGE_HOME"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(monkeypatch, name, value, message):
    monkeypatch.setenv(f"QWENFORGE_{name}", value)
    with pytest.raises(InfraError, match=message) as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_secrets_do_not_show(monkeypatch):
    monkeypatch.setenv("QWENFORGE_S3_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("QWENFORGE_DATABASE_URL", "postgresql://me:hunter2@host/x")
    settings = Settings()
    assert "hunter2" not in repr(settings) + settings.model_dump_json()
    assert settings.catalog_url == "postgresql://me:hunter2@host/x"


def test_settings_and_store_import_nothing_heavy():
    script = (
        "import sys, infra.settings, infra.store, infra.hardware, infra.tracking;"
        "print(sorted({'torch', 'mlflow', 'boto3', 'sqlalchemy', 'alembic', 'pandas'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", script], cwd=root, text=True).strip() == "[]"
