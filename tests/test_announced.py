"""Files that announce more than they hold, or have no end: refused before anything is allocated."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.datasets.download import digest
from converters.datasets.registry import DATASETS
from converters.datasets.source import Source
from converters.datasets.tar_members import members
from converters.environment import Environment
from converters.errors import CaffeError, DataError
from converters.formats.input_files import read_file
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net
from converters.readers import open_reader
from converters.records.datum import encode_datum, encode_image
from converters.records.image_list import read_image_list
from converters.records.images import announced_size, decode
from converters.records.imageset import Settings, Size, convert_imageset
from converters.records.lmdb_reader import LmdbReader
from converters.records.lmdb_writer import create_lmdb
from converters.records.mean import read_mean

RECORD = 3073
MOST_MEMORY = 96 << 20


@contextmanager
def little_memory() -> Iterator[None]:
    """What is announced must not be allocated."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def read_set(name: str, folder: Path, chosen: str = "") -> int:
    blocks = DATASETS[name].read(Source(folder, folder), "train", chosen)
    return sum(len(block.pixels) for block in blocks)


# ---------------------------------------------------------------- tar


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    """A pax header for the member behind it."""
    lines = b""
    for key, value in records.items():
        line = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(line) + 1
        while len(str(length)) + len(line) != length:
            length += 1
        lines += str(length).encode() + line
    return header("pax", len(lines), tarfile.XHDTYPE) + padded(lines)


FIRST = "cifar-10-batches-bin/data_batch_1.bin"
LAST = "cifar-10-batches-bin/data_batch_5.bin"
TARS: dict[str, tuple[bytes, str]] = {
    "a member of 2^62 bytes": (header(FIRST, 1 << 62), "announces 4611686018427387904 bytes"),
    "a member behind it": (
        header("readme", 1 << 62) + padded(bytes(100)),
        "announces 4611686018427387904 bytes",
    ),
    "a negative size": (header(FIRST, -5), "announces -5 bytes"),
    "a size in pax": (pax(size=str(1 << 62)) + header(FIRST, 3), "announces 46116860184273879"),
    "a long name": (header("x", 3 << 30, tarfile.GNUTYPE_LONGNAME), "announces 3221225472 bytes"),
    "a pax header": (header("x", 3 << 30, tarfile.XHDTYPE), "announces 3221225472 bytes"),
    "a global pax header": (header("x", 3 << 30, tarfile.XGLTYPE), "announces 3221225472 bytes"),
    "a sparse member": (header(FIRST, 512, tarfile.GNUTYPE_SPARSE) + bytes(512), "is sparse"),
    "a sparse map without end": (
        pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="9")
        + header(FIRST, 512)
        + b"999999999999\n"
        + b"0\n" * (1 << 18),
        "bytes of headers",
    ),
    "long names without end": (
        b"".join([header("x", 512, tarfile.GNUTYPE_LONGNAME) + b"y" * 512] * 5000),
        "not a (whole )?tar archive",
    ),
    "more records than the set has": (
        header(LAST, 10_001 * RECORD) + bytes(1000),
        "data_batch_5.bin announces 30733073 bytes; the set's has 30730000",
    ),
    "not a number": (header(FIRST, 9).replace(b"00000000011\0", b"zz00000001\0"), "tar archive"),
}


@pytest.mark.parametrize("packed", [True, False], ids=["gz", "tar"])
@pytest.mark.parametrize("kind", TARS)
def test_what_a_tar_header_announces_is_not_believed(
    tmp_path: Path, kind: str, packed: bool
) -> None:
    content, message = TARS[kind]
    content += bytes(1024)
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message) as raised, little_memory():
        read_set("cifar10", tmp_path)
    assert "cifar-10-binary.tar.gz" in str(raised.value)


def test_very_many_members_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header("empty", 0) * 4000 + bytes(1024)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in members(path)) == 4000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_each_compression_of_a_tar_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, f"w:{suffix}") as archive:
        info = tarfile.TarInfo("./name" * 40)
        info.size = 70_000
        archive.addfile(info, io.BytesIO(b"x" * 70_000))
    (member,) = members(path)
    assert (member.name, member.size) == ("name" + "./name" * 39, 70_000)


