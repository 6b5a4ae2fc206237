"""Images with boxes: the builder's databases of VOC's and COCO's files, AnnotatedData's edges.

`fork_fields/annotated.py` shows what each field of the layer does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated_case import picture, record, write_database
from field_checks import open_layer
from fork_fields.annotated import BOX, NEAREST, opened, rows_of
from oracle import Array

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import CaffeError, DataError
from converters.proto import caffe_pb2 as pb
from converters.readers import boxes as geometry
from converters.records.lmdb_reader import LmdbReader

MAP = """
item { name: "none_of_the_above" label: 0 display_name: "background" }
item { name: "cat" label: 1 display_name: "Cat" }
item { name: "18" label: 2 display_name: "dog" }
item { name: "dog" label: 3 display_name: "a dog" }
"""
Object = tuple[str, tuple[float, float, float, float], bool]
CAT: Object = ("cat", (6, 4, 30, 20), True)
DOG: Object = ("dog", (1, 1, 60, 40), False)


def voc(*objects: Object, size: tuple[int, int] | None = (40, 60)) -> str:
    sides = "<size><width>{1}</width><height>{0}</height></size>".format(*size) if size else ""
    listed = "".join(
        f"<object><name>{name}</name><difficult>{int(hard)}</difficult><bndbox><xmin>{box[0]}"
        f"</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, hard in objects
    )
    return f"<annotation>{sides}{listed}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    import cv2

    for number in range(3):
        image = np.ascontiguousarray(picture(40, 60, number).transpose(1, 2, 0))
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
        (tmp_path / f"{number}.xml").write_text(voc(CAT, DOG, CAT)[: -1 if number else None])
    (tmp_path / "1.xml").write_text(voc())
    (tmp_path / "2.xml").write_text(voc(DOG, size=None))
    (tmp_path / "map").write_text(MAP)
    (tmp_path / "list").write_text("".join(f"{n}.png {n}.xml\n" for n in range(3)))
    return tmp_path


def build(root: Path, *options: str, listed: str = "list", out: str = "db") -> int:
    arguments = ["annotated", str(root), str(root / listed), str(root / out)]
    return run_subcommand(
        "converters", "", COMMANDS, [*arguments, "--label-map", str(root / "map"), *options]
    )


def records_of(folder: Path) -> dict[str, pb.AnnotatedDatum]:
    with LmdbReader(folder) as reader:
        return {key.decode(): pb.AnnotatedDatum.FromString(bytes(value)) for key, value in reader}


def test_voc_becomes_records_as_ssds_tool_writes_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(root) == 0
    assert "3 records, 4 boxes" in capsys.readouterr().out
    found = records_of(root / "db")
    assert list(found) == ["00000000_0.png", "00000001_1.png", "00000002_2.png"]
    one = found["00000000_0.png"]
    assert one.type == pb.AnnotatedDatum.BBOX and one.HasField("type")
    datum = one.datum
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 40, 60, -1)
    assert datum.encoded and datum.data == (root / "0.png").read_bytes()
    groups = [(g.group_label, [a.instance_id for a in g.annotation]) for g in one.annotation_group]
    assert groups == [(1, [0, 1]), (3, [0])]
    box = one.annotation_group[0].annotation[1].bbox
    wanted = np.array([6 / 60, 4 / 40, 30 / 60, 20 / 40], np.float32)
    np.testing.assert_array_equal(
        np.array([box.xmin, box.ymin, box.xmax, box.ymax], np.float32), wanted
    )
    assert box.difficult and not one.annotation_group[1].annotation[0].bbox.difficult
    assert not found["00000001_1.png"].annotation_group


def test_the_layer_reads_what_the_builder_wrote(root: Path) -> None:
    assert build(root, "--raw", "--resize", "20x30") == 0
    data, rows = rows_of(opened(root, batch=3))
    assert data.shape == (3, 3, 20, 30)
    np.testing.assert_allclose(
        rows[:, [0, 1, 2, 7]], [[0, 1, 0, 1], [0, 1, 1, 1], [0, 3, 0, 0], [2, 3, 0, 0]]
    )
    np.testing.assert_allclose(rows[2, 3:7], [1 / 60, 1 / 40, 1, 1])


def coco(**changes: Any) -> str:
    found: dict[str, Any] = {
        "images": [
            {"id": 5 + n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in range(3)
        ],
        "annotations": [
            {"id": 1, "image_id": 6, "category_id": 17, "bbox": [6, 4, 24, 16], "iscrowd": 1},
            {"id": 2, "image_id": 6, "category_id": 18, "bbox": [0.5, 0, 59, 40]},
            {"id": 3, "image_id": 5, "category_id": 17, "bbox": [0, 0, 60, 40]},
        ],
        "categories": [{"id": 17, "name": "Cat"}, {"id": 18, "name": "dog"}],
    }
    return json.dumps({**found, **changes})


@pytest.mark.parametrize("through_a_list", [False, True])
def test_coco(root: Path, through_a_list: bool) -> None:
    """A category's number is a name before its own name is; names for display are names too."""
    (root / "set.json").write_text(coco())
    if through_a_list:
        (root / "list").write_text("2.png set.json\n1.png set.json\n0.png set.json\n")
    assert build(root, listed="list" if through_a_list else "set.json") == 0
    found = {key[9:]: one for key, one in records_of(root / "db").items()}
    assert list(found) == ["2.png", "1.png", "0.png"] if through_a_list else sorted(found)
    groups = found["1.png"].annotation_group
    assert [group.group_label for group in groups] == [1, 2]
    box = groups[0].annotation[0].bbox
    np.testing.assert_allclose([box.xmin, box.ymin, box.xmax, box.ymax], [0.1, 0.1, 0.5, 0.5])
    assert box.difficult and not groups[1].annotation[0].bbox.difficult
    assert not found["2.png"].annotation_group


