"""Weights to files and back, other code bases' checkpoints, and files that don't fit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from encnet import ModelConfig, SegmentationNet, build_model, load_model, load_weights, read_config, save_weights
from encnet.weights import Part
from tests.unit.encnet.foreign import MMSegmentation, PyTorchEncoding, TorchvisionFCN, randomise

PYTORCH_ENCODING = ModelConfig(
    num_classes=5,
    backbone="resnet18",
    stem="deep128",
    head_channels=8,
    num_codes=4,
    lateral=True,
    align_corners=True,
)
MMSEGMENTATION = replace(PYTORCH_ENCODING, stem="deep64", align_corners=False)


@pytest.fixture
def saved(small: ModelConfig, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_weights(build_model(small), small, path, {"step": "7"})
    return path


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """A network by each of the other code bases, with weights of no symmetry."""
    torch.manual_seed(1)
    found = {"PyTorch-Encoding": PyTorchEncoding(5, 8, 4).eval(), "mmsegmentation": MMSegmentation(5, 8, 4).eval()}
    for network in found.values():
        randomise(network)
    return found


@pytest.fixture(scope="module")
def theirs(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Their checkpoints."""
    folder = tmp_path_factory.mktemp("theirs")
    paths = {name: folder / f"{name}.pth" for name in networks}
    for name, network in networks.items():
        torch.save({"state_dict": network.state_dict()}, paths[name])
    return paths


@pytest.fixture
def pytorch_encoding(theirs: dict[str, Path]) -> Path:
    return theirs["PyTorch-Encoding"]


def empty(config: ModelConfig) -> SegmentationNet:
    """A model to fail to load into: without memory, and built in no time."""
    with torch.device("meta"):
        return build_model(config)