def test_large_jpegs_are_refused(tmp_path: Path) -> None:
    content = header("train/cat/1.jpg", 2 << 20) + bytes(2 << 20) + bytes(1024)
    (tmp_path / "cifar10-jpeg.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"1\.jpg: 2097152 bytes"):
        read_set("cifar10_jpeg", tmp_path)


def test_a_bin_file_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1.bin").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="neither a regular file nor a folder"):
        read_set("cifar10", tmp_path)
    (tmp_path / "data_batch_1.bin").unlink()
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    os.truncate(tmp_path / "data_batch_1.bin", 10_001 * RECORD)
    with pytest.raises(DataError, match="has more than 10000 records"):
        read_set("cifar10", tmp_path)


# ---------------------------------------------------------------- MATLAB and idx


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(data) if size is None else size) + data


def matrix(name: bytes, shape: tuple[int, ...], values: bytes, size: int) -> bytes:
    """A matrix of bytes whose values announce `size` of them."""
    sizes = struct.pack(f"<{len(shape)}i", *shape)
    parts = element(6, struct.pack("<II", 9, 0)) + element(5, sizes + bytes(-len(sizes) % 8))
    parts += element(1, name.ljust(8, b"\0"), len(name)) + element(2, values, size)
    return element(14, parts, len(parts))


def packed(whole: bytes) -> bytes:
    data = zlib.compress(whole)
    return element(15, data)


def mat_file(path: Path, *elements: bytes) -> None:
    head = b"MATLAB 5".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    path.write_bytes(head + b"".join(elements))


X = matrix(b"X", (32, 32, 3, 2), bytes(6144), 6144)
BOMB = element(14, element(6, struct.pack("<II", 9, 0)) + element(5, bytes(200 << 20)))
MATS = {
    "labels that cannot be there": (
        [packed(X), packed(matrix(b"y", (1 << 30, 1), bytes(8), 1 << 30))],
        "y announces 1073741824 bytes",
    ),
    "images that cannot be there": (
        [matrix(b"X", (32, 32, 3, 90_000), bytes(8), 90_000 * 3072)],
        "X announces 276480000 bytes",
    ),
    "more labels than images": (
        [packed(X), packed(matrix(b"y", (100 << 20, 1), bytes(100 << 20), 100 << 20))],
        "expected 32×32×3×104857600",
    ),
    "dimensions of 200 MB": ([packed(BOMB)], "209715200 bytes before a matrix's values"),
}


@pytest.mark.parametrize("kind", MATS)
def test_what_a_matlab_element_announces_is_not_believed(tmp_path: Path, kind: str) -> None:
    elements, message = MATS[kind]
    mat_file(tmp_path / "train_32x32.mat", *elements)
    with pytest.raises(DataError, match=message), little_memory():
        read_set("svhn", tmp_path, "yes")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((2051, (1 << 32) - 1, 28, 28), (2049, (1 << 32) - 1), "announces 4294967295 images"),
        ((2051, 1000, 1 << 16, 1 << 16), (2049, 1000), "images of 65536×65536"),
        ((2051, 5, 1 << 31, 0), (2049, 5), "images of 2147483648×0"),
    ],
)
def test_what_an_idx_file_announces_is_not_believed(
    tmp_path: Path, images: tuple[int, ...], labels: tuple[int, ...], message: str
) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">4I", *images) + bytes(1 << 20))
    )
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", *labels) + bytes(5000))
    with pytest.raises(DataError, match=message), little_memory():
        read_set("mnist", tmp_path)


