"""converters.records.imageset against what Caffe's convert_imageset wrote (golden/imageset)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import DataError
from converters.proto import caffe_pb2 as pb
from converters.records.datum import decode_datum
from converters.records.image_list import read_image_list
from converters.records.imageset import Settings, Size, convert_imageset
from converters.records.lmdb_reader import LmdbReader
from converters.reporting import Reporter

cv2 = pytest.importorskip("cv2")

GOLDEN = Path(__file__).parent / "golden" / "imageset"
LIST = GOLDEN / "list.txt"
CASES = {
    "raw": ("--resize", "14x12"),
    "gray": ("--resize", "14x12", "--gray"),
    "encoded": ("--encoded",),
}


def command(*arguments: str | Path) -> int:
    return run_subcommand("converters", "", COMMANDS, ["imageset", *map(str, arguments)])


def records(path: Path) -> list[tuple[bytes, bytes]]:
    with LmdbReader(path) as reader:
        return [(key, bytes(value)) for key, value in reader]


@pytest.mark.parametrize("case", CASES)
def test_every_byte_is_caffes(tmp_path: Path, case: str) -> None:
    assert command(GOLDEN / "images", LIST, tmp_path / "db", *CASES[case]) == 0
    expected = records(GOLDEN / f"{case}_lmdb")
    assert len(expected) == 6
    assert records(tmp_path / "db") == expected


@pytest.mark.parametrize("case", CASES)
def test_the_golden_records_decode_as_caffe_says(case: str) -> None:
    rows = json.loads((GOLDEN / "records.json").read_text()).get(case, [])
    found = records(GOLDEN / f"{case}_lmdb")
    for (key, value), row in zip(found, rows, strict=bool(rows)):
        datum = decode_datum(value)
        assert [
            key.decode(),
            datum.label,
            datum.channels,
            datum.height,
            datum.width,
            datum.encoded,
            len(datum.data),
        ] == row


def test_encoded_records_decode_to_the_same_pixels(tmp_path: Path) -> None:
    for name, settings in (("raw", Settings()), ("encoded", Settings(encoded=True))):
        convert_imageset(GOLDEN / "images", LIST, tmp_path / name, settings)
    pairs = zip(records(tmp_path / "raw"), records(tmp_path / "encoded"), strict=True)
    for (key, raw), (other_key, encoded) in pairs:
        assert key == other_key
        assert (decode_datum(raw).image() == decode_datum(encoded).image()).all()


def test_encoded_and_resized_is_compressed_again(tmp_path: Path) -> None:
    settings = Settings(resize=Size(14, 12), encoded=True)
    convert_imageset(GOLDEN / "images", LIST, tmp_path / "db", settings)
    raw = records(GOLDEN / "raw_lmdb")  # PNG is lossless
    for (_, value), (_, expected) in zip(records(tmp_path / "db"), raw, strict=True):
        assert (decode_datum(value).image() == decode_datum(expected).image()).all()
        assert decode_datum(value).encoded


def test_encode_type_compresses_what_has_another_format(tmp_path: Path) -> None:
    """As Caffe: it stands for --encoded, and a file that has the format already is kept."""
    kept = Settings(encode_type="png")
    convert_imageset(GOLDEN / "images", LIST, tmp_path / "png", kept)
    convert_imageset(GOLDEN / "images", LIST, tmp_path / "own", Settings(encoded=True))
    assert records(tmp_path / "png") == records(tmp_path / "own")
    convert_imageset(GOLDEN / "images", LIST, tmp_path / "bmp", Settings(encode_type="bmp"))
    for (_, value), (_, expected) in zip(
        records(tmp_path / "bmp"), records(tmp_path / "own"), strict=True
    ):
        datum = pb.Datum.FromString(value)
        assert datum.encoded and datum.data[:2] == b"BM"
        assert (decode_datum(value).image() == decode_datum(expected).image()).all()
    with pytest.raises(DataError, match=r"'\.foo' is no image format"):
        convert_imageset(GOLDEN / "images", LIST, tmp_path / "foo", Settings(encode_type="foo"))


def test_shuffling_is_by_the_seed(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        arguments = (GOLDEN / "images", LIST, tmp_path / name)
        assert command(*arguments, "--encoded", "--shuffle", seed) == 0
    first = records(tmp_path / "a")
    assert first == records(tmp_path / "b")
    assert [key for key, _ in first] != [key for key, _ in records(tmp_path / "c")]
    assert [key[:8] for key, _ in first] == [b"%08d" % number for number in range(6)]
    plain = {key[9:]: value for key, value in records(GOLDEN / "encoded_lmdb")}
    assert {key[9:]: value for key, value in first} == plain


def test_unreadable_lines_count_but_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.png").write_bytes(b"not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    image = np.random.RandomState(0).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "ü a.png"), image)
    listing = "junk.png 1\nü a.png 2\nabsent.png 3\nempty.png 1\n\nü a.png 300\r\n"
    (tmp_path / "list").write_bytes(listing.encode())
    assert command(tmp_path, tmp_path / "list", tmp_path / "db") == 0
    found = records(tmp_path / "db")
    assert [key.decode() for key, _ in found] == ["00000001_ü a.png", "00000005_ü a.png"]
    assert [decode_datum(value).label for _, value in found] == [2, 300]
    assert (decode_datum(found[0][1]).image() == image.transpose(2, 0, 1)).all()
    captured = capsys.readouterr()
    assert "2 records, 4 unreadable left out" in captured.out
    assert captured.err.count("not a readable image, left out") == 4


def test_the_library_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells a reporter; without one it keeps silent."""

    class Listener(Reporter):
        notes: ClassVar[list[str]] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    (tmp_path / "list").write_text((LIST).read_text() + "absent.png 1\n")
    convert_imageset(GOLDEN / "images", tmp_path / "list", tmp_path / "a")
    convert_imageset(GOLDEN / "images", tmp_path / "list", tmp_path / "b", reporter=Listener())
    assert Listener.notes == [f"{GOLDEN}/images/absent.png: not a readable image, left out"]
    assert capsys.readouterr() == ("", "")


