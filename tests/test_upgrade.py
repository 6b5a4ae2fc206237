"""`converters.prototxt.upgrade` against Caffe's own upgrades (golden/upgrade) and its refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import PrototxtError
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net, parse_text, read_net, read_solver
from converters.prototxt.upgrade import V0_TYPES, V1_TYPES, upgrade_net, upgrade_solver

GOLDEN = Path(__file__).parent / "golden" / "upgrade"


def test_an_absent_file_is_told_though_out_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").write_text("kept")
    words = ["upgrade", str(tmp_path / "old"), str(tmp_path / "new")]
    assert run_subcommand("converters", "", COMMANDS, words) == 1
    assert (
        capsys.readouterr().err == f"error: {words[1]}: cannot be read: No such file or directory\n"
    )
    assert (tmp_path / "new").read_text() == "kept"


@pytest.mark.parametrize("name", ["v0", "v1", "legacy_transform"])
def test_nets_upgrade_as_caffe_upgrades_them(name: str) -> None:
    expected = pb.NetParameter()
    path = GOLDEN / f"{name}.upgraded.prototxt"
    parse_text(path.read_text(), expected, str(path))
    assert read_net(GOLDEN / f"{name}.prototxt") == expected
    assert read_net(path) == expected  # upgrading is idempotent


def test_solver_upgrades_as_caffe_upgrades_it() -> None:
    path = GOLDEN / "solver_enum.upgraded.prototxt"
    expected = parse_text(path.read_text(), pb.SolverParameter(), str(path))
    assert read_solver(GOLDEN / "solver_enum.prototxt") == expected


def test_every_old_type_is_known() -> None:
    assert set(V1_TYPES) == set(pb.V1LayerParameter.LayerType.keys())
    assert {old.v1 for old in V0_TYPES.values()} <= set(V1_TYPES)
    settings = {old.settings for old in V0_TYPES.values() if old.settings}
    assert settings <= set(pb.V1LayerParameter.DESCRIPTOR.fields_by_name)


V0_CASES = [
    # (V0 layer, the V2 layer Caffe makes of it)
    (
        'type: "pool" pool: AVE kernelsize: 3 stride: 2 pad: 1',
        'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }',
    ),
    (
        'type: "images" source: "l.txt" batchsize: 2 shuffle_images: true new_height: 5 '
        "new_width: 6 rand_skip: 7 cropsize: 4",
        'type: "ImageData" transform_param { crop_size: 4 } image_data_param { source: "l.txt" '
        "batch_size: 2 shuffle: true new_height: 5 new_width: 6 rand_skip: 7 }",
    ),
    (
        'type: "window_data" source: "w" batchsize: 3 det_fg_threshold: 0.6 det_bg_threshold: 0.4 '
        'det_fg_fraction: 0.3 det_context_pad: 2 det_crop_mode: "square" mirror: true',
        'type: "WindowData" transform_param { mirror: true } window_data_param { source: "w" '
        "batch_size: 3 fg_threshold: 0.6 bg_threshold: 0.4 fg_fraction: 0.3 context_pad: 2 "
        'crop_mode: "square" }',
    ),
    ('type: "concat" concat_dim: 2', 'type: "Concat" concat_param { concat_dim: 2 }'),
    ('type: "lrn" k: 2', 'type: "LRN" lrn_param { k: 2 }'),
    (
        'type: "infogain_loss" source: "h"',
        'type: "InfogainLoss" infogain_loss_param { source: "h"}',
    ),
    (
        'type: "hdf5_output" hdf5_output_param { file_name: "o.h5" }',
        'type: "HDF5Output" hdf5_output_param { file_name: "o.h5" }',
    ),
    # A field that the type has no place for is dropped, as in Caffe.
    ('type: "relu" num_output: 5', 'type: "ReLU"'),
    (
        'type: "softmax" new_num: 5 blobs { num: 1 data: 2 }',
        'type: "Softmax" blobs { num: 1 data: 2 }',
    ),
]


@pytest.mark.parametrize(("old", "new"), V0_CASES)
def test_v0_fields_go_where_caffe_puts_them(old: str, new: str) -> None:
    net = parse_net(f'layers {{ layer {{ name: "x" {old} }} top: "y" }}')
    expected = parse_text(f'layer {{ name: "x" top: "y" {new} }}', pb.NetParameter(), "expected")
    assert net == expected


def test_v0_nets_keep_force_backward_and_their_inputs() -> None:
    """Caffe carries these over and nothing else of a V0 net."""
    inputs = 'name: "n" input: "d" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4'
    v0 = 'layers { layer { name: "x" type: "relu" } bottom: "d" top: "y" }'
    net = parse_net(f"{inputs} force_backward: true debug_info: true {v0}")
    assert (net.name, net.force_backward, net.HasField("debug_info")) == ("n", True, False)
    assert [(layer.name, layer.type) for layer in net.layer] == [("input", "Input"), ("x", "ReLU")]
    assert list(net.layer[0].input_param.shape[0].dim) == [1, 2, 3, 4]
    assert not parse_net(f"{inputs} {v0}").force_backward


def test_v0_padding_reaches_pooling_and_names_what_it_cannot_reach() -> None:
    padding = (
        'input: "d" layers { layer { name: "p" type: "padding" pad: 3 } bottom: "d" top: "q" }'
    )
    pool = 'layers { layer { name: "x" type: "pool" } bottom: "q" top: "y" }'
    (layer,) = parse_net(padding + pool).layer
    assert (list(layer.bottom), layer.pooling_param.pad) == (["d"], 3)
    with pytest.raises(PrototxtError, match=r'f: layer "x": bottom "q".*conv and pool.*relu'):
        parse_net(padding + pool.replace("pool", "relu"), "f")
    with pytest.raises(PrototxtError, match=r'layer "x": bottom "z" is not.*\(d, q\)'):
        parse_net(padding + pool.replace("q", "z"), "f")
    with pytest.raises(PrototxtError, match=r"not \(2, 1, 1\)"):
        parse_net(padding + pool.replace('bottom: "q"', 'bottom: "q" bottom: "d"'), "f")


def test_v1_transform_fields_move_and_leave_both_messages_present() -> None:
    net = parse_net(
        'layers { name: "a" type: DATA top: "a" data_param { source: "s" scale: 2 crop_size: 3 } }'
        'layers { name: "b" type: IMAGE_DATA top: "b" }'
        'layers { name: "c" type: RELU bottom: "b" top: "c" }'
    )
    data, images, relu = net.layer
    assert data.transform_param == pb.TransformationParameter(scale=2, crop_size=3)
    assert data.data_param == pb.DataParameter(source="s")
    assert images.HasField("transform_param") and images.HasField("image_data_param")
    assert not relu.HasField("transform_param")


def test_v1_param_lists_of_unequal_length() -> None:
    (layer,) = parse_net(
        'layers { name: "a" type: INNER_PRODUCT param: "w" blobs_lr: 1 blobs_lr: 2 blobs_lr: 3 '
        "weight_decay: 4 blob_share_mode: STRICT blob_share_mode: PERMISSIVE loss_weight: 5 "
        "include { phase: TEST } }"
    ).layer
    expected = pb.LayerParameter(name="a", type="InnerProduct", loss_weight=[5])
    expected.include.add(phase=pb.TEST)
    expected.param.add(name="w", share_mode=pb.ParamSpec.STRICT, lr_mult=1, decay_mult=4)
    expected.param.add(share_mode=pb.ParamSpec.PERMISSIVE, lr_mult=2)
    expected.param.add(lr_mult=3)
    assert layer == expected


def test_inputs_become_one_input_layer_before_the_others() -> None:
    net = parse_net(
        'input: "a" input: "b" input_shape { dim: 2 } input_shape { dim: 3 dim: 4 } '
        'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }'
    )
    assert [layer.name for layer in net.layer] == ["input", "r"]
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[2], [3, 4]]
    assert not net.input and not net.input_shape
    assert parse_net('name: "n" input: "a"') == pb.NetParameter(name="n")


REFUSED = [
    ('layer { name: "a" } layers { name: "b" }', r'both .layer.*"?a.*layers.*b'),
    ('layers { layer { name: "x" type: "convolve" } }', r'layer "x".*convolve.*known: accuracy'),
    ('input: "a" input: "b" input_shape { dim: 1 }', r"2 inputs \(a, b\) but 1 input_shape"),
    ('input: "a" input_dim: 1 input_dim: 2', r"1 inputs \(a\).*2 input_dim.*four"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals_name_the_file_and_the_cause(text: str, message: str) -> None:
    with pytest.raises(PrototxtError, match=rf"^f\.prototxt: .*{message}"):
        parse_net(text, "f.prototxt")


def test_a_solver_with_both_types_is_refused() -> None:
    solver = pb.SolverParameter(type="Adam", solver_type=pb.SolverParameter.NESTEROV)
    with pytest.raises(PrototxtError, match=r"s: has both type: 'Adam'.*NESTEROV"):
        upgrade_solver(solver, "s")


def test_the_argument_is_left_alone() -> None:
    net = pb.NetParameter(input=["a"], input_dim=[1, 2, 3, 4])
    before = net.SerializeToString()
    upgrade_net(net, "f")
    assert net.SerializeToString() == before


def test_the_command_upgrades_nets_solvers_and_binary_models(tmp_path: Path) -> None:
    out = tmp_path / "new" / "net.prototxt"
    assert main_upgrade(GOLDEN / "v0.prototxt", out) == 0
    assert read_net(out) == read_net(GOLDEN / "v0.upgraded.prototxt")
    assert main_upgrade(GOLDEN / "solver_enum.prototxt", out) == 0
    assert read_solver(out) == read_solver(GOLDEN / "solver_enum.upgraded.prototxt")

    old = pb.NetParameter(name="m", input=["data"])
    old.layers.add(name="c", type=pb.V1LayerParameter.CONVOLUTION).blobs.add(num=1, data=[0.5])
    model = tmp_path / "old.caffemodel"
    model.write_bytes(old.SerializeToString())
    assert main_upgrade(model, tmp_path / "new.caffemodel") == 0
    new = pb.NetParameter.FromString((tmp_path / "new.caffemodel").read_bytes())
    expected = pb.NetParameter(name="m")
    expected.layer.add(name="c", type="Convolution").blobs.add(num=1, data=[0.5])
    assert new == expected


def test_the_command_refuses_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.caffemodel"
    cut.write_bytes(pb.NetParameter(name="\x01" * 40).SerializeToString()[:-3])
    for source in (cut, tmp_path / "absent.prototxt", tmp_path):
        assert main_upgrade(source, tmp_path / "out") == 1
        assert str(source) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def main_upgrade(source: Path, target: Path) -> int:
    commands = {"upgrade": COMMANDS["upgrade"]}
    return run_subcommand("converters", "", commands, ["upgrade", str(source), str(target)])


# The top of fcn-32s as its V1 prototxt has it: 100 of padding, five poolings, a score, 32 times.
FCN = """
input: "data" input_dim: 1 input_dim: 3 input_dim: 40 input_dim: 50
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
  convolution_param { num_output: 2 kernel_size: 3 pad: 100 } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
