"""What `infra/` describes for other machines: parsed, held against schemas that are installed, and against the code.

What takes a schema or a program that is not installed with this package was checked by hand: see infra/README.md.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from infra import compose_env
from infra.local import object_store, settings
from workflows.recipes import RECIPES
from workflows.train import changed_fields, recipe_config, train

ROOT = Path(__file__).resolve().parents[3]
INFRA = ROOT / "infra"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
KNOWN_NAMES = {name for group in settings.GROUPS for name in (*group.own, *group.extra)}


def load(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((INFRA / path).read_text())
    return document


@pytest.fixture
def compose() -> dict[str, Any]:
    return load("compose.yaml")


def test_compose_publishes_on_loopback_only_what_clients_are_told(compose: dict[str, Any]) -> None:
    published = {name: port for name, service in compose["services"].items() for port in service.get("ports", [])}
    assert published == {
        "s3": f"127.0.0.1:{compose_env.S3_PORT}:8333",
        "mlflow": f"127.0.0.1:{compose_env.MLFLOW_PORT}:5000",
        "ray-head": f"127.0.0.1:{compose_env.DASHBOARD_PORT}:8265",
    }
    assert f"127.0.0.1:{compose_env.MLFLOW_PORT}" in " ".join(compose["services"]["mlflow"]["command"])


def test_every_secret_of_compose_is_made_and_asked_for() -> None:
    text = (INFRA / "compose.yaml").read_text()
    asked = dict(re.findall(r"\$\{(ENCNET_\w+)(:\?|:-)?", text))
    optional = {name for name, sign in asked.items() if sign == ":-"}
    assert optional == {"ENCNET_TORCH_INDEX", "ENCNET_WORKER_CPUS", "ENCNET_WORKERS"}
    assert asked.keys() - optional == set(compose_env.SECRETS)
    for name in compose_env.SECRETS:
        assert f"${{{name}:?run python -m infra.compose_env" in text


def test_containers_are_told_what_the_code_reads(compose: dict[str, Any]) -> None:
    for name in ("ray-head", "ray-worker"):
        environment = compose["services"][name]["environment"]
        assert set(environment) <= KNOWN_NAMES
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["ENCNET_STORAGE"] == f"s3://{object_store.BUCKETS[0]}"
    assert (
        compose["services"]["mlflow"]["command"].count(f"--artifacts-destination=s3://{object_store.BUCKETS[1]}/") == 1
    )
    made = "".join(compose["services"]["buckets"]["command"])
    assert all(f'"{bucket}"' in made for bucket in object_store.BUCKETS)


def test_the_store_is_as_quiet_as_the_local_one(compose: dict[str, Any]) -> None:
    command = compose["services"]["s3"]["command"]
    for option in ("-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"):
        assert option in command
        assert option in object_store._command(Path(), Path(), dict.fromkeys(
            ("s3", "s3_grpc", "filer", "filer_grpc", "master", "master_grpc", "volume", "volume_grpc"), 0
        ))  # fmt: skip
    identities = yaml.safe_load(compose["configs"]["s3-identities"]["content"])
    ours = yaml.safe_load(object_store._identities(object_store.Keys("a", "b")))
    assert identities["identities"][0]["actions"] == ours["identities"][0]["actions"]
    assert identities["identities"][0].keys() == ours["identities"][0].keys()


def test_every_server_of_compose_is_waited_for(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, service in services.items() if "healthcheck" not in service] == ["buckets"]
    for service in services.values():
        for name, wish in service.get("depends_on", {}).items():
            assert wish["condition"] == (
                "service_healthy" if "healthcheck" in services[name] else "service_completed_successfully"
            )
    gpu = load("compose.gpu.yaml")
    assert gpu["services"].keys() <= services.keys()


def images(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "image":
                yield value
            else:
                yield from images(value)
    elif isinstance(document, list):
        for value in document:
            yield from images(value)


@pytest.mark.parametrize("path", ["compose.yaml", "k8s/raycluster.yaml", "k8s/rayjob.yaml"])
def test_images_are_this_version_s(path: str) -> None:
    ours = {image for image in images(load(path)) if image.startswith("encnet")}
    assert ours
    named = [re.fullmatch(r"encnet-pipeline(-mlflow)?:([\d.]+)(-gpu)?", image) for image in ours]
    assert {name and name[2] for name in named} == {VERSION}


def cluster_spec(path: str) -> dict[str, Any]:
    document = load(path)
    spec: dict[str, Any] = document["spec"]
    assert document["apiVersion"] == "ray.io/v1"
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


@pytest.mark.parametrize("path", ["k8s/raycluster.yaml", "k8s/rayjob.yaml"])
def test_kuberay_s_clusters_have_our_ray_a_token_and_gpus(path: str) -> None:
    spec = cluster_spec(path)
    # The fields of KubeRay's custom resource; an unknown one is dropped without a word there.
    assert spec.keys() <= {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"
    }  # fmt: skip
    assert spec["rayVersion"] == PINS["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"].keys() == {"rayStartParams", "template"}
    (workers,) = spec["workerGroupSpecs"]
    assert workers.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    for group in (spec["headGroupSpec"], workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "encnet-settings"}}]
        assert "env" not in container
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    resources = workers["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]


def test_the_ray_job_is_a_command_that_we_take() -> None:
    spec = load("k8s/rayjob.yaml")["spec"]
    assert spec.keys() == {
        "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds",
        "backoffLimit", "rayClusterSpec",
    }  # fmt: skip
    assert spec["shutdownAfterJobFinishes"] is True
    program, verb, *arguments = shlex.split(spec["entrypoint"])
    assert (program, verb) == ("encnet", "train")
    options = train.make_context("train", arguments).params
    recipe = options["recipe"]
    given = {name: value for name, value in options.items() if name not in ("recipe", "resume", "dry_run", "as_json")}
    config = recipe_config(recipe, changed_fields(given))
    assert recipe in RECIPES
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (config.workers.fewest, config.workers.num) == (workers["minReplicas"], workers["maxReplicas"])
    assert config.workers.gpu == "yes"
    assert config.workers.cpus < int(workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_ray_s_launcher_takes_its_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load("ray/cluster.yaml"))
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (INFRA / "docker" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert all((ROOT / source).exists() for source in copied)
    ignored = (INFRA / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000"


def test_no_file_for_other_machines_holds_a_secret() -> None:
    for path in INFRA.rglob("*"):
        if path.is_file() and path.suffix in (".yaml", ".md", "", ".dockerignore"):
            assert not re.search(r"[0-9a-f]{32}|AKIA[0-9A-Z]{16}", path.read_text(errors="replace")), path
