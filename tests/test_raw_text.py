"""Prototxts that are not UTF-8: loaded, and their bytes kept, as Caffe keeps them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from test_bad_input import NET, Folder

from converters import load_net
from converters.commands.upgrade import read_upgraded
from converters.errors import PrototxtError, WeightsError
from converters.formats.caffemodel import read_caffemodel
from converters.formats.wire import serialized
from converters.net.saving import save_caffemodel
from converters.prototxt.text import parse_net, read_net, read_text, to_text
from converters.raw_text import decoded, encoded, file_name, storable
from gmnet_pt import Solver

h5py = pytest.importorskip("h5py")

GBK = "卷积".encode("gbk")
LATIN = "größe".encode("latin-1")
NET_TEXT = b"""# %s
name: "%s"
layer { name: "in" type: "Input" top: "%s" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "y"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize("data", [GBK, LATIN, "größe".encode(), b"plain", bytes(range(128, 256))])
def test_bytes_come_back(data: bytes) -> None:
    text = decoded(data)
    assert encoded(text) == data
    assert os.fsencode(file_name(text)) == data
    assert storable(os.fsdecode(data)) == text
    net = parse_net(f'name: "{text}" layer {{ name: "{text}" type: "Silence" }}')
    assert serialized(net).count(data) == 2
    assert serialized(net) == net.SerializeToString() or text != data.decode(errors="replace")


@pytest.mark.parametrize("name", [GBK, LATIN, "größe".encode()])
def test_names_go_through_a_caffemodel(name: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_bytes(NET_TEXT.replace(b"%s", name))
    path = tmp_path / "m.caffemodel"
    torch.manual_seed(1)
    net = load_net(tmp_path / "net.prototxt")
    save_caffemodel(net, path)
    content = path.read_bytes()
    assert content.count(name) == 4
    assert decoded(name) in {layer.name for layer in read_caffemodel(path).layers}
    torch.manual_seed(2)
    again = load_net(tmp_path / "net.prototxt", weights=path, strict=True)
    torch.testing.assert_close(again.learnable, net.learnable, rtol=0, atol=0)
    save_caffemodel(again, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content


def test_hdf5_takes_no_such_names_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_bytes(NET_TEXT.replace(b"%s", GBK))
    with pytest.raises(WeightsError, match="HDF5 cannot hold a layer named"):
        save_caffemodel(load_net(tmp_path / "net.prototxt"), tmp_path / "m.caffemodel.h5")


@pytest.mark.parametrize("extra", ["", "snapshot_format: HDF5"])
def test_a_run_whose_paths_are_not_utf8(
    extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(tmp_path)
    Path("net.prototxt").write_bytes(b"# " + GBK + NET.format(db="db").encode())
    os.rename(b"net.prototxt", GBK + b".prototxt")
    folder.write_solver("SGD", "@/s", f"snapshot: 2 {extra}", 2)
    text = Path("solver.prototxt").read_bytes().replace(b"@", LATIN)
    Path("solver.prototxt").write_bytes(text.replace(b'"net.prototxt"', b'"%s.prototxt"' % GBK))
    with Solver("solver.prototxt", device="cpu") as solver:
        solver.solve()
    state = solver.last_snapshot
    assert state is not None
    assert os.fsencode(state.parent) == LATIN
    assert LATIN + b"/s_iter_2.caffemodel" in state.read_bytes()
    with Solver("solver.prototxt", device="cpu", snapshot=state) as solver:
        assert solver.iter == 2


def test_a_solver_at_a_path_that_is_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its default snapshot_prefix is its own path."""
    monkeypatch.chdir(tmp_path)
    Folder(tmp_path)
    text = Path("solver.prototxt").read_text().replace('snapshot_prefix: "out/s"', "snapshot: 2")
    path = Path(os.fsdecode(GBK + b".prototxt"))
    path.write_text(text)
    with Solver(path, device="cpu", overrides=["max_iter=2"]) as solver:
        solver.solve()
    assert (tmp_path / os.fsdecode(GBK + b"_iter_2.solverstate")).exists()


def test_upgrading_keeps_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_bytes(NET_TEXT.replace(b"%s", GBK))
    upgraded, _ = read_upgraded(tmp_path / "net.prototxt")
    assert encoded(to_text(upgraded)).count(GBK) == 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'\xef\xbb\xbfname: "x"', "a byte order mark"),
        ('name: "x"'.encode("utf-16"), "is UTF-16"),
        (b"\xfe\xff" + 'name: "x"'.encode("utf-16-be"), "is UTF-16"),
        ('name: "x"'.encode("utf-32"), "is UTF-32"),
        (b"\x0a\x02\xff\xfe\x00\x01", "not a text file"),
    ],
)
def test_other_encodings_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_bytes(content)
    for read in (read_net, read_text, read_upgraded):
        if read is read_upgraded and b"\0" in content:
            continue  # taken for a caffemodel
        with pytest.raises(PrototxtError, match=rf"net\.prototxt: .*{says}"):
            read(tmp_path / "net.prototxt")


def test_a_pipe_is_no_prototxt(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.prototxt")
    for path in (tmp_path / "net.prototxt", Path("/dev/null"), tmp_path):
        with pytest.raises(PrototxtError, match="cannot be read: it is a"):
            read_net(path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r"a\nb\tc\\d\"e\'f\?g\a\b\f\r\v", "a\nb\tc\\d\"e'f?g\a\b\f\r\v"),
        (r"\101\x42\x4a", "ABJ"),
        (r"\345\215\267", "卷"),
        (r"\xe5\x8d\xb7\n", "卷\n"),
        (r"\276\355\42", decoded(b"\xbe\xed") + '"'),
        (r"\u5377", "卷"),
    ],
)
def test_escapes_are_those_of_c(text: str, name: str) -> None:
    assert parse_net(f'name: "{text}"').name == name


@pytest.mark.parametrize("text", [r"D:\data", r"a\9", r"\d", r"C:\models\net", r"\xyz", r"\u12"])
def test_a_backslash_that_is_no_escape_says_to_write_a_slash(text: str) -> None:
    with pytest.raises(PrototxtError, match=r"^net:2:\d+: .* write / for each backslash"):
        parse_net(f'# C:\\data\nname: "{text}"', "net")