POOLINGS
layers { name: "fc6" type: CONVOLUTION bottom: "pool5" top: "fc6"
  convolution_param { num_output: 2 kernel_size: 7 } }
layers { name: "drop6" type: DROPOUT bottom: "fc6" top: "fc6" }
layers { name: "up" type: DECONVOLUTION bottom: "fc6" top: "up"
  convolution_param { num_output: 2 kernel_size: 64 stride: 32 } }
layers { name: "crop" type: CROP bottom: "up" bottom: "data" top: "score" }
""".replace(
    "POOLINGS",
    "\n".join(
        f'layers {{ name: "pool{i}" type: POOLING bottom: "{bottom}" top: "pool{i}" '
        "pooling_param { pool: MAX kernel_size: 2 stride: 2 } }"
        for i, bottom in enumerate(["conv1", "pool1", "pool2", "pool3", "pool4"], 1)
    ),
)


def test_a_v1_crop_gets_the_offset_that_aligns_its_bottoms() -> None:
    """fcn-32s: 19, which its authors' later prototxt says itself (voc-fcn32s)."""
    crop = parse_net(FCN).layer[-1]
    assert crop.type == "Crop"
    assert list(crop.crop_param.offset) == [19, 19]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('bottom: "up" bottom: "data"', 'bottom: "up"', "takes 2 bottom blobs, got 1"),
        ("stride: 32", "stride: 16", "cannot be aligned: scale 2"),
        ("pad: 100", "pad: 0", "cannot be aligned: scale 1, offset -81"),
        ("type: DROPOUT", "type: FLATTEN", '"drop6" .Flatten. shifts its values is not known'),
        ('bottom: "up" bottom: "data"', 'bottom: "up" bottom: "other"', "come of no common blob"),
    ],
)
def test_a_v1_crop_that_nothing_aligns_is_named(old: str, new: str, says: str) -> None:
    text = FCN.replace(old, new)
    if "FLATTEN" in new:
        text = text.replace('bottom: "fc6" top: "fc6" }', 'bottom: "fc6" top: "flat" }')
        text = text.replace('bottom: "fc6" top: "up"', 'bottom: "flat" top: "up"')
    with pytest.raises(PrototxtError, match=says) as raised:
        parse_net(text, "net.prototxt")
    assert 'net.prototxt: layer "crop" (CROP)' in str(raised.value)
