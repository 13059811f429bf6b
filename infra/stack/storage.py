"""What must be there before a stack can work: the bucket and the catalog's tables. ``python -m infra.stack.storage``
makes them with the settings of the environment (docker-compose.yml does that)."""

import time
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from infra.catalog import Catalog
from infra.errors import InfraError
from infra.s3 import s3_client
from infra.settings import Settings, load_settings

PATIENCE = 120.0  # seconds: an S3 server answers before it can store
_POLL = 0.25


def prepare(settings: Settings) -> None:
    """Make the bucket of ``settings.store_uri`` and bring the catalog's tables up to date; either may be there."""
    Catalog(settings.catalog_url).close()
    bucket = urlsplit(settings.store_uri).netloc
    client, deadline = s3_client(settings), time.monotonic() + PATIENCE
    while True:
        try:
            if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"ready")  # an empty one needs no disk
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise InfraError(f"the S3 server {settings.s3_endpoint_url} takes nothing: {error}") from None
            time.sleep(_POLL)


__all__ = ["prepare"]

if __name__ == "__main__":
    prepare(load_settings())
