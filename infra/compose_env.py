"""The secrets of `compose.yaml`, made once, and the settings for those who use what it starts.

python -m infra.compose_env

<home>/compose/secrets.env    what `docker compose --env-file` reads
<home>/compose/client.env     what a shell sources to run `encnet` against it

Their names begin with ENCNET_ where compose reads them, since it prefers what the shell has set: the user's own AWS
keys are never given to the store.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local import settings
from infra.local.errors import StackInputError
from infra.local.state import write_private

SECRETS = (
    "ENCNET_POSTGRES_PASSWORD",
    "ENCNET_MLFLOW_PASSWORD",
    "ENCNET_MLFLOW_SECRET_KEY",
    "ENCNET_S3_ACCESS_KEY",
    "ENCNET_S3_SECRET_KEY",
    "ENCNET_RAY_TOKEN",
)
S3_PORT, MLFLOW_PORT, DASHBOARD_PORT = 8333, 5000, 8265
_REMEDY = "remove it and run python -m infra.compose_env again: new secrets are made"


def make(home: Path) -> tuple[Path, Path]:
    """Write the two files below `home`, the secrets only if there are none, and return where they are.

    Raises StackInputError for secrets that are there and not whole, or a folder that can't be written to.
    """
    folder = home / "compose"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secrets_file, client_file = folder / "secrets.env", folder / "client.env"
        if not secrets_file.exists():
            made = {name: secrets.token_hex(32) for name in SECRETS} | {"ENCNET_S3_ACCESS_KEY": secrets.token_hex(10)}
            write_private(secrets_file, "".join(f"{name}={value}\n" for name, value in made.items()))
        write_private(client_file, settings.render(client_settings(read(secrets_file))))
    except OSError as error:
        raise StackInputError(
            f"ENCNET_HOME: {home}: can't be written to ({error.strerror}): set it to another"
        ) from error
    return secrets_file, client_file


def read(path: Path) -> dict[str, str]:
    """Return the secrets in the file at `path`. Raises StackInputError unless all are there."""
    lines = [line.partition("=") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    found = {name.strip(): value.strip() for name, _, value in lines}
    for name in SECRETS:
        if not found.get(name):
            raise StackInputError(f"{path}: {name} is missing: {_REMEDY}")
    return {name: found[name] for name in SECRETS}


def client_settings(made: Mapping[str, str]) -> dict[str, str]:
    """Return what a client on this host has to have in its environment.

    There is no RAY_ADDRESS: drivers run as jobs on the cluster, to which only the dashboard's port leads.
    """
    return {
        "AWS_ACCESS_KEY_ID": made["ENCNET_S3_ACCESS_KEY"],
        "AWS_SECRET_ACCESS_KEY": made["ENCNET_S3_SECRET_KEY"],
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}",
        "AWS_REGION": "us-east-1",
        "ENCNET_STORAGE": "s3://encnet",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{MLFLOW_PORT}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": made["ENCNET_MLFLOW_PASSWORD"],
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD_PORT}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": made["ENCNET_RAY_TOKEN"],
    }


def main() -> int:
    """Make the files and say what to do with them."""
    try:
        secrets_file, client_file = make(settings.home())
    except StackInputError as error:
        print(f"compose_env: {error}", file=sys.stderr)  # noqa: T201
        return 2
    compose = Path(__file__).with_name("compose.yaml")
    print(f"docker compose --env-file {secrets_file} -f {compose} up --build --detach")  # noqa: T201
    print(f". {client_file}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
