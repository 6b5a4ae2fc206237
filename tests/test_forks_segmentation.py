"""Segmentation's layers where no golden case is: gradients, statistics, weights, errors."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from field_checks import open_layer
from field_rows import net_text
from fork_fields.label_maps import SETTINGS, write_pairs
from fork_fields.segmentation import unpool
from test_forks_small import build, leaves, run

from converters import load_net, save_caffemodel
from converters.errors import DataError, NetError
from converters.layers.forks.arithmetic.unpooling import Unpool, last_of_each
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.prototxt.text import parse_net

MAPS = (3, 2, 4, 5)


@pytest.mark.parametrize("mode", ["LEARN", "INFERENCE"])
def test_segnets_bn_has_the_derivative(mode: str) -> None:
    net = build("BN of SegNet", f"bn_param {{ bn_mode: {mode} }}", (MAPS,))
    (x,) = leaves(MAPS)
    scale, shift = net.params["layer"]
    assert torch.autograd.gradcheck(lambda x, *_: run(net, x)["t0"], (x, scale, shift))


def test_bn_keeps_the_biased_variance() -> None:
    net = build("BN", "bn_param { momentum: 0.75 }", (MAPS,))
    before = [blob.detach().clone() for blob in net.params["layer"]]
    (x,) = leaves(MAPS)
    run(net, x)
    values = x.detach().transpose(0, 1).flatten(1)
    for place, batch in ((2, values.mean(1)), (3, values.var(1, unbiased=False))):
        wanted = 0.75 * before[place].view(-1) + 0.25 * batch
        torch.testing.assert_close(net.params["layer"][place].view(-1), wanted)


@pytest.mark.parametrize("kind", ["BN", "BN of SegNet"])
def test_a_batch_of_one_value_a_channel_is_the_bias(kind: str) -> None:
    net = build(kind, "", ((1, 4, 1, 1),))
    (x,) = leaves((1, 4, 1, 1))
    y = run(net, x)["t0"]
    torch.testing.assert_close(y.view(-1), net.params["layer"][1].view(-1))


def multipliers(settings: str) -> list[tuple[float, float]]:
    message = parse_net(net_text("BN", settings, (MAPS,)), "net.prototxt")
    plan = plan_net(NetChoice("net.prototxt", message, "TRAIN"))
    return [(entry.lr_mult, entry.decay_mult) for entry in plan.learnables]


def test_bn_takes_the_rates_from_what_is_not_trained() -> None:
    given = "param { lr_mult: 2 decay_mult: 3 }" * 4
    assert multipliers("") == [(1, 1), (1, 1), (0, 0), (0, 0)]
    assert multipliers(given) == [(2, 3), (2, 3), (0, 0), (0, 0)]
    assert multipliers(f"{given} bn_param {{ frozen: true }}") == [(0, 0)] * 4


def saved(folder: Path, kind: str) -> tuple[Path, Path]:
    """A net file of type BN without settings, and weights of that meaning of it."""
    text = net_text("BN", "", (MAPS,))
    (folder / "net.prototxt").write_text(text)
    (folder / "other.prototxt").write_text(text.replace('"BN"', f'"{kind}"'))
    net = load_net(folder / "other.prototxt", phase="TEST")
    for index, blob in enumerate(net.params["layer"]):
        torch.nn.init.uniform_(blob, index, index + 1)
    save_caffemodel(net, folder / "w.caffemodel")
    return folder / "net.prototxt", folder / "w.caffemodel"


@pytest.mark.parametrize(("kind", "blobs"), [("BN of PSPNet and TSN", 4), ("BN of SegNet", 2)])
def test_the_weights_tell_which_bn_it_is(
    kind: str, blobs: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net_file, weights = saved(tmp_path, kind if blobs == 2 else "BN")
    with caplog.at_level(logging.WARNING):
        net = load_net(net_file, phase="TEST", weights=weights)
    assert len(net.params["layer"]) == blobs
    assert f"type BN is that of {kind.removeprefix('BN of ')} (by its blobs" in caplog.text


def test_tsns_blobs_load(tmp_path: Path) -> None:
    """They have two axes."""
    from converters.proto import caffe_pb2 as pb

    net_file, weights = saved(tmp_path, "BN")
    message = pb.NetParameter.FromString(weights.read_bytes())
    wanted = []
    for blob in message.layer[-1].blobs:
        wanted.append(list(blob.data))
        assert list(blob.shape.dim) == [1, 2, 1, 1]
        del blob.shape.dim[2:]
    weights.write_bytes(message.SerializeToString())
    net = load_net(net_file, phase="TEST", weights=weights)
    assert [blob.flatten().tolist() for blob in net.params["layer"]] == wanted


def test_unpooling_gives_each_value_the_gradient_of_its_place() -> None:
    """The places that several values share too, where the last one's value is."""
    net = build("Upsample", "upsample_param { scale: 2 }", (MAPS, MAPS))
    (x,) = leaves(MAPS)
    mask = torch.randint(0, 80, MAPS, generator=torch.Generator().manual_seed(1)).double()
    y = run(net, x, mask)["t0"]
    (wanted,) = unpool([x.detach().numpy(), mask.numpy()], 8, 10)
    np.testing.assert_array_equal(y.detach(), wanted)
    dy = torch.randn_like(y)
    (y * dy).sum().backward()
    torch.testing.assert_close(x.grad, dy.flatten(2).gather(2, mask.flatten(2).long()).view(MAPS))