def test_ssds_json_of_one_image(root: Path) -> None:
    one = {
        "image": {"height": 40, "width": 60},
        "annotation": [{"category_id": 18, "bbox": [6, 4, 24, 16], "iscrowd": 0}],
    }
    (root / "0.json").write_text(json.dumps(one))
    (root / "list").write_text("0.png 0.json\n")
    assert build(root) == 0
    (found,) = records_of(root / "db").values()
    assert found.annotation_group[0].group_label == 2


def test_bad_boxes_may_be_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "0.xml").write_text(
        voc(DOG, ("cat", (5, 5, 5, 9), False), ("cat", (0, 0, 62, 9), False))
    )
    assert build(root) == 1
    assert "object 2 (cat) of 0.png: box 5, 5 to 5, 9 is empty" in capsys.readouterr().err
    assert not (root / "db").exists()
    assert build(root, "--drop-bad-boxes") == 0
    assert "3 records, 2 boxes, 2 bad boxes left out" in capsys.readouterr().out


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
WRONG = [
    ("0.xml", BOMB, r"0\.xml: declares a document type"),
    ("0.xml", OUTSIDE, r"0\.xml: declares a document type"),
    ("0.xml", BOMB.encode("utf-16"), r"0\.xml: declares a document type"),
    ("0.xml", "<annotation>", r"0\.xml: is no XML"),
    ("0.xml", "", r"0\.xml: is no XML"),
    ("0.xml", "<html/>", r"0\.xml: is <html>, not an <annotation>"),
    ("0.xml", voc(("cow", (1, 1, 5, 5), False)), "object 1 of 0.png: the label map has no 'cow'"),
    ("0.xml", voc(("cat", (1, 1, 75, 5), False)), "reaches outside the image of 60 by 40"),
    ("0.xml", voc(("cat", (-3, 1, 7, 5), False)), "reaches outside the image of 60 by 40"),
    ("0.xml", voc(("cat", (9, 1, 7, 5), False)), "box 9, 1 to 7, 5 is empty or inside out"),
    ("0.xml", voc(CAT).replace("<xmin>6", "<xmin>six"), r"object 1 \(cat\): xmin 'six' is no num"),
    ("0.xml", voc(CAT).replace("<xmin>6", "<xmin>nan"), r"object 1 \(cat\): xmin 'nan' is no num"),
    ("0.xml", voc(CAT).replace("xmin>", "x>"), r"object 1 \(cat\): xmin is missing"),
    ("0.xml", voc(CAT).replace("cat", ""), "object 1 has no name"),
    ("0.xml", voc(CAT, size=(-1, 2)), "size/height '-1' is no number of pixels"),
    ("0.png", b"GIF", r"list:1: .*0\.png is not an image"),
    ("0.png", None, r"list:1: image .*0\.png does not exist"),
    ("0.xml", None, r"list:1: .*0\.xml does not exist"),
    ("list", "", "list: names no image"),
    ("list", "0.png\n", r"list:1: '0\.png': a line is IMAGE ANNOTATION"),
    ("list", "0.png 0.txt\n", r"list:1: 0\.txt: an annotation is an \.xml or \.json"),
    ("map", "", "map: has no item"),
    ("map", 'item { name: "cat" label: 1 } item { name: "cat" label: 2 }', "two items .* 'cat'"),
    ("map", 'item { nam: "cat" }', r"map:1:8: .*nam"),
]
WRONG_SETS = [
    ("{", "is no JSON"),
    ("[" * 100_000, "is no JSON"),
    ("{}", "has neither COCO's images and annotations nor"),
    ('{"images": []}', "names no image"),
    ('{"images": [7]}', "images is no list of objects"),
    (coco(annotations=[{"image_id": 9, "category_id": 17}]), "no image has image_id 9"),
    (coco(annotations=[{"image_id": 5, "category_id": 9}]), "no category has id 9"),
    (
        coco(annotations=[{"image_id": 5, "category_id": 17, "bbox": [1]}]),
        r"bbox \[1\] is not x, y",
    ),
    (coco(images=[{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]), "a is there twice"),
    (coco(images=[{"id": 1}]), "file_name None is no file's name"),
    (coco(categories=[{"id": 17, "name": "cow"}]), "no category has id 18"),
    (coco(categories=[{"id": 17, "name": "cow"}, {"id": 18}]), "the label map has no 'cow'"),
]


@pytest.mark.parametrize(("file", "content", "says"), WRONG)
def test_what_is_wrong_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], file: str, content: Any, says: str
) -> None:
    (root / file).unlink()
    if content is not None:
        (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert build(root) == 1
    error = capsys.readouterr().err
    assert re.search(says, error) and error.count("\n") == 1
    assert not (root / "db").exists()


@pytest.mark.parametrize(("content", "says"), WRONG_SETS)
def test_what_is_wrong_with_a_set_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], content: str, says: str
) -> None:
    (root / "set.json").write_text(content)
    assert build(root, listed="set.json") == 1
    error = capsys.readouterr().err
    assert re.search(rf"set\.json: .*{says}", error) and error.count("\n") == 1


