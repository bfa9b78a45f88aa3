"""Checkpoints read without running code: wrappers, refusals, damage, and addresses on the web."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from encnet import ModelConfig, build_model, load_model, load_weights, read_config
from encnet.checkpoint_file import STAND_INS, read_checkpoint

STATE = {"layer1.0.conv1.weight": torch.arange(4.0), "layer1.0.bn1.num_batches_tracked": torch.tensor(3)}


class Malicious:
    """Runs code when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.path.touch, ())


def pytorch_encoding() -> dict[str, Any]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
    state = OrderedDict((f"module.{key}", value) for key, value in STATE.items())
    return {"epoch": 80, "state_dict": state, "optimizer": optimizer.state_dict(), "best_pred": np.float64(0.65)}


def mmcv(config: str) -> dict[str, Any]:
    meta = {
        "env_info": "sys.platform: linux",
        "seed": 0,
        "config": config,
        "CLASSES": ("road", "sidewalk"),
        "PALETTE": [[128, 64, 128], [244, 35, 232]],
        "hook_msgs": {"best_score": np.float32(0.7)},
    }
    return {"meta": meta, "state_dict": OrderedDict(STATE)}


def same(tensors: dict[str, Tensor]) -> bool:
    return tensors.keys() == STATE.keys() and all(torch.equal(tensors[key], STATE[key]) for key in STATE)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE}, pytorch_encoding(), mmcv("")])
def test_wrappers(tmp_path: Path, content: Any, legacy: bool) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    file = read_checkpoint(path)
    assert same(file.tensors)
    assert file.config == {}


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (
            "dict(decode_head=dict(align_corners=True), auxiliary_head=dict(align_corners=True))",
            {"align_corners": True},
        ),
        ("{'decode_head': {'align_corners': False}}", {"align_corners": False}),
        ("dict(decode_head=dict(align_corners=True), auxiliary_head=dict(align_corners=False))", {}),
        ("dict(decode_head=dict())", {}),
    ],
)
def test_the_config_in_mmsegmentations_files(tmp_path: Path, text: str, stated: dict[str, bool]) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(mmcv(text), path)
    assert read_checkpoint(path).config == stated


