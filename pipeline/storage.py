"""Object storage and local folders behind one small interface: whole or ranged reads, atomic writes, typed errors.

The only module that knows boto3. A store is a value (a URI): it can be pickled, sent to a worker and used by many
threads; the clients behind it are made on first use, once per process and set of AWS_* variables.

Who retries what on S3: reads are retried and resumed by `read_resumed`, through a client that tries once, so that the
two do not multiply; all other calls, and reads until the endpoint has answered for the first time, by botocore.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from pipeline.errors import InputError, StorageError
from pipeline.local_store import LocalStore
from pipeline.resumed_read import (
    ObjectChanged,
    ObjectNotFound,
    PassingFault,
    Patience,
    ReadCancelled,
    Stream,
    Versioned,
    changed,
    cut_short,
    read_resumed,
)

__all__ = [
    "LocalStore",
    "ObjectChanged",
    "ObjectNotFound",
    "ReadCancelled",
    "S3Store",
    "Store",
    "Versioned",
    "open_store",
    "write_patiently",
]

CALL_ATTEMPTS = 4
PATIENCE = Patience()
WRITE_PATIENCE_S = 300.0
"""How long storage may be away for what training writes beside its steps."""
_CHUNK_BYTES = 1 << 18
_DENIED = {
    "403", "AccessDenied", "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch",
}  # fmt: skip
_MISSING = {"404", "NoSuchKey", "NotFound"}
_PASSING = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
_PASSING_STATUS = {429, 500, 502, 503, 504}
T = TypeVar("T")


class Store(Protocol):
    """A flat name space of byte strings below one root. Keys are relative, with `/` between their parts."""

    def uri(self, key: str = "") -> str:
        """The address of an object, or of the root."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes [offset, offset + length), or all from `offset` on; never fewer than asked for.

        Raises ObjectNotFound, StorageError (the object ends too early, or the store failed, retries included) and
        InputError (credentials, bucket or endpoint are wrong).
        """

    def read_versioned(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        version: str = "",
        cancelled: threading.Event | None = None,
    ) -> Versioned:
        """Like `read`, and what version of the object that was; ObjectChanged when it is not `version`.

        Ends soon after `cancelled` is set, and with ReadCancelled; what only waits to ask again does so at once.
        """

    def write(self, key: str, data: bytes) -> None:
        """Store an object whole: a reader sees the old one or the new one, never a part."""

    def upload(self, key: str, path: Path) -> None:
        """Store a file whole, like `write`, without holding it in memory."""

    def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, sorted."""

    def versions(self, prefix: str = "") -> dict[str, str]:
        """The keys of `list`, and for each the version that `read_versioned` would tell: nothing is read for it."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""

    def size(self, key: str) -> int:
        """The bytes of an object. Raises ObjectNotFound when there is none."""

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


def write_patiently(call: Callable[[], None]) -> None:
    """Make a call that writes, again and again for WRITE_PATIENCE_S where it meets faults that may pass."""
    for attempt in Retrying(
        retry=retry_if_exception_type(PassingFault),
        wait=wait_random_exponential(multiplier=0.5, max=10.0),
        stop=stop_after_delay(WRITE_PATIENCE_S),
        reraise=True,
    ):
        with attempt:
            call()


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
        return self.read_versioned(key, offset, length).data

    def read_versioned(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        version: str = "",
        cancelled: threading.Event | None = None,
    ) -> Versioned:
        if length == 0:
            return Versioned(b"", version)

        def open_stream(skip: int, wanted: str) -> AbstractContextManager[Stream]:
            return self._stream(key, offset + skip, None if length is None else length - skip, wanted)

        what = f"bytes {offset}-{'' if length is None else offset + length - 1}"
        return read_resumed(
            open_stream, uri=self.uri(key), what=what, version=version, patience=PATIENCE, cancelled=cancelled
        )

    @contextmanager
    def _stream(self, key: str, offset: int, length: int | None, version: str) -> Iterator[Stream]:
        """One GET of a range; PassingFault for what may pass, also while its chunks are read."""
        uri = self.uri(key)
        arguments = {"Bucket": self.bucket, "Key": self._name(key)}
        if offset or length is not None:
            arguments["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        if version:
            arguments["IfMatch"] = version
        try:
            answer = _connection().call(uri, self.bucket, lambda client: client.get_object(**arguments), once=True)
        except _RangePastEnd:
            raise cut_short(uri, offset, length, 0) from None
        except _OtherVersion:
            raise changed(uri, version) from None
        with answer["Body"] as body:
            size = _answered_size(answer, uri, offset, length)
            yield Stream(answer.get("ETag", ""), size, _chunks(body, uri))

    def write(self, key: str, data: bytes) -> None:
        self._call(key, lambda client: client.put_object(Bucket=self.bucket, Key=self._name(key), Body=data))

    def upload(self, key: str, path: Path) -> None:
        self._call(key, lambda client: client.upload_file(str(path), self.bucket, self._name(key)))

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self.versions(prefix))

    def versions(self, prefix: str = "") -> dict[str, str]:
        root = f"{self.prefix}/" if self.prefix else ""

        def pages(client: Any) -> dict[str, str]:
            found = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=root + prefix)
            items = (item for page in found for item in page.get("Contents", ()))
            return {item["Key"].removeprefix(root): item.get("ETag", "") for item in items}

        return dict(sorted(self._call(prefix, pages).items()))

    def exists(self, key: str) -> bool:
        try:
            self._call(key, lambda client: client.head_object(Bucket=self.bucket, Key=self._name(key)))
        except ObjectNotFound:
            return False
        return True

    def size(self, key: str) -> int:
        head = self._call(key, lambda client: client.head_object(Bucket=self.bucket, Key=self._name(key)))
        return int(head["ContentLength"])

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
            retries={"mode": "standard", "total_max_attempts": CALL_ATTEMPTS},
            max_pool_connections=32,
            **(custom if self.endpoint else {}),
        )
        once = config.merge(Config(read_timeout=10, retries={"total_max_attempts": 1}))
        try:
            session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
            region = session.region_name or "us-east-1"
            self.client, self.single_try_client = (
                session.client("s3", config=each, region_name=region, endpoint_url=self.endpoint)
                for each in (config, once)
            )
            credentials = session.get_credentials()
        except (BotoCoreError, ValueError) as error:
            raise InputError(f"AWS settings: {error}: correct the AWS_* variables") from error
        self.access_key = credentials.access_key if credentials else ""
        self.answered = False

    def call(self, uri: str, bucket: str, operation: Callable[[Any], T], *, once: bool = False) -> T:
        """What `operation` gives with a client; `once` for one that does not retry.

        An endpoint that has not answered yet is always tried several times, and then taken for a wrong address.
        """
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            result = operation(self.single_try_client if once and self.answered else self.client)
        except ClientError as error:
            self.answered = True
            raise self._refused(uri, bucket, error) from error
        except S3UploadFailedError as error:
            raise self._refused(uri, bucket, error.__context__ or error) from error
        except BotoCoreError as error:
            raise self._failed(uri, error) from error
        except ResponseParserError as error:
            raise PassingFault(f"{uri}: {error}") from error
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
        if code in {"412", "PreconditionFailed"}:
            return _OtherVersion(f"{uri}: {error}")
        if code == "InvalidRange" or status == 416:
            return _RangePastEnd(f"{uri}: {error}")
        passes = code in _PASSING or status in _PASSING_STATUS
        return (PassingFault if passes else StorageError)(f"{uri}: {error}")

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
        passes = isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError)
        return (PassingFault if passes else StorageError)(f"{uri}: {where}: {error}")


def _connection() -> _Connection:
    # Without credentials botocore asks a cloud instance for some, which takes seconds to fail anywhere else.
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _connect(os.getpid(), settings)


@functools.lru_cache(maxsize=4)
def _connect(pid: int, settings: tuple[tuple[str, str], ...]) -> _Connection:
    """One connection per process (a client does not survive a fork) and set of settings."""
    return _Connection()


class _OtherVersion(StorageError):
    """If-Match did not."""


class _RangePastEnd(StorageError):
    """The range begins where the object has ended."""


def _answered_size(answer: Mapping[str, Any], uri: str, offset: int, length: int | None) -> int:
    """How many bytes the answer to a GET is to give. StorageError when they are not those asked for."""
    if not offset and length is None:
        return int(answer["ContentLength"])
    place = re.fullmatch(r"bytes (\d+)-(\d+)/.*", answer.get("ContentRange", ""))
    if place is None or int(place[1]) != offset:
        raise StorageError(
            f"{uri}: bytes from {offset} on were asked for, the store gave {answer.get('ContentRange', 'all')!r}: "
            "use one that serves ranges"
        )
    size = int(place[2]) - offset + 1
    if length is not None and size != length:
        raise cut_short(uri, offset, length, size)
    return size


def _chunks(body: Any, uri: str) -> Iterator[bytes]:
    """The bytes of a body as they come in, where `body.read(n)` would wait for n. Raises PassingFault."""
    from urllib3.exceptions import HTTPError

    try:
        while chunk := body.read1(_CHUNK_BYTES):
            yield chunk
    except (HTTPError, OSError) as error:
        raise PassingFault(f"{uri}: {error}") from error