# The layer's edges -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("transform_param { resize_param { height: 5 } }", "height 5, width 0: both must be posit"),
        ("transform_param { expand_param { prob: 1 } }", "max_expand_ratio 1 must be above 1"),
        (
            "transform_param { distort_param { contrast_prob: 1 contrast_lower: 2 } }",
            "contrast_lower 2, contrast_upper 0",
        ),
        (
            "transform_param { distort_param { hue_prob: 1 hue_delta: -2 } }",
            "hue_delta -2 must not be negative",
        ),
        ("transform_param { crop_h: 3 }", "crop_h 3, crop_w 0: give both"),
        ("transform_param { crop_h: 3 crop_w: 30 }", "crop_size 3×30 is larger than the image"),
        (
            "annotated_data_param { batch_sampler { sampler { min_scale: 0 } } }",
            "batch_sampler 0: sampler min_scale 0, max_scale 1",
        ),
        (
            "annotated_data_param { batch_sampler { sampler { max_aspect_ratio: 0.5 } } }",
            "min_aspect_ratio 1, max_aspect_ratio 0.5",
        ),
        (
            "transform_param { resize_param { height: 9 width: 9 pad_value: 1 pad_value: 2 "
            "resize_mode: FIT_LARGE_SIZE_AND_PAD } }",
            "has 2 pad_value for 3 channels",
        ),
    ],
)
def test_settings_that_the_fork_stops_at(tmp_path: Path, settings: str, says: str) -> None:
    write_database(tmp_path, [record(picture(10, 20), [BOX])])
    with pytest.raises(CaffeError, match=says):
        opened(tmp_path, settings).next()