def test_mmengine_training_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history of the losses, which holds numpy arrays and methods, is not needed, and its class neither."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(3.0)
            self.statistics_methods = {"min": HistoryBuffer.min}

        def min(self) -> None: ...

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    HistoryBuffer.min.__module__, HistoryBuffer.min.__qualname__ = HistoryBuffer.__module__, "HistoryBuffer.min"
    path = tmp_path / "iter_80000.pth"
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
            patch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[HistoryBuffer.__module__].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
        hub = {"log_scalars": OrderedDict({"train/loss": HistoryBuffer()}), "runtime_info": {"iter": 80000}}
        meta = {"cfg": "head = dict(align_corners=False)", "dataset_meta": {"classes": ("road",)}}
        torch.save({"meta": meta, "message_hub": hub, "state_dict": STATE}, path)
    file = read_checkpoint(path)
    assert same(file.tensors)
    assert file.config == {"align_corners": False}
    assert not set(STAND_INS) & set(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_refuses_pickled_code(tmp_path: Path, legacy: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    refusal = r"evil.pth: not a torch checkpoint of plain tensors \(it holds \S+, which would run code\): load it where"
    torch.save({"state_dict": STATE, "meta": Malicious(trace)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=refusal) as error:
        read_checkpoint(path)
    assert "weights_only" not in str(error.value)
    path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    with pytest.raises(ValueError, match="not a "):
        read_checkpoint(path)
    assert not trace.exists()


def test_stand_ins_do_nothing(tmp_path: Path) -> None:
    """`getattr` is read, as in mmengine's files, but what stands in for it gives nothing that could be called."""

    class Get:
        def __reduce__(self) -> tuple[Any, ...]:
            return (getattr, ("text", "upper"))

        def __call__(self) -> None: ...

    class Call(Get):
        def __reduce__(self) -> tuple[Any, ...]:
            return (Get(), ())

    path = tmp_path / "evil.pth"
    torch.save({"state_dict": STATE, "meta": Get()}, path)
    assert same(read_checkpoint(path).tensors)
    torch.save({"state_dict": {"layer1.x": Get()}}, path)
    with pytest.raises(ValueError, match="holds no state dict of tensors"):
        read_checkpoint(path)
    torch.save({"state_dict": STATE, "meta": Call()}, path)
    with pytest.raises(ValueError, match=r"not a readable torch checkpoint .*call reduce for unrecognized function"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"layer1.x": 3}, {3: torch.zeros(2)}, {"state_dict": None}])
def test_nothing_of_use(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: holds no state dict of tensors: save model\.state_dict\(\)"):
        read_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>\n<html>", b"\x80\x02", b"\x80\x02X\x02", b"PK\x03\x04", b"c\x89.", b"R.", bytes(64)],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "resnet18.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"resnet18.pth: not a readable torch checkpoint \(.+\): write or download it"):
        read_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_cut_short(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "short.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in range(1, len(whole), 50):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"short\.pth: not a "):
            read_checkpoint(path)


def test_safetensors_that_are_none(small: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.safetensors: no such file"):
        read_checkpoint(tmp_path / "nowhere.safetensors")
    path = tmp_path / "damaged.safetensors"
    named(small, path)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match=r"damaged.safetensors: not a whole safetensors file"):
        read_checkpoint(path)
    for config, reason in {'{"num_classes": 0}': "num_classes: 0 is too small", "{": "Expecting", "[3]": "3"}.items():
        save_file(STATE, path, metadata={"encnet.config": config})
        with pytest.raises(
            ValueError, match=rf"encnet.config in its header is not a ModelConfig \({reason}.*: write it"
        ):
            read_checkpoint(path)


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, notes what it is asked for, and cuts short what is named so."""

    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if not self.path.startswith("/cut"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"PK\x03\x04")


class Site:
    """A web server: its address, the folder that it serves, the paths it was asked for, and an empty hub cache."""

    def __init__(self, address: str, folder: Path, asked: list[str], cache: Path) -> None:
        self.address, self.folder, self.asked, self.cache = address, folder, asked, cache


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "site"
    folder.mkdir()
    asked: list[str] = []
    handler = cast(Callable[..., Any], type("Noting", (Handler,), {"asked": asked}))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield Site(address, folder, asked, tmp_path / "home" / "hub" / "checkpoints")
        server.shutdown()
        thread.join()


def named(config: ModelConfig, path: Path) -> None:
    """Write a file that tells its config and is small."""
    save_file({"backbone.layer1.x": torch.zeros(1)}, path, metadata={"encnet.config": json.dumps(asdict(config))})


def test_an_address_is_fetched_once(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save(STATE, site.folder / "resnet18-0676ba61.pth")
    address = f"{site.address}/resnet18-0676ba61.pth"
    assert same(read_checkpoint(address, progress=False).tensors)
    assert capfd.readouterr() == ("", "")
    assert same(read_checkpoint(address).tensors)
    assert site.asked == ["/resnet18-0676ba61.pth"]
    assert len(list(site.cache.iterdir())) == 1


def test_a_name_with_a_digest_is_not_one_file_everywhere(site: Site) -> None:
    """Nor what torchvision would find in the cache: what the first address held could be anything."""
    for number, folder in enumerate(("one", "other")):
        (site.folder / folder).mkdir()
        torch.save({"layer1.x": torch.full((2,), float(number))}, site.folder / folder / "resnet18-f37072fd.pth")
    for number, folder in enumerate(("one", "other")):
        tensors = read_checkpoint(f"{site.address}/{folder}/resnet18-f37072fd.pth", progress=False).tensors
        assert tensors["layer1.x"].tolist() == [number, number]
    assert not (site.cache / "resnet18-f37072fd.pth").exists()


def test_shows_the_progress_unless_told_not_to(
    site: Site, small: ModelConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    named(small, site.folder / "model.safetensors")
    assert read_config(f"{site.address}/model.safetensors?download=true") == small
    assert re.search(r"100(\.0)?%", capfd.readouterr().err)
    with pytest.raises(ValueError, match=r"model\.safetensors: does not fit the model: \d+ missing"):
        load_weights(build_model(small), f"{site.address}/model.safetensors", progress=False)
    with pytest.raises(ValueError, match="does not fit the model"):
        load_model(f"{site.address}/model.safetensors", progress=False)
    assert capfd.readouterr() == ("", "")


def test_two_addresses_may_end_alike(small: ModelConfig, site: Site) -> None:
    for num_classes in (3, 4):
        config = replace(small, num_classes=num_classes)
        (site.folder / str(num_classes)).mkdir()
        named(config, site.folder / str(num_classes) / "best.safetensors")
        assert read_config(f"{site.address}/{num_classes}/best.safetensors", progress=False) == config


def test_addresses_that_give_nothing(site: Site) -> None:
    with pytest.raises(
        ValueError, match=rf"{site.address}/none\.pth: cannot be downloaded \(HTTP Error 404: .*\): check"
    ):
        read_checkpoint(f"{site.address}/none.pth", progress=False)
    with pytest.raises(
        ValueError, match=r"127\.0\.0\.1:1/x\.pth: cannot be downloaded \(.*refused.*\): check the addr"
    ):
        read_checkpoint("http://127.0.0.1:1/x.pth", progress=False)
    with pytest.raises(ValueError, match="not a readable torch checkpoint"):
        read_checkpoint(f"{site.address}/cut.pth", progress=False)
    assert list(site.cache.iterdir()) == []
