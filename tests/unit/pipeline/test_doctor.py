"""What `encnet doctor` thinks of facts: every fault has a remedy, and what is well is no fault."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import doctor
from pipeline.doctor import Finding, JobsFacts, MachineFacts, MlflowFacts, NodeFacts, RayFacts, Space, StorageFacts

GIB = 1 << 30
ROOM = (Space(path="/tmp", total=100 * GIB, free=50 * GIB), Space(path="/dev/shm", total=8 * GIB, free=8 * GIB))
MLFLOW = {"uri": "http://m", "num_experiments": 2, "artifacts": "mlflow-artifacts:/1", "seconds": 0.1}


def statuses(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.name: finding.status for finding in findings}


def node(name: str = "10.0.0.2", **changes: object) -> NodeFacts:
    facts = {"cpus": 8.0, "gpus": 0.0, "answers": True, "ray": "2.60.0", "python": "3.11.9", "torch": "2.13.0",
             "spaces": ROOM, **changes}  # fmt: skip
    return NodeFacts(name=name, **facts)  # type: ignore[arg-type]


def cluster(*nodes: NodeFacts) -> RayFacts:
    return RayFacts(address="10.0.0.1:6379", ray="2.60.0", python="3.11.7", memory=16 * GIB, nodes=nodes)


@pytest.mark.parametrize(
    ("skew_s", "status", "words"),
    [
        (0.2, "ok", "within 1 s"),
        (-59.0, "ok", "within 59 s"),
        (600.0, "fault", "600 s ahead of the store"),
        (-600.0, "fault", "600 s behind the store"),
    ],
)
def test_a_clock_may_be_off_by_a_little(skew_s: float, status: str, words: str) -> None:
    storage, clock = doctor.judge_storage(StorageFacts(uri="s3://encnet", seconds=0.05, skew_s=skew_s))
    assert (storage.status, clock.status) == ("ok", status)
    assert words in clock.detail


def test_a_store_that_does_not_tell_its_time_is_not_held_against_it() -> None:
    assert statuses(doctor.judge_storage(StorageFacts(uri="/data", seconds=0.01, skew_s=None))) == {"storage": "ok"}


@pytest.mark.parametrize(
    ("server", "status"),
    [("3.17.2", "ok"), ("3.17.9", "ok"), ("3.16.0", "warning"), ("4.0.0", "fault"), ("", None)],
)
def test_mlflow_s_client_and_server_share_a_version(server: str, status: str | None) -> None:
    found = {one.name: one for one in doctor.judge_mlflow(MlflowFacts(client="3.17.2", server=server, **MLFLOW))}  # type: ignore[arg-type]
    assert found["MLflow"].status == found["MLflow artifacts"].status == "ok"
    if status is None:
        assert "MLflow version" not in found
    else:
        assert found["MLflow version"].status == status
        assert (status == "ok") or f"mlflow=={server}" in found["MLflow version"].remedy


@pytest.mark.parametrize(
    ("status", "there", "found"),
    [(200, "2.60.0", "ok"), (200, "", "ok"), (200, "2.59.0", "warning"), (401, "", "fault"), (502, "", "fault")],
)
def test_the_jobs_api_takes_the_token_or_not(status: int, there: str, found: str) -> None:
    (finding,) = doctor.judge_jobs(JobsFacts(url="http://r:8265", status=status, ray=there, client="2.60.0"))
    assert finding.status == found
    assert ("token" in finding.detail) == (status in (200, 401) and found != "warning")


def test_a_sound_cluster_has_no_fault() -> None:
    found = list(doctor.judge_ray(cluster(node(), node("10.0.0.3", gpus=4.0, cuda_devices=1))))
    assert {finding.status for finding in found} == {"ok"}
    assert found[0].detail == "10.0.0.1:6379: 2 nodes, 16 CPUs, 4 GPUs, 16.0 GiB"


@pytest.mark.parametrize(
    ("bad", "name", "status", "words"),
    [
        (node("n2", ray="2.59.1"), "Ray version", "fault", "2.60.0 here, 2.59.1 on n2"),
        (node("n2", python="3.12.1"), "Python version", "fault", "3.11.7 here, 3.12.1 on n2"),
        (node("n2", answers=False), "Ray nodes", "fault", "n2: ran no task in time"),
        (node("n2", gpus=2.0, cuda_devices=0), "GPUs", "fault", "Ray counts 2 GPUs, torch 2.13.0 sees none"),
        (node("n2", gpus=2.0, cuda_devices=None), "GPUs", "warning", "its 2 GPUs are busy"),
        (node("n2", gpus=2.0, cuda_devices=0, torch=""), "GPUs", "fault", "torch is not installed"),
        (
            node("n2", spaces=(Space(path="/dev/shm", total=64 << 20, free=1),)),
            "shared memory",
            "warning",
            "of n2: only",
        ),
        (node("n2", spaces=(Space(path="/tmp", total=9 * GIB, free=1 << 20),)), "disk", "fault", "/tmp of n2: 0.0 of"),
    ],
)
def test_a_node_that_differs_is_named(bad: NodeFacts, name: str, status: str, words: str) -> None:
    wrong = [finding for finding in doctor.judge_ray(cluster(node(), bad)) if finding.status != "ok"]
    assert [(finding.name, finding.status) for finding in wrong] == [(name, status)]
    assert words in wrong[0].detail
    assert bad.name in wrong[0].detail


def test_a_cluster_without_cpus_can_do_nothing() -> None:
    assert statuses(doctor.judge_ray(cluster(node(cpus=0.0))))["Ray"] == "fault"
    assert statuses(doctor.judge_ray(cluster()))["Ray"] == "fault"


def test_a_driver_without_a_gpu_for_torch_is_a_fault() -> None:
    facts = {"spaces": ROOM}
    sound = MachineFacts(torch="2.13.0+cpu", cuda_devices=0, has_driver=False, **facts)
    assert set(statuses(doctor.judge_machine(sound)).values()) == {"ok"}
    blind = MachineFacts(torch="2.13.0+cpu", cuda_devices=0, has_driver=True, **facts)
    assert statuses(doctor.judge_machine(blind))["torch"] == "fault"
    none = MachineFacts(torch="", cuda_devices=0, has_driver=False, **facts)
    assert statuses(doctor.judge_machine(none))["torch"] == "fault"


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.sampled_from(["/tmp", "/dev/shm"]))
def test_less_room_is_never_judged_better(one: int, other: int, path: str) -> None:
    order = {"ok": 0, "warning": 1, "fault": 2}
    less, more = sorted((one, other))
    judged = [
        order[finding.status]
        for free in (less, more)
        for finding in doctor.judge_space(Space(path=path, total=free, free=free))
    ]
    assert judged[0] >= judged[1]
    spoken = list(doctor.judge_space(Space(path=path, total=less, free=less), quiet=True))
    assert [order[finding.status] for finding in spoken] == [judged[0]] * bool(judged[0])


def test_packages_are_held_against_what_was_tested() -> None:
    pins = {"torch": "2.13.0", "Flask_WTF": "1.3.0", "unused": "1"}
    sound = doctor.judge_packages({"torch": "2.13.0+cpu", "flask-wtf": "1.3.0", "free": "9"}, pins)
    assert (sound.status, sound.detail) == ("ok", "2 of 3 in the versions of constraints.txt")
    other = doctor.judge_packages({"torch": "2.14.0"}, pins)
    assert (other.status, other.detail) == ("warning", "torch 2.14.0 (tested: 2.13.0)")
    missing = doctor.judge_packages({"torch": None, "ray": None}, pins)
    assert (missing.status, missing.detail) == ("fault", "missing: ray, torch")
    assert doctor.judge_packages({"torch": "1"}, {}).status == "ok"


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [
        (0o600, "ok", "(0600)"),
        (0o400, "ok", "(0400)"),
        (0o640, "fault", "(0640)"),
        (0o604, "fault", "others may read it"),
    ],
)
def test_only_its_owner_may_read_a_secret(mode: int, status: str, words: str) -> None:
    finding = doctor.judge_secret("token", "/x/token", mode)
    assert (finding.status, finding.remedy) == (status, "chmod 600 /x/token" if status == "fault" else "")
    assert words in finding.detail
    assert doctor.judge_secret("token", "/x/token", None).status == "fault"


FACTS = [
    *doctor.judge_storage(StorageFacts(uri="s3://x", seconds=1.0, skew_s=1e6)),
    *doctor.judge_mlflow(MlflowFacts(client="3.1", server="4.0", **MLFLOW)),  # type: ignore[arg-type]
    *doctor.judge_jobs(JobsFacts(url="u", status=500, ray="", client="2")),
    *doctor.judge_ray(cluster(node(cpus=0.0, ray="1.0.0", python="2.7.0", gpus=1.0, cuda_devices=0, spaces=()))),
    *doctor.judge_machine(MachineFacts(torch="", cuda_devices=0, has_driver=True)),
    doctor.judge_packages({"ray": None}, {}),
    doctor.judge_secret("token", "/t", 0o644),
]


@pytest.mark.parametrize("finding", [one for one in FACTS if one.status == "fault"], ids=lambda one: one.name)
def test_every_fault_has_a_remedy(finding: Finding) -> None:
    assert finding.remedy
    assert doctor.has_fault([finding])
    assert not doctor.has_fault([doctor.ok("x", "y")])
