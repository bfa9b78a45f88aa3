"""The settings the stack hands to its users: an environment file, and how it joins the user's own environment.

`encnet stack up` writes `<home>/stack/env`, which a shell can source; every verb reads it through
`load_environment`. Variables that belong together are taken together or not at all, so that the stack's keys are
never sent to the user's own endpoint, nor the user's to the stack's.
"""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from infra.local.errors import StackInputError

REMEDY = "run `encnet stack up`"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Variables of one outside system.

    `address` names where it is, the first one set counting; `own` are the names of which one, set by the user, says
    that the user has a system of their own; `extra` are further names that only make sense with the others.
    """

    need: str
    address: tuple[str, ...]
    own: tuple[str, ...]
    extra: tuple[str, ...] = ()


GROUPS = (
    Group(
        need="s3",
        address=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        own=(
            "AWS_ENDPOINT_URL_S3",
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_PROFILE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ),
        extra=("AWS_REGION", "AWS_EC2_METADATA_DISABLED", "ENCNET_STORAGE"),
    ),
    Group(
        need="mlflow",
        address=("MLFLOW_TRACKING_URI",),
        own=(
            "MLFLOW_TRACKING_URI",
            "MLFLOW_REGISTRY_URI",
            "MLFLOW_TRACKING_USERNAME",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
        ),
        extra=("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"),
    ),
    Group(
        need="ray",
        address=("RAY_ADDRESS",),
        own=("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"),
        extra=("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"),
    ),
)


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the state folder: $ENCNET_HOME, or ~/.encnet."""
    return Path(environ.get("ENCNET_HOME") or "~/.encnet").expanduser().absolute()


def environment_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the stack's environment file is, whether or not it is there."""
    return home(environ) / "stack" / "env"


def render(settings: Mapping[str, str]) -> str:
    """Return `settings` as lines a POSIX shell can source."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())


def read(path: Path) -> dict[str, str]:
    """Return the settings in the file at `path`, or none if there is no such file.

    Raises StackInputError for a file that can't be read or that `render` did not write.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise StackInputError(f"{path}: can't be read ({error}): remove it and {REMEDY}") from error
    settings = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            export, assignment = shlex.split(line)
            name, value = assignment.split("=", 1)
        except ValueError as error:
            raise StackInputError(f"{path}:{number}: not a line `export NAME='VALUE'`: {REMEDY} again") from error
        if export != "export":
            raise StackInputError(f"{path}:{number}: not a line `export NAME='VALUE'`: {REMEDY} again")
        settings[name] = value
    return settings


def additions(environ: Mapping[str, str], stack: Mapping[str, str]) -> dict[str, str]:
    """Return what `stack`'s settings add to `environ`: whole groups of which the user has set nothing of their own."""
    added: dict[str, str] = {}
    for group in GROUPS:
        if any(environ.get(name) for name in group.own):
            continue
        names = [name for name in (*group.own, *group.extra) if name in stack and not environ.get(name)]
        added |= {name: stack[name] for name in names}
    if added:
        added |= _proxy_exception(environ)
    return added


def _proxy_exception(environ: Mapping[str, str]) -> dict[str, str]:
    """Return NO_PROXY widened by this machine, where the user reaches the world through a proxy."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    if not any(environ.get(name) for name in proxies):
        return {}
    hosts = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")
    widened = ",".join(dict.fromkeys([*filter(None, hosts), "127.0.0.1", "localhost"]))
    return {"no_proxy": widened, "NO_PROXY": widened}


def load_environment(environ: MutableMapping[str, str] = os.environ) -> list[str]:
    """Add the running stack's settings to `environ`, where the user has not set their own.

    Returns the names set. Does nothing where no stack is up. Raises StackInputError for a damaged settings file.
    """
    added = additions(environ, read(environment_file(environ)))
    environ.update(added)
    return sorted(added)


def missing(needs: Collection[str], environ: Mapping[str, str] = os.environ) -> str | None:
    """Return one line saying which of `needs` ("s3", "mlflow", "ray") `environ` says nothing of, or None.

    S3 without an endpoint is Amazon's own, and is taken as configured when any of the usual sources of
    credentials or a region is.
    """
    _check_needs(needs)
    for group in GROUPS:
        if group.need in needs and not _is_configured(group, environ):
            name = group.address[-1]
            user_set = [own for own in group.own if environ.get(own)]
            why = f" (the stack's is not used because {user_set[0]} is set)" if user_set else ""
            return f"stack is not up: {name} is not set{why}: {REMEDY}, or set {name} to your own"
    return None


def require(needs: Collection[str], environ: Mapping[str, str] = os.environ) -> None:
    """Raise StackInputError unless `environ` says where each of `needs` is and, if that is this machine, it listens.

    The second half spares the user the minutes for which clients retry a server that is not there.
    """
    if message := missing(needs, environ):
        raise StackInputError(message)
    for group in GROUPS:
        name = next((name for name in group.address if environ.get(name)), None)
        if group.need in needs and name is not None and not _answers(environ[name]):
            raise StackInputError(f"stack is not up: {name}: nothing listens at {environ[name]}: {REMEDY}")


def _check_needs(needs: Collection[str]) -> None:
    unknown = set(needs) - {group.need for group in GROUPS}
    if unknown:
        raise ValueError(f"needs: {sorted(unknown)} are not among s3, mlflow, ray")


def _is_configured(group: Group, environ: Mapping[str, str]) -> bool:
    if any(environ.get(name) for name in group.address):
        return True
    if group.need != "s3":
        return False
    return any(environ.get(name) for name in (*group.own, "AWS_REGION", "AWS_DEFAULT_REGION")) or any(
        Path(environ.get(name) or default).expanduser().exists()
        for name, default in (
            ("AWS_CONFIG_FILE", "~/.aws/config"),
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        )
    )


def _answers(address: str) -> bool:
    """Whether `address` ("host:port" or a URL) takes connections; addresses of other machines are not tried."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname not in ("127.0.0.1", "localhost", "::1") or parts.port is None:
        return True
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=2).close()
    except OSError:
        return False
    return True
