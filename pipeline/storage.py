"""Object storage and local folders behind one small interface: whole or ranged reads, atomic writes, typed errors.

The only module that knows boto3. A store is a value (a URI): it can be pickled, sent to a worker and used by many
threads; the client behind it is made on first use, once per process and set of AWS_* variables.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.errors import InputError, StorageError

READ_ATTEMPTS = 4
_TEMPORARY = ".partial-"
_DENIED = {
    "403", "AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch",
}  # fmt: skip
_MISSING = {"404", "NoSuchKey", "NotFound"}
T = TypeVar("T")


class ObjectNotFound(StorageError):
    """There is no object of that name."""


class Store(Protocol):
    """A flat name space of byte strings below one root. Keys are relative, with `/` between their parts."""

    def uri(self, key: str = "") -> str:
        """The address of an object, or of the root."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes [offset, offset + length), or all from `offset` on; never fewer than asked for.

        Raises ObjectNotFound, StorageError (the object ends too early, or the store failed, retries included) and
        InputError (credentials, bucket or endpoint are wrong).
        """

    def write(self, key: str, data: bytes) -> None:
        """Store an object whole: a reader sees the old one or the new one, never a part."""

    def upload(self, key: str, path: Path) -> None:
        """Store a file whole, like `write`, without holding it in memory."""

    def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""

    def ensure_bucket(self) -> None:
        """Make the bucket or folder if it is not there yet."""


def open_store(uri: str) -> Store:
    """The store at `s3://bucket[/prefix]` or at a path. Touches neither network nor disk. InputError for other URIs."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise InputError("uri: '' names no place: give s3://bucket/prefix or a path")
        return LocalStore(root=Path(uri).expanduser().absolute())
    if scheme == "file":
        return LocalStore(root=Path(rest).absolute())
    if scheme != "s3":
        raise InputError(f"{uri}: storage of kind {scheme!r} is not known: give s3://bucket/prefix or a path")
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise InputError(f"{uri}: the bucket's name is missing: give s3://bucket/prefix")
    return S3Store(bucket=bucket, prefix=prefix.strip("/"))


@dataclass(frozen=True, kw_only=True)
class LocalStore:
    """A folder as a store."""

    root: Path

    def _path(self, key: str) -> Path:
        path = self.root / key
        if not key or not path.resolve().is_relative_to(self.root.resolve()):
            raise InputError(f"{self.root}: {key!r} is no key below it")
        return path

    def uri(self, key: str = "") -> str:
        return str(self.root / key)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with _file_errors(self.uri(key)), self._path(key).open("rb") as file:
            file.seek(offset)
            data = file.read() if length is None else file.read(length)
        return _whole(data, self.uri(key), offset, length)

    def write(self, key: str, data: bytes) -> None:
        with self._replacing(key) as file:
            file.write(data)

    def upload(self, key: str, path: Path) -> None:
        with self._replacing(key) as file, path.open("rb") as source:
            while chunk := source.read(1 << 20):
                file.write(chunk)

    @contextmanager
    def _replacing(self, key: str) -> Iterator[Any]:
        path = self._path(key)
        with _file_errors(self.uri(key)):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = tempfile.NamedTemporaryFile(dir=path.parent, prefix=_TEMPORARY, delete=False)  # noqa: SIM115
            try:
                with file:
                    yield file
                Path(file.name).chmod(0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def list(self, prefix: str = "") -> list[str]:
        with _file_errors(self.uri(prefix)):
            folder = self.root / prefix.rpartition("/")[0]
            files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_TEMPORARY))
            keys = (path.relative_to(self.root).as_posix() for path in files)
            return sorted(key for key in keys if key.startswith(prefix))

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        with _file_errors(self.uri(key)):
            self._path(key).unlink(missing_ok=True)

    def ensure_bucket(self) -> None:
        with _file_errors(self.uri()):
            self.root.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, kw_only=True)
class S3Store:
    """A prefix of a bucket as a store. Endpoint and credentials are those of the AWS_* environment variables."""

    bucket: str
    prefix: str = ""

    def uri(self, key: str = "") -> str:
        return "/".join(part for part in (f"s3://{self.bucket}", self.prefix, key) if part)

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _call(self, key: str, operation: Callable[[Any], T]) -> T:
        return _connection().call(self.uri(key), self.bucket, operation)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        arguments = {"Bucket": self.bucket, "Key": self._name(key)}
        if offset or length is not None:
            arguments["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        data = self._call(key, lambda client: _read_body(client, arguments))
        return _whole(data, self.uri(key), offset, length)

    def write(self, key: str, data: bytes) -> None:
        self._call(key, lambda client: client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data))

    def upload(self, key: str, path: Path) -> None:
        self._call(key, lambda client: client.upload_file(str(path), self.bucket, self._name(key)))

    def list(self, prefix: str = "") -> list[str]:
        root = f"{self.prefix}/" if self.prefix else ""

        def pages(client: Any) -> list[str]:
            found = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            return [item["Key"].removeprefix(root) for page in found for item in page.get("Contents", ())]

        return sorted(self._call(prefix, pages))

    def exists(self, key: str) -> bool:
        try:
            self._call(key, lambda client: client.head_object(Bucket=self.bucket, Key=self._name(key)))
        except ObjectNotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        self._call(key, lambda client: client.delete_object(Bucket=self.bucket, Key=self._name(key)))

    def ensure_bucket(self) -> None:
        try:
            self._call("", lambda client: client.head_bucket(Bucket=self.bucket))
        except ObjectNotFound:
            self._call("", self._create_bucket)

    def _create_bucket(self, client: Any) -> None:
        region = client.meta.region_name
        # AWS wants every region but its first one named; other stores know none.
        named = not os.environ.get("AWS_ENDPOINT_URL") and region != "us-east-1"
        place = {"CreateBucketConfiguration": {"LocationConstraint": region}} if named else {}
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=self.bucket, **place)


