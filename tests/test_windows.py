"""WindowData against naive loops, and what it must refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.environment import Environment
from converters.errors import DataError
from converters.prototxt.text import parse_net
from converters.readers import open_reader
from converters.readers.window import Settings, Window, WindowReader, place, read_windows
from converters.records.mean import write_mean

cv2 = pytest.importorskip("cv2")


def open_windows(text: str, folder: Path, seed: int = 1) -> WindowReader:
    reader = open_reader(parse_net(text).layer[0], Environment("net", "TRAIN", str(folder)), seed)
    assert isinstance(reader, WindowReader)
    return reader


LAYER = """layer { name: "d" type: "WindowData" top: "data" top: "label"
  transform_param { crop_size: 6 %s }
  window_data_param { source: "windows.txt" batch_size: 8 %s } }"""
IMAGE = np.random.RandomState(0).randint(0, 256, (10, 12, 3)).astype(np.uint8)


def write_windows(folder: Path, *rows: str, image: int = 0) -> None:
    """A window file of one image with `rows`."""
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    text = "\n".join((f"# {image}", "a.png", "3", "10", "12", str(len(rows)), *rows))
    (folder / "windows.txt").write_text(text + "\n")


def naive(window: Window, settings: Settings, mirrored: bool) -> np.ndarray | None:
    """One window of IMAGE as Caffe places, resizes and normalizes it, in float32, by loops."""
    f = np.float32
    crop, pad = settings.crop, settings.context_pad
    height, width = IMAGE.shape[:2]
    x1, y1, x2, y2 = window.x1, window.y1, window.x2, window.y2
    size_x = size_y = crop
    pad_w = pad_h = 0

    def rounded(value: np.float32) -> int:
        whole = int(abs(float(value)) + 0.5)
        return whole if value >= 0 else -whole

    if pad > 0 or settings.square:
        scale = f(crop) / f(crop - 2 * pad)
        half_y, half_x = f((y2 - y1 + 1) / 2.0), f((x2 - x1 + 1) / 2.0)
        center_x, center_y = f(x1) + half_x, f(y1) + half_y
        if settings.square:
            if half_y > half_x:
                half_x = half_y
            else:
                half_y = half_x
        x1, x2 = rounded(center_x - half_x * scale), rounded(center_x + half_x * scale)
        y1, y2 = rounded(center_y - half_y * scale), rounded(center_y + half_y * scale)
        whole_y, whole_x = y2 - y1 + 1, x2 - x1 + 1
        pad_x1, pad_y1 = max(0, -x1), max(0, -y1)
        pad_x2, pad_y2 = max(0, x2 - width + 1), max(0, y2 - height + 1)
        x1, x2, y1, y2 = x1 + pad_x1, x2 - pad_x2, y1 + pad_y1, y2 - pad_y2
        scale_x, scale_y = f(crop) / f(whole_x), f(crop) / f(whole_y)
        size_x, size_y = rounded(f(x2 - x1 + 1) * scale_x), rounded(f(y2 - y1 + 1) * scale_y)
        pad_h = rounded(f(pad_y1) * scale_y)
        pad_w = rounded(f(pad_x2 if mirrored else pad_x1) * scale_x)
        size_y, size_x = min(size_y, crop - pad_h), min(size_x, crop - pad_w)
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height) or size_x < 1 or size_y < 1:
        return None
    region = cv2.resize(IMAGE[y1 : y2 + 1, x1 : x2 + 1], (size_x, size_y))
    top = np.zeros((3, crop, crop), np.float32)
    for row in range(size_y):
        for column in range(size_x):
            source = size_x - 1 - column if mirrored else column
            for channel in range(3):
                mean = f(channel + 0.5)
                pixel = f(region[row, source, channel])
                top[channel, row + pad_h, column + pad_w] = (pixel - mean) * f(0.25)
    return top


CORNERS = st.tuples(st.integers(-3, 13), st.integers(-3, 11)).map(sorted)


@given(
    across=CORNERS,
    down=CORNERS,
    settings=st.builds(Settings, st.just(6), st.integers(0, 2), st.booleans()),
    mirrored=st.booleans(),
)
def test_windows_are_those_of_naive_loops(
    tmp_path_factory: pytest.TempPathFactory,
    across: list[int],
    down: list[int],
    settings: Settings,
    mirrored: bool,
) -> None:
    window = Window(0, 3, across[0], down[0], across[1], down[1], 7)
    expected = naive(window, settings, mirrored)
    placed = place(window, 10, 12, settings, mirrored)
    assert (placed is None) == (expected is None)
    if expected is None:
        return
    folder = tmp_path_factory.mktemp("windows")
    box = f"{window.x1} {window.y1} {window.x2} {window.y2}"
    write_windows(folder, f"3 0.9 {box}", f"3 0.1 {box}")
    options = f"scale: 0.25 context_pad: {settings.context_pad}"
    options += ' crop_mode: "square"' if settings.square else ""
    transform = "mean_value: 0.5 mean_value: 1.5 mean_value: 2.5"
    transform += " mirror: true" if mirrored else ""
    data = open_windows(LAYER % (transform, options), folder).next()["data"]
    assert any(np.array_equal(top, expected) for top in data)
    if not mirrored:
        assert all(np.array_equal(top, expected) for top in data)


def test_background_comes_first_and_thresholds_decide(tmp_path: Path) -> None:
    """0.7 in float32 is what a threshold of 0.7 compares with; between the two nothing is used."""
    write_windows(
        tmp_path, "5 0.7 0 0 1 1", "6 1 0 0 2 2", "7 0.3 0 0 3 3", "8 0.29 0 0 4 4", "0 0 0 0 5 5"
    )
    found = read_windows(tmp_path / "windows.txt", float(np.float32(0.7)), float(np.float32(0.3)))
    assert found.images == ["a.png"]
    assert [Window(*row)[1:6] for row in found.foreground] == [(5, 0, 0, 1, 1), (6, 0, 0, 2, 2)]
    assert [Window(*row)[1:6] for row in found.background] == [(0, 0, 0, 4, 4), (0, 0, 0, 5, 5)]
    options = "fg_threshold: 0.7 bg_threshold: 0.3 fg_fraction: 0.45"
    reader = open_windows(LAYER % ("", options), tmp_path)
    labels = np.stack([reader.next()["label"] for _ in range(20)])
    assert (labels[:, :5] == 0).all()  # 3 of 8 are foreground: 3.6 is cut
    assert set(labels[:, 5:].ravel()) == {5, 6}


def test_the_images_index_counts_not_its_place(tmp_path: Path) -> None:
    """As in Caffe: windows below `# 1` are those of the second path, wherever they stand."""
    for number, value in enumerate((10, 20)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((9, 9, 3), value, np.uint8))
    text = "\n".join(
        f"# {1 - number}\n{number}.png\n3 9 9\n2\n{number + 1} 1 0 0 3 3\n0 0 0 0 3 3"
        for number in range(2)
    )
    (tmp_path / "windows.txt").write_text(text)
    batch = open_windows(LAYER % ("", "fg_fraction: 1"), tmp_path).next()
    labels, pixels = batch["label"].tolist(), batch["data"][:, 0, 0, 0].tolist()
    assert set(zip(labels, pixels)) == {(1, 20), (2, 10)}


def test_each_batch_draws_other_windows(tmp_path: Path) -> None:
    """Eight of 80 windows each time, told apart by their label."""
    rows = [f"{label} 1 0 0 3 3" for label in range(1, 81)]
    write_windows(tmp_path, *rows, "0 0 0 0 5 5")
    reader = open_windows(LAYER % ("", "fg_fraction: 1"), tmp_path)
    assert len({tuple(reader.next()["label"].tolist()) for _ in range(5)}) == 5


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_middle_of_a_mean_image_is_subtracted_where_pixels_are(
    tmp_path: Path, mirrored: bool
) -> None:
    """mean[c, y + margin, x + margin] of the pixel at (y, x), mirrored or not; nothing around."""
    mean = np.random.default_rng(0).random((3, 8, 9)).astype(np.float32)
    write_mean(tmp_path / "mean", mean)
    box = (-1, 6, 3, 10)
    write_windows(tmp_path, *(f"3 {overlap} {' '.join(map(str, box))}" for overlap in (1, 0)))
    transform = 'mean_file: "mean"' + (" mirror: true" if mirrored else "")
    data = open_windows(LAYER % (transform, "context_pad: 1 scale: 0.25"), tmp_path).next()["data"]
    expected = naive(Window(0, 3, *box, 7), Settings(6, 1, False), mirrored)
    assert expected is not None
    # `naive` subtracts 0.5 + the channel, so no value of a pixel is 0.
    pixels = expected * 4 + np.arange(0.5, 3)[:, None, None]
    wanted = np.where(expected == 0, 0, (pixels - mean[:, 1:7, 1:7]) / 4).astype(np.float32)
    assert (expected == 0).any()
    assert any(np.abs(top - wanted).max() < 1e-4 for top in data)


@pytest.mark.parametrize(("fraction", "foreground"), [(0, 0), (0.25, 2), (1, 8)])
def test_the_fraction_of_the_foreground(tmp_path: Path, fraction: float, foreground: int) -> None:
    write_windows(tmp_path, "5 0.7 0 0 1 1", "0 0 0 0 5 5")
    reader = open_windows(LAYER % ("", f"fg_fraction: {fraction}"), tmp_path)
    assert reader.next()["label"].tolist() == [0.0] * (8 - foreground) + [5.0] * foreground


@pytest.mark.parametrize(
    ("fraction", "row", "label"), [(0, "0 0", 0), (0.1, "0 0", 0), (1, "5 1", 5)]
)
def test_a_kind_of_windows_that_no_batch_takes_may_be_absent(
    tmp_path: Path, fraction: float, row: str, label: int
) -> None:
    """A tenth of eight is none."""
    write_windows(tmp_path, f"{row} 0 0 4 4")
    reader = open_windows(LAYER % ("", f"fg_fraction: {fraction}"), tmp_path)
    assert reader.next()["label"].tolist() == [label] * 8


def test_cached_images_are_read_once(tmp_path: Path) -> None:
    write_windows(tmp_path, "5 0.7 0 0 1 1", "0 0 0 0 5 5")
    kept = open_windows(LAYER % ("", "cache_images: true"), tmp_path)
    read = open_windows(LAYER % ("", ""), tmp_path)
    first = kept.next()["data"]
    np.testing.assert_array_equal(first, read.next()["data"])
    (tmp_path / "a.png").unlink()
    np.testing.assert_array_equal(first, kept.next()["data"])
    with pytest.raises(DataError, match=r"image .*a\.png cannot be read"):
        read.next()


def test_absent_images_are_found_before_they_are_needed(tmp_path: Path) -> None:
    write_windows(tmp_path, "5 0.7 0 0 1 1", "0 0 0 0 5 5")
    reader = open_windows(LAYER % ("", ""), tmp_path)
    reader.check()
    assert reader.items is None
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"none of the 1 files of .*windows\.txt exists, .*a\.png"):
        reader.check()


def test_a_damaged_image_is_not_kept_in_the_cache(tmp_path: Path) -> None:
    """Mended, it is read."""
    write_windows(tmp_path, "5 0.7 0 0 1 1", "0 0 0 0 5 5")
    image = (tmp_path / "a.png").read_bytes()
    kept = open_windows(LAYER % ("", "cache_images: true"), tmp_path)
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"image .*a\.png cannot be decoded"):
        kept.next()
    (tmp_path / "a.png").write_bytes(image)
    whole = open_windows(LAYER % ("", ""), tmp_path)
    np.testing.assert_array_equal(kept.next()["data"], whole.next()["data"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has 0 foreground windows"),
        ("% 0", r"windows\.txt:1: '%' where the # of an image is expected"),
        ("# x", r"windows\.txt:1: 'x' where an image index is expected"),
        ("# 0\na.png\n1 10 12 0", r"windows\.txt:3: 1 channels; images are read in colour, 3"),
        ("# 0\na.png\n3\n10\nwide", r"windows\.txt:5: 'wide' where a width"),
        ("# 0\na.png\n3 10 12\n-1", r"windows\.txt:4: '-1' where a number of windows"),
        ("# 0\na.png\n3 10 12\n1\n5 much", r"windows\.txt:5: 'much' where an overlap"),
        ("# 0\na.png\n3 10 12\n1\n5 1 0 0 2.5 3", r"windows\.txt:5: '2\.5' where a corner"),
        ("# 0\na.png\n3 10 12\n1\n5 1 0 0 4294967296 3", r"'4294967296' where a corner"),
        ("# 0\na.png\n3 10 12\n2\n5 1 0 0 2 3\n", r"windows\.txt:5: the file ends where a class"),
        ("# 0\na.png\n3 10 12\n1\n0 1 0 0 2 3", r"windows\.txt:5: class 0 of a foreground"),
        ("# 4\na.png\n3 10 12\n1\n5 1 0 0 2 3", r"windows\.txt:5: image index 4, but there are 1"),
        ("# -1\na.png\n3 10 12\n1\n5 1 0 0 2 3", r"windows\.txt:5: image index -1, but there are"),
        ("# 0\na.png\n3 10 12\n1\n5 1 0 0 2 3", "1 foreground windows .* and 0 background"),
    ],
)
def test_bad_window_files_are_refused(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "windows.txt").write_text(content)
    with pytest.raises(DataError, match=says):
        open_windows(LAYER % ("", ""), tmp_path)


@pytest.mark.parametrize("box", ["0 0 12 3", "-1 0 4 4", "5 5 4 9", "0 4 3 10"])
@pytest.mark.parametrize("options", ["", "context_pad: 2"])
def test_a_window_outside_its_image_is_named(tmp_path: Path, box: str, options: str) -> None:
    if options:
        box = "20 20 21 21"  # a window may reach over the border, but not lie behind it
    write_windows(tmp_path, f"5 0.7 {box}", "0 0 0 0 5 5")
    with pytest.raises(DataError, match=r"windows\.txt:7: window .* does not lie in a\.png, 10×12"):
        open_windows(LAYER % ("", options), tmp_path).next()


@pytest.mark.parametrize(
    ("field", "instead", "says"),
    [
        ("crop_size: 6", "crop_size: 0", "crop_size 0 must be positive"),
        (
            "batch_size: 8",
            "batch_size: 8 context_pad: 3",
            "context_pad 3 leaves nothing of crop_size 6",
        ),
        (
            "batch_size: 8",
            "batch_size: 8 fg_fraction: 1.5",
            r"fg_fraction 1\.5 must lie between 0 and 1",
        ),
        ("batch_size: 8", "batch_size: 0", "batch_size 0"),
        ("windows.txt", "absent.txt", r"absent\.txt: cannot be read"),
        (
            "crop_size: 6",
            "crop_size: 6 mean_value: 1 mean_value: 2",
            "2 mean_value; give one, or 3",
        ),
        (
            "crop_size: 6",
            'crop_size: 6 mean_file: "mean"',
            r"mean has shape \(3, 6, 9\), whose middle is no 3×6×6",
        ),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, field: str, instead: str, says: str) -> None:
    write_windows(tmp_path, "5 0.7 0 0 1 1", "0 0 0 0 5 5")
    # As in Caffe, the margin of the width, 1, is that of both axes: one row is missing.
    write_mean(tmp_path / "mean", np.zeros((3, 6, 9), np.float32))
    with pytest.raises(DataError, match=says):
        open_windows((LAYER % ("", "")).replace(field, instead), tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_windows(tmp_path, "5 0.7 0 0 1 1", "0 0 0 0 5 5")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image .*a\.png cannot be decoded"):
        open_windows(LAYER % ("", ""), tmp_path).next()