def test_the_digest_of_a_bomb_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.datasets.download.LARGEST_UNPACKED", 1 << 20)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(4 << 20)))
    assert digest(tmp_path / "a.gz", unpacked=True) == "of more bytes than any official file"
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    assert digest(tmp_path / "a.gz", unpacked=True) == "b6d81b360a5672d80c27430f39153e2c"


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a.png 1099511627776", "label '1099511627776': it needs more than 32 bits"),
        (b"a.png -2147483649", "it needs more than 32 bits"),
        (b"a.png " + b"7" * 400, r"label '7{80} \.\.\.': it needs more than 32 bits"),
        (b"a.png " + b"7" * 40_000, "it needs more than 32 bits"),
        (b"a.png 1.5", r"label '1\.5': it is no whole number"),
        (b"a.png 1e3", "label '1e3': it is no whole number"),
        (b"a.png cat", "label 'cat': it is no whole number"),
        (b"a.png 1_0", "label '1_0': it is no whole number"),
        ("a.png ١".encode(), "label '١': it is no whole number"),
        (b"a\0b.png 1", r"'a\\x00b\.png': no file can be called so"),
        (b"a.png", "'a.png' has no label; a line is NAME LABEL"),
    ],
)
def test_a_label_says_what_is_wrong_with_it(tmp_path: Path, line: bytes, message: str) -> None:
    """In both that read lists: the same words, with file and line."""
    path = tmp_path / "list.txt"
    path.write_bytes(b"a.png 1\n" + line + b"\n")
    with pytest.raises(DataError, match=f"list.txt:2: .*{message}"):
        convert_imageset(tmp_path, path, tmp_path / "out")
    with pytest.raises(CaffeError, match=f'layer "d".*list.txt:2: .*{message}'):
        layer("ImageData", f'image_data_param {{ source: "{path}" batch_size: 1 }}')
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (b"\xef\xbb\xbf", "UTF-8 byte order mark"),
        (b"\xff\xfe", "UTF-16 byte order mark"),
        (b"\xfe\xff", "UTF-16 byte order mark"),
    ],
)
def test_byte_order_marks_are_named(tmp_path: Path, mark: bytes, message: str) -> None:
    path = tmp_path / "list"
    path.write_bytes(mark + b"a.png 1\n")
    with pytest.raises(DataError, match=f"list: begins with a {message}"):
        read_image_list(path)
    for kind, fields in READERS_OF_LISTS.items():
        with pytest.raises(CaffeError, match=f'layer "d".*begins with a {message}'):
            layer(kind, fields.format(path))


READERS_OF_LISTS = {
    "ImageData": 'image_data_param {{ source: "{}" batch_size: 1 }}',
    "HDF5Data": 'hdf5_data_param {{ source: "{}" batch_size: 1 }}',
    "WindowData": 'window_data_param {{ source: "{}" batch_size: 1 }} '
    "transform_param {{ crop_size: 2 }}",
}


def layer(kind: str, fields: str) -> object:
    text = f'layer {{ name: "d" type: "{kind}" top: "data" top: "label" {fields} }}'
    reader = open_reader(parse_net(text).layer[0], Environment("net", "TRAIN"), 1)
    return reader.shapes(), reader.next()


def test_names_are_bytes_and_blanks_may_follow(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    names = ["grün.png".encode("latin-1"), "图.png".encode("gbk"), "é.png".encode()]
    png = bytes(cv2.imencode(".png", np.full((3, 4, 3), 7, np.uint8))[1])
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(png)
    lines = b"".join(b"%b %d%b\n" % (name, i, b" \t\r"[:i]) for i, name in enumerate(names))
    (tmp_path / "list").write_bytes(lines)
    assert convert_imageset(tmp_path, tmp_path / "list", tmp_path / "db").records == 3
    with LmdbReader(tmp_path / "db") as reader:
        assert reader.keys == [b"%08d_%b" % (i, name) for i, name in enumerate(names)]
    fields = f'source: "{tmp_path}/list" root_folder: "{tmp_path}/" batch_size: 3'
    _, batch = layer("ImageData", f"image_data_param {{ {fields} }}")
    assert batch["label"].tolist() == [0, 1, 2]
    assert (batch["data"] == 7).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5 1e9x 0 0 3 3", "w:7: '1e9x' where an overlap is expected"),
        ("5 nan 0 0 3 3", r"w:7: 'nan' where an overlap is expected \(not a number\)"),
        ("1099511627776 1 0 0 3 3", "w:7: '1099511627776' where a class is expected"),
        ("1.5 1 0 0 3 3", r"w:7: '1\.5' where a class is expected \(it is no whole number\)"),
        (f"5 1 {'9' * 400} 0 3 3", r"w:7: '9{80} \.\.\.' where a corner is expected"),
    ],
)
def test_window_files_say_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "w").write_text(f"# 0\na.jpg\n3 8 6\n1\n\n{line}\n".replace("3 8 6", "3\n8 6", 1))
    with pytest.raises(CaffeError, match=message):
        layer("WindowData", READERS_OF_LISTS["WindowData"].format(tmp_path / "w"))