def test_the_last_of_many_values_of_one_place_is_taken() -> None:
    """In rows long enough that torch works on them in several threads, and as other devices do."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 90_000, generator=random)
    index = torch.randint(0, 500, x.shape, generator=random)
    found = Unpool.apply(x, index, 600)
    wanted = np.zeros((2, 3, 600), np.float32)
    for n, c in np.ndindex(2, 3):
        wanted[n, c, index[n, c].numpy()] = x[n, c].numpy()
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(last_of_each(x, index, 600), wanted)


@pytest.mark.parametrize("place", [-1, 80])
def test_a_place_outside_the_top_is_an_error(place: int) -> None:
    net = build("Upsample", "upsample_param { scale: 2 }", (MAPS, MAPS))
    (x,) = leaves(MAPS)
    with pytest.raises(NetError, match=f'index {place} in "b1" lies outside 8 × 10'):
        run(net, x, torch.full(MAPS, float(place), dtype=torch.float64))


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("Upsample", "scale_h: 2", "scale_h and scale_w"),
        ("Upsample", "scale: 2 scale_h: 2 scale_w: 2", "scale_h and scale_w"),
        ("Upsample", "scale: 3 pad_out_w: true", "pad_out_w needs a scale of 2, not 3"),
        ("Upsample", "upsample_h: 1 upsample_w: 9", "2 or more"),
        ("Interp", "", "needs height and width"),
        ("Interp", "height: 3", "needs height and width"),
        ("Interp", "pad_beg: 1 zoom_factor: 2", "pad_beg 1 must be 0 or below"),
        ("Interp", "pad_beg: -4 zoom_factor: 2", "nothing is left"),
        ("Interp", "zoom_factor: 0", "zoom_factor 0 must be positive"),
    ],
)
def test_settings_that_the_forks_refuse(kind: str, settings: str, says: str) -> None:
    bottoms = (MAPS,) * (2 if kind == "Upsample" else 1)
    with pytest.raises(NetError, match=says):
        build(kind, f"{kind.lower()}_param {{ {settings} }}", bottoms)


def test_the_number_of_bottoms_tells_which_upsample_it_is() -> None:
    x, y = leaves(MAPS, MAPS)
    repeated = run(build("Upsample", "", (MAPS,)), x)["t0"]
    torch.testing.assert_close(repeated, x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    put_back = run(build("Upsample", "", (MAPS, MAPS)), x, torch.zeros_like(y))["t0"]
    assert int(put_back.count_nonzero()) == 6


def test_interp_and_its_crop_have_the_derivative() -> None:
    net = build("Interp", "interp_param { height: 5 width: 3 pad_beg: -1 pad_end: -1 }", (MAPS,))
    (x,) = leaves(MAPS)
    assert torch.autograd.gradcheck(lambda x: run(net, x)["t0"], (x,))


def test_seg_accuracy_of_nothing() -> None:
    """Every pixel left out: no accuracy, and an overlap of 1 for classes that nothing has."""
    net = build("SegAccuracy", "seg_accuracy_param { ignore_label: 255 }", (MAPS, (3, 1, 4, 5)))
    (x,) = leaves(MAPS)
    top = run(net, x, torch.full((3, 1, 4, 5), 255.0, dtype=torch.float64))["t0"]
    assert top.flatten().tolist() == [0, 0, 1]
    with pytest.raises(NetError, match="label 2 in"):
        run(net, x, torch.full((3, 1, 4, 5), 2.0, dtype=torch.float64))


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_restored_reader_goes_on(kind: str, tmp_path: Path) -> None:
    """With its shuffling, its crops and its mirroring."""
    write_pairs(tmp_path, 5)
    crop = {"DenseImageData": "crop_height: 3 crop_width: 4 mirror: true"}.get(kind, "")
    pixel = "label_type: PIXEL" if kind == "ImageSegData" else ""
    transform = "" if crop else "crop_size: 3 mirror: true"
    settings = (
        f'{SETTINGS[kind]} {{ source: "list.txt" batch_size: 2 shuffle: true {crop} {pixel} }} '
        f"transform_param {{ {transform} }}"
    )
    first, second = (open_layer(kind, settings, tmp_path, "TRAIN") for _ in range(2))
    for _ in range(3):
        first.next()
    second.restore(first.state())
    for _ in range(4):
        one, other = first.next(), second.next()
        for name in ("data", "label"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("kind", SETTINGS)
def test_files_that_are_absent_are_named(kind: str, tmp_path: Path) -> None:
    write_pairs(tmp_path, 3)
    (tmp_path / "1-labels.png").unlink()
    pixel = "label_type: PIXEL" if kind == "ImageSegData" else ""
    settings = f'{SETTINGS[kind]} {{ source: "list.txt" batch_size: 2 {pixel} }}'
    reader = open_layer(kind, settings, tmp_path)
    with pytest.raises(DataError, match=r"1 of the 6 files.*1-labels.png"):
        reader.check()
    with pytest.raises(DataError, match=r"1-labels.png cannot be read"):
        reader.next()
    if kind != "ImageSegData":
        (tmp_path / "list.txt").write_text("0.png 0-labels.png 1.png\n")
        with pytest.raises(DataError, match=r"1\.png has no file of labels"):
            open_layer(kind, settings, tmp_path)