def same(ours: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_round_trip(small: ModelConfig, tmp_path: Path) -> None:
    model = build_model(small).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model(torch.randn(2, 3, 64, 64))
    path = tmp_path / "model.safetensors"
    save_weights(model, small, path, {"step": "7"})
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    again, config = load_model(path)
    assert config == small == read_config(path)
    assert not again.training
    assert same(again, model.state_dict())
    images = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(again(images).logits, model.eval()(images).logits)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_header_tells_what_it_is(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["step"] == "7"
    assert '"backbone": "resnet18"' in metadata["encnet.config"]


def test_load_weights_of_ours(small: ModelConfig, saved: Path) -> None:
    model = build_model(small)
    load_weights(model, saved)
    assert same(model, load_model(saved)[0].state_dict())


@pytest.mark.parametrize(
    ("name", "config"), [("PyTorch-Encoding", PYTORCH_ENCODING), ("mmsegmentation", MMSEGMENTATION)]
)
def test_computes_what_the_other_code_base_computes(
    networks: dict[str, nn.Module], theirs: dict[str, Path], name: str, config: ModelConfig
) -> None:
    built, read = load_model(theirs[name])
    assert read == config == read_config(theirs[name])
    model = build_model(config).eval()
    load_weights(model, theirs[name])
    images = torch.randn(2, 3, 48, 57, dtype=torch.float64)
    logits, aux, se = deepcopy(networks[name]).double()(images)
    for ours in (built, model):
        output = ours.double()(images, auxiliary=True)
        torch.testing.assert_close(output.logits, logits)
        torch.testing.assert_close(output.aux_logits, aux)
        torch.testing.assert_close(output.se_logits, se)


def test_computes_what_torchvision_s_fcn_computes(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = TorchvisionFCN(5, 8).eval()
    randomise(network)
    torch.save(network.state_dict(), tmp_path / "fcn.pth")
    model, config = load_model(tmp_path / "fcn.pth")
    assert config == ModelConfig(num_classes=5, arch="fcn", backbone="resnet18", head_channels=8)
    images = torch.randn(2, 3, 48, 57, dtype=torch.float64)
    logits, aux = network.double()(images)
    output = model.double()(images, auxiliary=True)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.aux_logits, aux)


@pytest.mark.parametrize("name", ["PyTorch-Encoding", "mmsegmentation"])
def test_counts_of_batches_may_be_missing(networks: dict[str, nn.Module], tmp_path: Path, name: str) -> None:
    state = {key: value for key, value in networks[name].state_dict().items() if "num_batches_tracked" not in key}
    torch.save(state, tmp_path / "old.pth")
    model, config = load_model(tmp_path / "old.pth")
    assert model.backbone.bn1.num_batches_tracked is not None
    assert model.backbone.bn1.num_batches_tracked.item() == 0
    other = build_model(config)
    load_weights(other, tmp_path / "old.pth")
    assert same(other, model.state_dict())


def test_a_config_inside_tells_of_align_corners(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    """mmsegmentation's recipes at 769 x 769 have it."""
    meta = {"config": "model = dict(decode_head=dict(align_corners=True))"}
    torch.save({"meta": meta, "state_dict": networks["mmsegmentation"].state_dict()}, tmp_path / "769.pth")
    assert read_config(tmp_path / "769.pth") == replace(MMSEGMENTATION, align_corners=True)


def test_safetensors_of_another_code_base(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file(networks["mmsegmentation"].state_dict(), path)
    assert read_config(path) == MMSEGMENTATION


@pytest.mark.parametrize("arch", ["fcn", "encnet"])
def test_heads_without_the_options(tmp_path: Path, arch: str) -> None:
    """PyTorch-Encoding's FCN, and its EncNet without SE branch and auxiliary head."""
    network = PyTorchEncoding(5, 8, 4)
    options = [
        "auxlayer",
        "head.connect",
        "head.fusion",
        "head.encmodule" if arch == "fcn" else "head.encmodule.selayer",
    ]
    state = {key: value for key, value in network.state_dict().items() if not key.startswith(tuple(options))}
    if arch == "fcn":
        state = {key.replace("head.conv6.1.", "head.conv5.4."): value for key, value in state.items()}
    torch.save(state, tmp_path / "small.pth")
    model, config = load_model(tmp_path / "small.pth")
    expected = replace(PYTORCH_ENCODING, lateral=False, aux=False)
    expected = replace(expected, arch="fcn", num_codes=32) if arch == "fcn" else replace(expected, se_loss=False)
    assert config == expected
    assert torch.equal(model.head.classifier.weight, network.state_dict()["head.conv6.1.weight"])


@pytest.mark.parametrize("jpu", [False, True])
def test_adopts_align_corners_and_says_so(
    theirs: dict[str, Path], small: ModelConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, jpu: bool
) -> None:
    """The same outputs as a model that was built with it, the resizes inside the network included."""
    if jpu:
        path, config = tmp_path / "jpu.safetensors", replace(small, output_stride=8, jpu=True)
        save_weights(build_model(config), config, path)
    else:
        path, config = theirs["mmsegmentation"], replace(MMSEGMENTATION, output_stride=16)
    model = build_model(replace(config, align_corners=True))
    with caplog.at_level(logging.INFO, logger="encnet"):
        load_weights(model, path)
    assert caplog.messages == [f"{path}: its model has align_corners=False, set on this one"]
    assert model.config == config
    straight = build_model(config)
    load_weights(straight, path)
    assert len(caplog.messages) == 1
    images = torch.randn(1, 3, 64, 80)
    assert torch.equal(model.eval()(images).logits, straight.eval()(images).logits)


def test_a_part_leaves_align_corners_alone(pytorch_encoding: Path) -> None:
    parts: tuple[Part, ...] = ("backbone", "all-but-classifiers")
    for part in parts:
        model = build_model(replace(PYTORCH_ENCODING, align_corners=False))
        load_weights(model, pytorch_encoding, part=part)
        assert not model.config.align_corners


def test_backbone_alone_fits_another_head(small: ModelConfig, saved: Path) -> None:
    model = build_model(replace(small, num_classes=9))
    head = model.head.classifier.weight.clone()
    load_weights(model, saved, part="backbone")
    assert same(model.backbone, load_model(saved)[0].backbone.state_dict())
    assert torch.equal(model.head.classifier.weight, head)


def test_all_but_classifiers_fits_other_classes(pytorch_encoding: Path) -> None:
    model = build_model(replace(PYTORCH_ENCODING, num_classes=9))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_weights(model, pytorch_encoding, part="all-but-classifiers")
    loaded = load_model(pytorch_encoding)[0].state_dict()
    kept = {"head.classifier", "aux_head.classifier", "head.context.se"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name.rpartition(".")[0] in kept else loaded[name])


@pytest.mark.parametrize(("stem", "wrapped"), [("plain", False), ("deep64", True), ("deep128", False)])
def test_imagenet_backbones(small: ModelConfig, tmp_path: Path, stem: Any, wrapped: bool) -> None:
    """torchvision's names, older files without num_batches_tracked; the others' deep stems: `conv1.0`, `stem.0`."""
    config = replace(small, stem=stem)
    source = {
        name: tensor
        for name, tensor in build_model(config).backbone.state_dict().items()
        if "num_batches_tracked" not in name
    }
    file = {**source, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    if stem == "deep64":
        file = {name.replace("conv1.", "stem.", name.startswith("conv1.")): value for name, value in file.items()}
        file = {f"stem.7{name[3:]}" if name.startswith("bn1.") else name: value for name, value in file.items()}
    path = tmp_path / "resnet18.pth"
    prefixed: dict[str, Any] = {f"module.{name}": tensor for name, tensor in file.items()}
    torch.save({"epoch": 3, "state_dict": prefixed} if wrapped else file, path)
    model = build_model(config)
    load_weights(model, path, part="backbone")
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in source.items())
    remedy = r"load part='backbone', which is all that can be used of it"
    with pytest.raises(ValueError, match=rf"missing: head\.bottleneck\.conv\.weight.*\.\.\.: {remedy}$"):
        load_weights(model, path)
    other = empty(replace(config, stem="deep64" if stem == "plain" else "plain"))
    with pytest.raises(ValueError, match=rf"build the model with stem='{stem}' and {remedy}"):
        load_weights(other, path)
    with pytest.raises(ValueError, match=rf"missing: .*left over: .*: build the model with stem='{stem}'$"):
        load_weights(other, path, part="backbone")
    with pytest.raises(ValueError, match=r"resnet18.pth: holds no whole model: build one, and load_weights\(\.\.\., p"):
        load_model(path)


@pytest.mark.parametrize(
    ("fields", "fault", "remedy"),
    [
        ({"stem": "plain"}, "left over: pretrained.conv1.0.weight, ", "build the model with stem='deep128'"),
        (
            {"stem": "plain", "align_corners": False, "dropout": 0.2},
            "missing: backbone.conv1.weight",
            "build the model with stem='deep128'",
        ),
        ({"stem": "deep64"}, "backbone.conv1.0.weight (64, 3, 3, 3) for (32,", "build the model with stem='deep128'"),
        ({"backbone": "resnet34"}, "missing: backbone.layer1.2.conv1.", "build the model with backbone='resnet18'"),
        ({"lateral": False}, "18 left over: head.connect.0.0.weight", "build the model with lateral=True"),
        ({"num_codes": 6}, "head.context.encoding.scale (4,) for (6,)", "build the model with num_codes=4"),
        ({"head_channels": 16}, "head.bottleneck.conv.weight (8, 512, 3,", "build the model with head_channels=8"),
        ({"se_loss": False}, "2 left over: head.encmodule.selayer.weight", "build the model with se_loss=True"),
        ({"aux": False}, "left over: auxlayer.conv5.0.weight, ", "build the model with aux=True"),
        ({"aux_context": True}, "missing: aux_head.context.project.", "build the model with aux_context=False"),
        ({"arch": "fcn"}, "left over: head.encmodule.encoding.0.weight", "build the model with arch='encnet'"),
        ({"jpu": True}, "missing: jpu.project.0.conv.weight", "build the model with jpu=False"),
        (
            {"num_classes": 9},
            "6 mis-shaped: head.context.se.weight (5, 8) for (9, 8)",
            "build the model with num_classes=5, or load part='all-but-classifiers'",
        ),
        (
            {"num_classes": 9, "se_loss": False},
            "head.classifier.bias (5,) for (9,)",
            "build the model with num_classes=5, se_loss=True, or load part='all-but-classifiers'",
        ),
        (
            {"cem_residual": False},
            "its tensors do, but its context module computes otherwise",
            "build the model with cem_residual=True",
        ),
        (
            {"cem_reduction": "sum", "num_codes": 6},
            "(4,) for (6,)",
            "build the model with num_codes=4, cem_reduction='mean'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_names_the_option_that_makes_it_fit(
    pytorch_encoding: Path, fields: dict[str, Any], fault: str, remedy: str
) -> None:
    with pytest.raises(ValueError, match="does not fit the model: ") as error:
        load_weights(empty(replace(PYTORCH_ENCODING, **fields)), pytorch_encoding)
    message = str(error.value)
    assert message.startswith(f"{pytorch_encoding}: ")
    assert fault in message
    assert message.endswith(f": {remedy}")
    assert "\n" not in message


def test_a_misfit_changes_nothing(small: ModelConfig, saved: Path) -> None:
    model = build_model(replace(small, num_classes=9, aux=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"8 left over: aux_head\..*4 mis-shaped: head\..* head\.context\.se\.weight \(5, 16\) f"
    ):
        load_weights(model, saved)
    assert same(model, before)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.to_sparse(),
        lambda weight: (weight * 9).to(torch.int8),
        lambda weight: weight.to(torch.complex64),
        lambda weight: weight.to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "int8", "complex", "float8"],
)
def test_tensors_of_other_kinds_are_refused(
    small: ModelConfig, tmp_path: Path, change: Callable[[Tensor], Tensor]
) -> None:
    model = build_model(small)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    state["head.classifier.weight"] = change(state["head.classifier.weight"])
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"1 sparse, quantised or of another kind of number: head\.classifier\.weight"):
        load_weights(model, tmp_path / "other.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_mixed_precisions_become_float32(saved: Path, tmp_path: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = file.metadata()
    tensors["head.classifier.weight"] = tensors["head.classifier.weight"].double()
    save_file(tensors, tmp_path / "mixed.safetensors", metadata=header)
    model, _ = load_model(tmp_path / "mixed.safetensors")
    expected, _ = load_model(saved)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x).logits, expected(x).logits)


def test_what_no_tensor_shows_may_differ(saved: Path, small: ModelConfig) -> None:
    """These are choices of the training or of the user; an fcn has no context module."""
    free = replace(small, output_stride=8, input_scale=0.5, dropout=0.3)
    load_weights(build_model(free), saved)
    with pytest.raises(ValueError, match=r": build the model with num_codes=4$"):
        load_weights(empty(replace(free, num_codes=6)), saved)
    fcn = replace(small, arch="fcn")
    save_weights(build_model(fcn), fcn, saved)
    load_weights(build_model(replace(fcn, cem_residual=False)), saved)
    load_weights(build_model(replace(small, cem_residual=False)), saved, part="backbone")


def test_remedies_keep_to_the_part(pytorch_encoding: Path) -> None:
    model = empty(replace(PYTORCH_ENCODING, num_classes=9, num_codes=6, stem="plain"))
    with pytest.raises(ValueError, match=r"build the model with stem='deep128'$"):
        load_weights(model, pytorch_encoding, part="backbone")
    with pytest.raises(ValueError, match=r"build the model with stem='deep128', num_codes=4$"):
        load_weights(model, pytorch_encoding, part="all-but-classifiers")


def test_says_where_no_option_helps(networks: dict[str, nn.Module], tmp_path: Path) -> None:
    """An FCN of mmsegmentation with a second convolution, and the widths of a ResNeXt."""
    state = networks["mmsegmentation"].state_dict()
    path = tmp_path / "theirs.pth"
    torch.save({**state, "decode_head.convs.1.conv.weight": torch.zeros(8, 8, 3, 3)}, path)
    message = (
        r"does not fit the model: 1 left over: decode_head\.convs\.1\.conv\.weight: "
        "no option of the model makes it fit: load part='backbone' if that helps"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(empty(MMSEGMENTATION), path)
    with pytest.raises(ValueError, match=message):
        load_model(path)
    torch.save({**state, "backbone.layer1.0.conv2.weight": torch.zeros(64, 2, 3, 3)}, path)
    message = r"1 mis-shaped: .*\(64, 2, 3, 3\) for \(64, 64, 3, 3\): no option .* give a checkpoint of resnet18, "
    with pytest.raises(ValueError, match=message):
        load_weights(empty(MMSEGMENTATION), path, part="backbone")


def test_tells_when_a_config_cannot_be_read_off(
    networks: dict[str, nn.Module], small: ModelConfig, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.pth"
    state = networks["mmsegmentation"].state_dict()
    torch.save({key: value for key, value in state.items() if ".layer2.1." not in key}, path)
    with pytest.raises(ValueError, match=r"its backbone is none of resnet18, .*: give a checkpoint of one of these"):
        read_config(path)
    torch.save({key: value for key, value in state.items() if not key.startswith("backbone.stem.3")}, path)
    with pytest.raises(ValueError, match="its stem is none of plain, deep64, deep128: give"):
        read_config(path)
    torch.save({**state, "decode_head.conv_seg.weight": torch.zeros(0, 8, 1, 1)}, path)
    with pytest.raises(ValueError, match=r"theirs\.pth: num_classes: 0 is too small"):
        read_config(path)
    torch.save(build_model(small).state_dict(), path)
    with pytest.raises(ValueError, match=r"no encnet\.config in its header: build the model yourself"):
        load_model(path)


def test_wants_the_model_itself(small: ModelConfig, saved: Path) -> None:
    model = empty(small)
    with pytest.raises(ValueError, match="model: a Sequential is not what build_model returned: give the model inside"):
        load_weights(nn.Sequential(model), saved)


def test_says_what_is_wrong(small: ModelConfig, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="part: 'head' is not a choice: choose from all, all-but-classifiers, backbone"
    ):
        load_weights(empty(small), saved, part=cast(Part, "head"))
    other = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, other)
    known = "mmsegmentation, PyTorch-Encoding, torchvision, encnet"
    with pytest.raises(ValueError, match=f"keys such as encoder.weight are of no known layout: give one of {known}"):
        load_weights(empty(small), other)


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    before = torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), before)