# ---------------------------------------------------------------- what has no end


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A FIFO that nobody writes to: opening it would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "pipe"])
def test_devices_and_pipes_end_in_an_error(pipe: Path, name: str) -> None:
    path = pipe if name == "pipe" else Path(name)
    with pytest.raises(DataError, match="no regular file"):
        read_mean(path)
    with pytest.raises(DataError, match=r"neither a regular file nor a pipe|none of its 0 images"):
        convert_imageset(pipe.parent, path, pipe.parent / "out")
    with pytest.raises(CaffeError, match=r"neither a regular file|neither a folder"):
        Source(path, pipe.parent).local_path(("a",))
    for kind, fields in READERS_OF_LISTS.items():
        with pytest.raises(CaffeError, match=r'layer "d".*(neither a regular|empty|windows)'):
            layer(kind, fields.format(path))
    (pipe.parent / "list").write_text(f"{path.name} 1\n")
    fields = f'source: "{pipe.parent}/list" root_folder: "{path.parent}/" batch_size: 1'
    with pytest.raises(CaffeError, match=r'layer "d".*image .*(cannot be read|cannot be decoded)'):
        layer("ImageData", f"image_data_param {{ {fields} }}")
    with pytest.raises(DataError, match="none of its 1 images can be read"):
        convert_imageset(path.parent, pipe.parent / "list", pipe.parent / "out")


def test_a_pipe_that_is_written_to_is_read(pipe: Path) -> None:
    """As of `imageset ROOT <(sort list) OUT`."""
    handle = os.open(pipe, os.O_RDWR)
    os.write(handle, b"a.png 1\n")
    reader = os.open(pipe, os.O_RDONLY)
    os.close(handle)
    assert read_image_list(f"/dev/fd/{reader}") == ([b"a.png"], [1])
    os.close(reader)


def test_files_larger_than_the_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="has more than 4 bytes"):
        read_file(tmp_path / "a", 4)
    os.truncate(tmp_path / "a", 1 << 40)
    with pytest.raises(DataError, match="a: cannot be read: has more than"), little_memory():
        read_image_list(tmp_path / "a")


# ---------------------------------------------------------------- images, records, means, HDF5