def test_fit_small_size_needs_batches_of_one(tmp_path: Path) -> None:
    write_database(tmp_path, [record(picture(10, 20), [BOX])])
    small = "resize_param { height: 5 width: 5 resize_mode: FIT_SMALL_SIZE }"
    with pytest.raises(DataError, match="batch_size 2 with resize_mode FIT_SMALL_SIZE"):
        opened(tmp_path, f"transform_param {{ {small} }}", 2)


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    plain = pb.Datum(channels=3, height=1, width=1, data=b"abc", label=1).SerializeToString()
    lanes = pb.AnnotatedDatum.FromString(record(picture(4, 4), [BOX]))
    lanes.type = pb.AnnotatedDatum.LANE
    whole = record(picture(4, 4), [BOX])
    for number, (bad, says) in enumerate(
        [
            (plain, "AnnotatedDatum"),
            (b"\xff", "is not an AnnotatedDatum record"),
            (lanes.SerializeToString(), "annotations of type LANE; only BBOX"),
            (record(picture(4, 4), [BOX], False), "tells no type of annotations"),
        ]
    ):
        folder = tmp_path / str(number)
        write_database(folder, [whole, whole, bad])
        reader = opened(folder, batch=2)
        assert reader.shapes() == [(2, 3, 4, 4), (1, 1, 1, 8)]
        reader.next()
        with pytest.raises(DataError, match=f"record '00000002' .*{says}"):
            reader.next()


def test_a_data_layer_says_what_it_was_given(tmp_path: Path) -> None:
    write_database(tmp_path, [record(picture(4, 4), [BOX])])
    with pytest.raises(DataError, match=r"'00000000' is an AnnotatedDatum.* AnnotatedData reads"):
        open_layer("Data", 'data_param { source: "db" batch_size: 1 }', tmp_path).next()


def test_images_of_several_sizes_need_a_resizing(tmp_path: Path) -> None:
    write_database(tmp_path, [record(picture(4, 4), [BOX]), record(picture(5, 4), [BOX])])
    with pytest.raises(CaffeError, match=r"images of shape \(3, 4, 4\) and \(3, 5, 4\)"):
        opened(tmp_path, batch=2).next()


EVERYTHING = f"""
transform_param {{
  mirror: true scale: 0.5 mean_value: 104
  resize_param {{ height: 12 width: 12 {NEAREST} interp_mode: AREA interp_mode: CUBIC }}
  emit_constraint {{ emit_type: CENTER }}
  distort_param {{ brightness_prob: 0.5 brightness_delta: 32 hue_prob: 0.5 hue_delta: 18 }}
  expand_param {{ prob: 0.5 max_expand_ratio: 3 }}
}}
annotated_data_param {{
  batch_sampler {{ max_sample: 1 max_trials: 1 }}
  batch_sampler {{ sampler {{ min_scale: 0.3 }} sample_constraint {{ min_jaccard_overlap: 0.3 }} }}
}}
"""


