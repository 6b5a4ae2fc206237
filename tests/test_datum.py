"""converters.records.datum: the bytes of a record, against protobuf's own serialisation."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.errors import DataError
from converters.proto import caffe_pb2 as pb
from converters.records.datum import (
    RecordError,
    decode_batch,
    decode_datum,
    decode_image,
    decode_images,
    encode_batch,
    encode_datum,
    encode_image,
)

LABELS = [0, 1, 127, 128, 999, 2**31 - 1, -1, -(2**31)]


def reference(pixels: np.ndarray, label: int, **fields: object) -> bytes:
    channels, height, width = pixels.shape
    return pb.Datum(
        channels=channels,
        height=height,
        width=width,
        data=pixels.tobytes(),
        label=label,
        **fields,  # type: ignore[arg-type]
    ).SerializeToString()


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 1, 1), (200, 3, 130)])
def test_encode_gives_protobufs_bytes(shape: tuple[int, int, int], label: int) -> None:
    (pixels,) = images(1, *shape)
    assert encode_datum(pixels, label) == reference(pixels, label)
    assert encode_datum(pixels, label, write_encoded=True) == reference(
        pixels, label, encoded=False
    )
    datum = decode_datum(encode_datum(pixels, label))
    assert datum.label == label
    assert datum.image().shape == shape
    assert (datum.image() == pixels).all()


def test_the_explicit_encoded_false_is_two_bytes() -> None:
    (pixels,) = images(1, 1, 2, 2)
    assert encode_datum(pixels, 0) == b"\x08\x01\x10\x02\x18\x02\x22\x04" + pixels.tobytes() + (
        b"\x28\x00"
    )
    assert encode_datum(pixels, 0, write_encoded=True)[-4:] == b"\x28\x00\x38\x00"


@pytest.mark.parametrize("label", LABELS)
def test_encoded_records_have_no_shape(label: int) -> None:
    image = b"\xff\xd8not really a JPEG" * 20
    record = encode_image(image, label)
    assert record == pb.Datum(data=image, label=label, encoded=True).SerializeToString()
    datum = decode_datum(record)
    assert (datum.encoded, bytes(datum.data), datum.label) == (True, image, label)
    with pytest.raises(DataError, match=r"cannot be decoded"):
        datum.image()


@pytest.mark.parametrize("labels", [[0, 9, 127], [0, 128, 5], [3, -1, 2]])
def test_a_batch_encodes_as_its_records(labels: list[int]) -> None:
    pixels = images(3, 3, 5, 4)
    records = encode_batch(pixels, np.array(labels))
    expected = [reference(image, label) for image, label in zip(pixels, labels, strict=True)]
    assert [bytes(record) for record in records] == expected
    batch = decode_batch(records)
    assert batch.pixels.dtype == np.uint8
    assert batch.labels.tolist() == labels
    assert (batch.pixels == pixels).all()


def test_a_batch_of_transposed_pixels() -> None:
    pixels = images(4, 3, 6, 6).transpose(0, 1, 3, 2)
    batch = decode_batch(encode_batch(pixels, np.arange(4)))
    assert (batch.pixels == pixels).all()


def test_float_data_is_decoded() -> None:
    values = np.random.RandomState(0).randn(3, 2, 5, 7).astype(np.float32)
    records = [
        pb.Datum(
            channels=2, height=5, width=7, label=-3, float_data=value.ravel()
        ).SerializeToString()
        for value in values
    ]
    batch = decode_batch(records)
    assert batch.pixels.dtype == np.float32
    assert (batch.pixels == values).all()
    assert batch.labels.tolist() == [-3] * 3


def test_data_wins_over_float_data() -> None:
    (pixels,) = images(1, 1, 2, 2)
    record = reference(pixels, 1, float_data=[1.0] * 4)
    assert (decode_datum(record).image() == pixels).all()


def test_other_field_orders_and_unknown_fields_are_read() -> None:
    (pixels,) = images(1, 2, 3, 4)
    data = b"\x22\x18" + pixels.tobytes()
    shuffled = b"\x38\x00\x28\x07" + data + b"\x18\x04\x10\x03\x08\x02"
    for record in (shuffled, shuffled + b"\x80\x01\x05"):
        datum = decode_datum(record)
        assert datum.label == 7
        assert (datum.image() == pixels).all()


def test_mixed_forms_in_one_batch() -> None:
    pixels = images(4, 1, 4, 4)
    records = [encode_datum(image, label) for image, label in zip(pixels, range(4), strict=True)]
    records[2] = encode_datum(pixels[2], 2, write_encoded=True)
    batch = decode_batch(records)
    assert batch.labels.tolist() == [0, 1, 2, 3]
    assert (batch.pixels == pixels).all()


def test_same_length_but_another_shape_is_no_uniform_batch() -> None:
    pixels = images(2, 1, 4, 8)
    records = [encode_datum(pixels[0], 1), encode_datum(pixels[1].reshape(1, 8, 4), 2)]
    with pytest.raises(RecordError, match=r"1×8×4.*1×4×8") as caught:
        decode_batch(records)
    assert caught.value.index == 1
    decoded, labels = decode_images(records)
    assert [image.shape for image in decoded] == [(1, 4, 8), (1, 8, 4)]
    assert labels.tolist() == [1, 2]


def test_the_pixels_of_a_batch_may_be_written() -> None:
    pixels = images(2, 1, 4, 4)
    batch = decode_batch(encode_batch(pixels, np.arange(2)))
    batch.pixels[0] = 0
    assert (batch.pixels[1] == pixels[1]).all()


@pytest.mark.parametrize(
    "record",
    [
        b"\x22\xff\x01short",
        b"\xff\xff\xff\xff",
        b"\x08",
        b"\x28" + b"\xff" * 12,
        reference(images(1, 1, 4, 4)[0], 1)[:-5],
    ],
)
def test_damaged_bytes_are_refused(record: bytes) -> None:
    with pytest.raises(DataError, match=r"not a Datum"):
        decode_datum(record)


def test_values_that_do_not_fill_the_shape_are_refused() -> None:
    record = pb.Datum(channels=3, height=4, width=4, data=b"x" * 47, label=1).SerializeToString()
    with pytest.raises(DataError, match=r"47 values.*3 × 4 × 4"):
        decode_datum(record).image()
    good = encode_datum(images(1, 3, 4, 4)[0], 1)
    with pytest.raises(RecordError, match=r"record 2"):
        decode_batch([good, good, record])
    with pytest.raises(DataError, match=r"no records"):
        decode_batch([])


TAGS = [b"\x08", b"\x10", b"\x18", b"\x22", b"\x28", b"\x38"]
VALUES = [b"\x00", b"\x01", b"\x80\x01", b"\x02ab", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01"]
ODD = [b"\xff" * 10 + b"\x01", b"\x35abcd", b"\x32\x04abcd", b"\x40\x01", b"\x0b", b"\x00"]
PIECES = st.tuples(st.sampled_from(TAGS), st.sampled_from(VALUES)).map(b"".join)


@settings(max_examples=300)
@given(st.lists(PIECES | st.sampled_from(ODD) | st.binary(max_size=3), max_size=8).map(b"".join))
def test_any_bytes_decode_as_protobuf_decodes_them(record: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        message = pb.Datum.FromString(record)
    except DecodeError:
        with pytest.raises(DataError):
            decode_datum(record)
        return
    datum = decode_datum(record)
    assert (datum.channels, datum.height, datum.width) == (
        message.channels,
        message.height,
        message.width,
    )
    assert (bytes(datum.data), datum.label, datum.encoded) == (
        message.data,
        message.label,
        message.encoded,
    )


def test_compressed_images_are_bgr_planes() -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = images(1, 5, 7, 3)[0]
    image = cv2.imencode(".png", pixels)[1].tobytes()
    assert (decode_image(image) == pixels.transpose(2, 0, 1)).all()
    assert decode_image(image, color=False).shape == (1, 5, 7)
    gray = cv2.imencode(".png", pixels[:, :, 0])[1].tobytes()
    assert (decode_image(gray)[0] == pixels[:, :, 0]).all()
    assert decode_image(gray, color=True).shape == (3, 5, 7)
    deep = cv2.imencode(".png", pixels.astype(np.uint16))[1].tobytes()
    with pytest.raises(DataError, match=r"8 bits"):
        decode_image(deep)


def test_many_images_are_decoded_by_threads_in_their_order() -> None:
    """The first bad record is named, wherever others fail meanwhile; a forked process can too."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(3)
    pixels = [rng.integers(0, 256, (5 + i % 3, 7, 3), np.uint8) for i in range(100)]
    records = [encode_image(bytes(cv2.imencode(".png", one)[1]), i) for i, one in enumerate(pixels)]

    def check() -> None:
        images, labels = decode_images(records)
        assert labels.tolist() == list(range(100))
        for image, one in zip(images, pixels, strict=True):
            assert np.array_equal(image, one.transpose(2, 0, 1))

    check()
    process = multiprocessing.get_context("fork").Process(target=check)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    for bad in (90, 60, 31):
        records[bad] = records[bad][:40]
        with pytest.raises(RecordError) as caught:
            decode_images(records)
        assert caught.value.index == bad