def png(height: int, width: int) -> bytes:
    """A PNG whose few bytes announce any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg(height: int, width: int, progressive: bool = False) -> bytes:
    """A JPEG of 8×8 pixels whose frame says another size."""
    cv2 = pytest.importorskip("cv2")
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8), flags)[1])
    frame = data.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    struct.pack_into(">HH", data, frame + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "bomb", [png(30_000, 30_000), jpeg(40_000, 40_000), jpeg(65_500, 65_500, True)]
)
def test_image_bombs_are_refused_where_they_are_decoded(tmp_path: Path, bomb: bytes) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(DataError, match=r"announces [0-9]+×[0-9]+ pixels"):
        decode(bomb, True)
    (tmp_path / "a.png").write_bytes(bomb)
    (tmp_path / "list").write_text("a.png 1\n")
    with pytest.raises(DataError, match=r"a\.png: announces"):
        convert_imageset(tmp_path, tmp_path / "list", tmp_path / "out")
    fields = f'source: "{tmp_path}/list" root_folder: "{tmp_path}/" batch_size: 1'
    with pytest.raises(CaffeError, match=r'layer "d".*a\.png announces'):
        layer("ImageData", f"image_data_param {{ {fields} }}")
    with create_lmdb(tmp_path / "db") as writer:
        writer.put(b"key7", encode_image(bomb, 1))
    with pytest.raises(CaffeError, match=r"record 'key7' holds a compressed image that announces"):
        layer("Data", f'data_param {{ source: "{tmp_path}/db" batch_size: 1 }}')


def test_the_size_in_a_header_is_that_of_the_pixels() -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.RandomState(0)
    for height, width in ((1, 1), (3, 500), (321, 7)):
        pixels = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        for suffix, flags in (
            (".png", []),
            (".jpg", []),
            (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
        ):
            image = bytes(cv2.imencode(suffix, pixels, flags)[1])
            assert announced_size(image) == (height, width)
            assert announced_size(memoryview(image)) == (height, width)
    assert announced_size(b"") == announced_size(b"\xff\xd8\xff") == (0, 0)
    assert announced_size(b"\xff\xd8" + b"\xff\xe0\xff\xff" * 9) == (0, 0)


def test_resizing_beyond_any_memory_is_refused_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text("a.png 1\n")
    size = Size(1_000_000, 1_000_000)
    with pytest.raises(DataError, match="--resize 1000000x1000000: 1000000000000 pixels"):
        convert_imageset(tmp_path, tmp_path / "list", tmp_path / "out", Settings(size))
    arguments = [str(tmp_path), f"{tmp_path}/list", f"{tmp_path}/out", "--resize", "99999x9999"]
    assert run_subcommand("converters", "", COMMANDS, ["imageset", *arguments]) == 1
    assert capsys.readouterr().err.startswith("error: --resize 99999x9999: ")
    fields = f'source: "{tmp_path}/list" batch_size: 1 new_height: 1000000 new_width: 1000000'
    with pytest.raises(CaffeError, match="new_height 1000000 × new_width 1000000"):
        layer("ImageData", f"image_data_param {{ {fields} }}")


@pytest.mark.parametrize("dims", [(1 << 20, 1 << 20, 1), (2**31 - 1,) * 3, (-1, -1, 3)])
def test_a_datum_that_claims_too_much_is_named(tmp_path: Path, dims: tuple[int, ...]) -> None:
    channels, height, width = dims
    record = pb.Datum(channels=channels, height=height, width=width, data=b"xyz", label=1)
    with create_lmdb(tmp_path / "db") as writer:
        writer.put(b"k", encode_datum(np.zeros((1, 1, 3), np.uint8), 1))
        writer.put(b"key7", record.SerializeToString())
    with pytest.raises(CaffeError, match=r"record 'key7' holds 3 values"), little_memory():
        layer("Data", f'data_param {{ source: "{tmp_path}/db" batch_size: 2 }}')


@pytest.mark.parametrize("size", [(1 << 32) - 1, 1 << 31])
def test_batch_sizes_beyond_caffes_integers(tmp_path: Path, size: int) -> None:
    for kind, fields in READERS_OF_LISTS.items():
        text = fields.format(tmp_path).replace("batch_size: 1", f"batch_size: {size}")
        with pytest.raises(CaffeError, match=f'layer "d".*batch_size {size} needs more than 31'):
            layer(kind, text)


MEANS: dict[str, Callable[[], pb.BlobProto]] = {
    "a hundred axes": lambda: pb.BlobProto(
        shape=pb.BlobShape(dim=[1] * 97 + [3, 4, 4]), data=[0] * 48
    ),
    "negative": lambda: pb.BlobProto(num=1, channels=-3, height=-4, width=4, data=[0] * 48),
    "wrapping": lambda: pb.BlobProto(
        shape=pb.BlobShape(dim=[1, 1 << 32, 1 << 32, 1]), data=[0] * 48
    ),
    "large": lambda: pb.BlobProto(shape=pb.BlobShape(dim=[1, 3, 1 << 40, 1]), data=[0]),
}


@pytest.mark.parametrize("kind", MEANS)
def test_mean_files_whose_shape_is_none(tmp_path: Path, kind: str) -> None:
    (tmp_path / "mean").write_bytes(MEANS[kind]().SerializeToString())
    says = r"mean: .*(axes|do not fill|has a size of)"
    with pytest.raises(DataError, match=says), little_memory():
        read_mean(tmp_path / "mean")


def test_what_an_hdf5_dataset_announces_is_not_believed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "list").write_text(f"{tmp_path}/a.h5\n")
    fields = READERS_OF_LISTS["HDF5Data"].format(tmp_path / "list")
    wrong: dict[str, Callable[[object], object]] = {
        "announces 4398046511104 bytes": lambda file: file.create_dataset(
            "data", (1 << 30, 1 << 10), "f4", chunks=(1, 1024)
        ),
        "data is no dataset of real": lambda file: file.create_group("data"),
        "no dataset of real numbers": lambda file: file.create_dataset("data", (3, 2), "c8"),
    }
    for message, make in wrong.items():
        with h5py.File(tmp_path / "a.h5", "w") as file:
            make(file)
            file["label"] = np.zeros(3, np.float32)
        with pytest.raises(CaffeError, match=message), little_memory():
            layer("HDF5Data", fields)
    # Zeros compress to a thousandth: no claim, a data set.
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=np.zeros((17, 1 << 20), np.float32), compression="gzip")
        file["label"] = np.zeros(17, np.float32)
    layer("HDF5Data", fields)