def test_a_restored_reader_goes_on_and_so_do_its_random_choices(tmp_path: Path) -> None:
    records = [record(picture(16, 16, seed), [BOX, (1, 0, 0, 0.5, 0.5)]) for seed in range(5)]
    write_database(tmp_path, records)
    reader = opened(tmp_path, EVERYTHING, 3)
    for _ in range(3):
        reader.next()
    state = reader.state()
    wanted = [reader.next() for _ in range(4)]
    again = opened(tmp_path, EVERYTHING, 3)
    again.restore(state)
    for batch in wanted:
        found = again.next()
        np.testing.assert_array_equal(found["data"], batch["data"])
        np.testing.assert_array_equal(found["label"], batch["label"])
    assert len({batch["data"].tobytes() for batch in wanted}) == 4


def test_boxes_are_mirrored_with_their_image(tmp_path: Path) -> None:
    write_database(tmp_path, [record(picture(4, 8), [(1, 0.125, 0.25, 0.5, 1)])] * 16)
    data, rows = rows_of(opened(tmp_path, "transform_param { mirror: true }", 16))
    flipped = [not np.array_equal(one, picture(4, 8)) for one in data]
    assert any(flipped) and not all(flipped)
    for row, flip in zip(rows, flipped):
        xs = [0.5, 0.875] if flip else [0.125, 0.5]
        np.testing.assert_array_equal(row[3:7], [xs[0], 0.25, xs[1], 1])


def test_fit_small_size_with_scales(tmp_path: Path) -> None:
    """height_scale and width_scale: boxes count in those, as SSD's pyramid tests have it."""
    write_database(tmp_path, [record(picture(10, 20), [BOX])])
    small = "resize_param { height: 5 width: 5 resize_mode: FIT_SMALL_SIZE %s }"
    scaled = small % "height_scale: 4 width_scale: 2"
    _, rows = rows_of(opened(tmp_path, f"transform_param {{ {scaled} }}"))
    wanted = np.array(BOX[1:]) * [10 / 2, 5 / 4, 10 / 2, 5 / 4]
    np.testing.assert_allclose(rows[0, 3:7], wanted, rtol=1e-6)


# Geometry against loops over numbers -------------------------------------------------------------


def drawn(count: int) -> Array:
    corners = np.random.default_rng(count).uniform(-0.2, 1.2, (count, 2, 2))
    return np.sort(corners, axis=1).reshape(count, 4).astype(np.float32)


def area(box: Array) -> float:
    return max(0.0, float(box[2] - box[0])) * max(0.0, float(box[3] - box[1]))


def shared(a: Array, b: Array) -> float:
    return area(np.array([*np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:])]))


def test_overlaps_and_coverages() -> None:
    first, second = drawn(9), drawn(11)
    found = geometry.overlaps(first[:, np.newaxis], second[np.newaxis])
    covered = geometry.coverages(first[:, np.newaxis], second[np.newaxis])
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            both = shared(a, b)
            np.testing.assert_allclose(found[i, j], both / (area(a) + area(b) - both), rtol=1e-4)
            np.testing.assert_allclose(covered[i, j], both / area(a), rtol=1e-4)
    apart = np.zeros((1, 4), np.float32)
    assert geometry.overlaps(apart, apart)[0] == geometry.coverages(apart, apart)[0] == 0


def test_of_several_demands_the_first_decides() -> None:
    """SSD remembers that a box passed the first, whatever the next one says."""
    param = pb.BatchSampler(max_trials=200)
    param.sampler.min_scale = 0.3
    one = np.array([[0.2, 0.2, 0.7, 0.7]], np.float32)
    param.sample_constraint.min_object_coverage = 2
    random = np.random.default_rng
    assert not len(geometry.samples([param], one, random(1)))
    param.sample_constraint.min_jaccard_overlap = 0.4
    found = geometry.samples([param], one, random(1))
    assert 10 < len(found) < 200
    assert (geometry.overlaps(found, one) >= 0.4).all()
    param.max_sample = 7
    np.testing.assert_array_equal(geometry.samples([param], one, random(1)), found[:7])
    assert not len(geometry.samples([param], one[:0], random(1)))