class _Connection:
    """A boto3 client and what is known of its endpoint."""

    def __init__(self) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        # Stores other than AWS often have no bucket.host names and refuse trailing checksums.
        custom = {"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"}
        config = Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": READ_ATTEMPTS},
            max_pool_connections=32,
            **(custom if self.endpoint else {}),
        )
        try:
            session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
            region = session.region_name or "us-east-1"
            self.client = session.client("s3", config=config, region_name=region, endpoint_url=self.endpoint)
            credentials = session.get_credentials()
        except (BotoCoreError, ValueError) as error:
            raise InputError(f"AWS settings: {error}: correct the AWS_* variables") from error
        self.access_key = credentials.access_key if credentials else ""
        self.answered = False

    def call(self, uri: str, bucket: str, operation: Callable[[Any], T]) -> T:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            result = operation(self.client)
        except ClientError as error:
            self.answered = True
            raise self._refused(uri, bucket, error) from error
        except S3UploadFailedError as error:
            raise self._refused(uri, bucket, error.__context__ or error) from error
        except BotoCoreError as error:
            raise self._failed(uri, error) from error
        except OSError as error:
            raise StorageError(f"{uri}: {error}") from error
        self.answered = True
        return result

    def _refused(self, uri: str, bucket: str, error: BaseException) -> Exception:
        """What an answer other than success means."""
        answer: dict[str, Any] = getattr(error, "response", {})
        code = str(answer.get("Error", {}).get("Code", type(error).__name__))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _DENIED or status == 403:
            key = f"{self.access_key[:4]}…" if self.access_key else "(none)"
            return InputError(
                f"{uri}: access denied ({code}) with AWS_ACCESS_KEY_ID={key} at {self.endpoint or 'AWS'}: check "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL "
                "('encnet stack up' writes those of the local stack)"
            )
        if code == "NoSuchBucket":
            return InputError(f"{uri}: there is no bucket {bucket!r} at {self.endpoint or 'AWS'}: check the name")
        if code == "InvalidBucketName":
            return InputError(f"{uri}: {bucket!r} is no bucket name: give 3 to 63 of a-z, 0-9, '-' and '.'")
        if code in _MISSING or status == 404:
            return ObjectNotFound(f"{uri}: there is no such object")
        return StorageError(f"{uri}: {error}")

    def _failed(self, uri: str, error: Exception) -> Exception:
        """What a call that got no answer means."""
        from botocore import exceptions

        where = self.endpoint or "AWS"
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return InputError(
                f"{uri}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                "('encnet stack up' writes those of the local stack)"
            )
        if isinstance(error, exceptions.ParamValidationError):
            return InputError(f"{uri}: {' '.join(str(error).split())}: give s3://bucket/prefix")
        # An endpoint that has answered before is a fault of the moment; one that never did is a wrong address.
        unreachable = exceptions.ConnectTimeoutError | exceptions.EndpointConnectionError | exceptions.SSLError
        if isinstance(error, unreachable) and not self.answered:
            return InputError(
                f"{uri}: nothing answers at {where}: check AWS_ENDPOINT_URL, "
                "or start the local stack with 'encnet stack up'"
            )
        return StorageError(f"{uri}: {where} failed after {READ_ATTEMPTS} attempts: {error}")


def _connection() -> _Connection:
    # Without credentials botocore asks a cloud instance for some, which takes seconds to fail anywhere else.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _connect(os.getpid(), settings)


@functools.lru_cache(maxsize=4)
def _connect(pid: int, settings: tuple[tuple[str, str], ...]) -> _Connection:
    """One connection per process (a client does not survive a fork) and set of settings."""
    return _Connection()


def _read_body(client: Any, arguments: dict[str, str]) -> bytes:
    """GET an object; a body cut off on its way is asked for again, which botocore's own retries leave out."""
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

    broken = retry_if_exception_type((IncompleteReadError, ResponseStreamingError))
    wait = wait_random_exponential(multiplier=0.1, max=5)
    for attempt in Retrying(retry=broken, wait=wait, stop=stop_after_attempt(READ_ATTEMPTS), reraise=True):
        with attempt:
            body = client.get_object(**arguments)["Body"]
            try:
                return bytes(body.read())
            except ReadTimeoutError as error:
                raise ResponseStreamingError(error=error) from error
    raise AssertionError("Retrying either returns or raises")


def _whole(data: bytes, uri: str, offset: int, length: int | None) -> bytes:
    if length is not None and len(data) != length:
        raise StorageError(
            f"{uri}: {length} bytes asked for at offset {offset}, {len(data)} are there: it is cut short"
        )
    return data


@contextmanager
def _file_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(f"{uri}: there is no such file") from error
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{uri}: {error.strerror}: give a folder that can be read and written") from error
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror or error}") from error
