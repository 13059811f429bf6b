"""Settings of the place a recipe runs in: where things are kept, credentials, device.

They come from the environment (``QWENFORGE_HOME=...``) or a ``.env`` file in the working directory, never from
a recipe, so the same recipe runs unchanged on a laptop, on the local stack and on a cluster.
"""

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import InfraError


class Settings(BaseSettings):
    """Every setting is optional: the defaults need no server, no GPU and no account."""

    model_config = SettingsConfigDict(
        env_prefix="QWENFORGE_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    home: Path = Field(default=Path(".qwenforge"), description="Folder of everything that a run leaves behind")
    store_uri: str = Field(default="", description="Artifacts: a folder or s3://bucket/prefix")
    s3_endpoint_url: str = Field(default="", description="S3-compatible server; empty for AWS")
    s3_region: str = Field(default="us-east-1", description="Region that requests are signed for")
    s3_access_key_id: SecretStr | None = Field(default=None, description="Empty: boto3's own credential chain")
    s3_secret_access_key: SecretStr | None = None
    database_url: SecretStr = Field(default=SecretStr(""), description="Catalog: sqlite:///... or postgresql://...")
    mlflow_uri: SecretStr = Field(default=SecretStr(""), description="MLflow: sqlite:///... or http(s)://server")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["torch", "deepspeed"] = Field(default="torch", description="What trains")
    world_size: int = Field(default=0, ge=0, description="deepspeed: processes; 0 for the host file's or all GPUs")
    zero_stage: Literal[1, 2, 3] = Field(default=1, description="deepspeed: what ranks share (ZeRO)")
    offload: bool = Field(default=False, description="deepspeed: optimizer state in host memory")
    sequence_parallel: int = Field(
        default=1, ge=1, description="deepspeed: ranks that share the tokens of every window (Ulysses)"
    )
    expert_parallel: int = Field(default=1, ge=1, description="deepspeed: ranks that share the experts of every layer")
    host_file: Path | None = Field(default=None, description="deepspeed: lines of 'host slots=N'")
    data_engine: Literal["processes", "ray"] = Field(default="processes", description="What maps over documents")
    ray_address: str = Field(default="", description="Ray cluster to join; empty starts one on this machine")
    stall_seconds: float = Field(default=1800.0, gt=0, description="A rank that is silent for longer is ended")
    api_keys: SecretStr = Field(
        default=SecretStr(""), description="qwenforge serve: keys that clients may send, by commas"
    )
    api_urls: str = Field(default="http://127.0.0.1:8000", description="Playground: model APIs, by commas")
    dashboard_login: bool = Field(default=False, description="Ask for a login on loopback too (behind a proxy)")
    dashboard_read_only: bool = Field(default=False, description="The dashboard changes nothing, whoever looks")
    dashboard_password: SecretStr = Field(
        default=SecretStr(""), description="Makes a user 'operator' with this password when the dashboard starts"
    )
    dashboard_url: str = Field(default="", description="Where a browser finds the dashboard, for links to it")
    mlflow_ui_url: str = Field(default="", description="Where a browser finds MLflow; as mlflow_uri by default")
    threads: int = Field(default=0, ge=0, description="CPU threads for mathematics; 0 for all cores")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        # Resolved once: a stage or a worker may change the working directory later.
        return home.expanduser().absolute()

    @field_validator("store_uri")
    @classmethod
    def _known_store(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if "://" in uri and parts.scheme != "s3":
            raise ValueError("expected a folder or s3://bucket/prefix")
        if parts.scheme == "s3" and not parts.netloc:
            raise ValueError("the bucket is missing, expected s3://bucket/prefix")
        return uri

    @property
    def artifacts_uri(self) -> str:
        """``store_uri``, or the artifact folder under ``home``."""
        if self.store_uri.startswith("s3://"):
            return self.store_uri
        return str(Path(self.store_uri).expanduser().absolute() if self.store_uri else self.home / "artifacts")

    @property
    def catalog_url(self) -> str:
        """``database_url`` in clear, or the SQLite file under ``home``."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.home / 'catalog.db'}"

    @property
    def tracking_uri(self) -> str:
        """``mlflow_uri`` in clear, or the SQLite file under ``home``."""
        return self.mlflow_uri.get_secret_value() or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def tracking_artifacts(self) -> Path:
        """Where MLflow keeps the files of runs while no server decides that."""
        return self.home / "mlartifacts"


def load_settings() -> Settings:
    """Read the environment and create ``home``; anything wrong is one line that names the variable."""
    try:
        settings = Settings()
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        variable = f"QWENFORGE_{str(problem['loc'][0]).upper()}" if problem["loc"] else "QWENFORGE_*"
        message = problem["msg"].removeprefix("Value error, ")
        raise InfraError(f"{variable} (environment or .env): {message}; correct it or unset it") from None
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InfraError(
            f"cannot create {settings.home}: {error.strerror}; set QWENFORGE_HOME to a folder you may write"
        ) from None
    if not os.access(settings.home, os.W_OK | os.X_OK):
        raise InfraError(f"cannot write to {settings.home}; set QWENFORGE_HOME to a folder you may write")
    return settings


__all__ = ["InfraError", "Settings", "load_settings"]