def test_check_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (GOLDEN / "images", LIST, tmp_path / "db", "--check-size")
    assert command(*arguments) == 1
    assert "img1.png: is 3×17×23, the images before it 3×20×16" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    assert command(*arguments, "--resize", "8x8") == 0


def test_a_wrong_root_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("".join(f"{number}.png 0\n" for number in range(200)))
    assert command(tmp_path / "no", tmp_path / "list", tmp_path / "db") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "list: none of its 200 images can be read: " in line
    assert "no/0.png does not exist, nor do the others; is ROOT " in line
    assert not (tmp_path / "db").exists()


def test_of_many_unreadable_images_eight_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = "".join(f"{number}.png 0\n" for number in range(30))
    (tmp_path / "list").write_text(LIST.read_text() + absent)
    assert command(GOLDEN / "images", tmp_path / "list", tmp_path / "db") == 0
    shown = capsys.readouterr()
    assert shown.err.count("not a readable image, left out") == 8
    assert "and 22 more that are not" in shown.err
    assert "30 unreadable left out" in shown.out


def test_nothing_readable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("a.png 0\nb.png 1\n")
    assert command(tmp_path, tmp_path / "list", tmp_path / "db") == 1
    assert "none of its 2 images can be read" in capsys.readouterr().err
    assert not (tmp_path / "db").exists()


def test_lists(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a b.png -3\nc 7")
    assert read_image_list(tmp_path / "list") == ([b"a b.png", b"c"], [-3, 7])
    (tmp_path / "list").write_bytes(b"a.png 1\nno-label.png\n")
    with pytest.raises(DataError, match=r"list:2: 'no-label\.png' has no label"):
        read_image_list(tmp_path / "list")
    (tmp_path / "list").write_bytes(b"a.png 1 \r\n\n  \nb.png 2")
    assert read_image_list(tmp_path / "list") == ([b"a.png", b"", b"", b"b.png"], [1, 0, 0, 2])
    for line in (b"5", b" 5", b"a.png\t3"):
        (tmp_path / "list").write_bytes(line)
        with pytest.raises(DataError, match=r"list:1: .* has no label"):
            read_image_list(tmp_path / "list")
    with pytest.raises(DataError, match=r"cannot be read"):
        read_image_list(tmp_path / "absent")


@pytest.mark.parametrize("label", ["2147483648", "-2147483649", "9" * 5000])
def test_a_label_beyond_32_bits_is_refused(tmp_path: Path, label: str) -> None:
    """A record holds 32 bits: the label would be another."""
    (tmp_path / "list").write_text(f"a.png 2147483647\na.png {label}\n")
    with pytest.raises(DataError, match=r"list:2: label .*: it needs more than 32 bits"):
        read_image_list(tmp_path / "list")


def test_existing_output_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (GOLDEN / "images", LIST, tmp_path / "db")
    assert command(*arguments) == 0
    assert command(*arguments, "--encoded") == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert command(*arguments, "--encoded", "--force") == 0
    assert records(tmp_path / "db") == records(GOLDEN / "encoded_lmdb")


@pytest.mark.parametrize("size", ["14", "0x4", "axb", "-1x4"])
def test_bad_sizes_are_wrong_usage(tmp_path: Path, size: str) -> None:
    with pytest.raises(SystemExit) as caught:
        command(GOLDEN / "images", LIST, tmp_path / "db", "--resize", size)
    assert caught.value.code == 2
