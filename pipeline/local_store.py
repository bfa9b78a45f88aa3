"""A local folder as a store, with the same answers and errors as object storage."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, StorageError
from pipeline.resumed_read import ObjectNotFound, Versioned, changed, cut_short, end_if

_TEMPORARY = ".partial-"


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
        return self.read_versioned(key, offset, length).data

    def read_versioned(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        version: str = "",
        cancelled: threading.Event | None = None,
    ) -> Versioned:
        uri = self.uri(key)
        end_if(cancelled, uri)
        with _file_errors(uri), self._path(key).open("rb") as file:
            found = _version(os.fstat(file.fileno()))
            if version and found != version:
                raise changed(uri, version, found)
            file.seek(offset)
            data = file.read() if length is None else file.read(length)
        if length is not None and len(data) != length:
            raise cut_short(uri, offset, length, len(data))
        return Versioned(data, found)

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

    def versions(self, prefix: str = "") -> dict[str, str]:
        with _file_errors(self.uri(prefix)):
            return {key: _version((self.root / key).stat()) for key in self.list(prefix)}

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def size(self, key: str) -> int:
        with _file_errors(self.uri(key)):
            return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        with _file_errors(self.uri(key)):
            self._path(key).unlink(missing_ok=True)

    def ensure_bucket(self) -> None:
        with _file_errors(self.uri()):
            self.root.mkdir(parents=True, exist_ok=True)


def _version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


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
