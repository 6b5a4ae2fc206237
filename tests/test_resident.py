"""Records that stay on the device: every batch as when it is read and transformed by NumPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.environment import Environment
from converters.layers import make_layer
from converters.prototxt.text import parse_net
from converters.readers import Share
from converters.records.datum import encode_datum, encode_floats, encode_image
from converters.records.lmdb_writer import create_lmdb
from converters.records.mean import write_mean
from gmnet_pt.solver.batches import Batches, open_batches
from gmnet_pt.solver.choices import memory_size
from gmnet_pt.solver.resident import DataMemory
from gmnet_pt.solver.solver import Solver

ROOT = Path(__file__).parent.parent
COUNT, SHAPE = 23, (3, 12, 10)
CPU = torch.device("cpu")
RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (COUNT, *SHAPE), np.uint8)
MEAN = RNG.uniform(90, 160, SHAPE).astype(np.float32)

TRANSFORMS = {
    "none": "",
    "scale": "scale: 0.00390625",
    "scale that rounds": "scale: 0.0173 mean_value: 104.7",
    "values": "mean_value: 103.939 mean_value: 116.779 mean_value: 123.68 scale: 0.017",
    "mean": 'mean_file: "mean"',
    "mirror": 'mirror: true mean_file: "mean" scale: 0.3',
    "crop": "crop_size: 7",
    "all, a value": "crop_size: 7 mirror: true mean_value: 99.1 scale: 0.0078",
    "all, an image": 'crop_size: 8 mirror: true mean_file: "mean" scale: 0.0078',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_mean(tmp_path / "mean", MEAN)
    write(tmp_path, [encode_datum(one, i) for i, one in enumerate(PIXELS)])
    return tmp_path


def write(folder: Path, records: list[bytes]) -> None:
    with create_lmdb(folder / "db", force=True) as writer:
        for number, record in enumerate(records):
            writer.put(b"%04d" % number, record)


def png(pixels: np.ndarray) -> bytes:
    import cv2

    return encode_image(bytes(cv2.imencode(".png", pixels.transpose(1, 2, 0))[1]), 3)


def feed(
    folder: Path,
    transform: str = "",
    size: int | None = None,
    phase: str = "TRAIN",
    batch: int = 5,
    share: Share | None = None,
    device: torch.device = CPU,
) -> Batches:
    """The batches of the records; `size` bytes of memory may be taken, None is streaming."""
    text = f"""layer {{ name: "d" type: "Data" top: "data" top: "label"
      transform_param {{ {transform} }}
      data_param {{ source: "db" batch_size: {batch} backend: LMDB }} }}"""
    layer = make_layer(parse_net(text).layer[0], Environment("net", phase, str(folder)))
    memory = None if size is None else DataMemory(size, device)
    (one,) = open_batches([layer], 3, share or Share(), memory)
    return one


def same(one: Batches, other: Batches, count: int) -> None:
    for _ in range(count):
        a, b = one.next(), other.next()
        assert list(a) == list(b)
        for name in a:
            assert a[name].dtype == b[name].dtype == torch.float32
            assert torch.equal(a[name], b[name])  # to the last bit
        assert one.state() == other.state()


def reads_nothing(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a record that is read is an error."""

    def fail(*_: object) -> None:
        raise AssertionError("a record was read")

    monkeypatch.setattr(batches._reader.records, "extents", fail)


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_batch_is_that_of_numpy(
    folder: Path, name: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first round, which fills the memory, and in later ones, across the last record."""
    text = TRANSFORMS[name]
    streamed, kept = feed(folder, text, None, phase), feed(folder, text, 1 << 20, phase)
    same(kept, streamed, 12)
    reads_nothing(kept, monkeypatch)
    same(kept, streamed, 12)
    kept.close()
    streamed.close()


def test_compressed_records_are_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    write(folder, [png(one) for one in PIXELS])
    streamed, kept = feed(folder, "crop_size: 7"), feed(folder, "crop_size: 7", 1 << 20)
    same(kept, streamed, 12)
    reads_nothing(kept, monkeypatch)
    same(kept, streamed, 6)


@pytest.mark.parametrize("batch", [1, COUNT, COUNT + 4])
def test_batches_of_any_size(folder: Path, batch: int) -> None:
    same(feed(folder, batch=batch, size=1 << 20), feed(folder, batch=batch), 30 // batch + 3)


@pytest.mark.parametrize("share", [Share(1, 3), Share(1, 3, whole=True)])
def test_shares(folder: Path, share: Share) -> None:
    """COUNT is no multiple of what they deal: each process comes to have all records in the end."""
    text = "crop_size: 7 mirror: true"
    same(feed(folder, text, 1 << 20, share=share), feed(folder, text, share=share), 40)


def test_restored_into_either(folder: Path) -> None:
    """A state of one goes on in the other; so does the same one, back and forth."""
    text = "crop_size: 7 mirror: true"
    kept, streamed = feed(folder, text, 1 << 20), feed(folder, text)
    states = []
    for _ in range(9):
        kept.next()
        states.append(kept.state())
    for state in (states[1], states[8], states[4]):
        kept.restore(state)
        streamed.restore(state)
        same(kept, streamed, 7)


def test_a_state_in_the_middle_leaves_the_rest_to_be_read(folder: Path) -> None:
    first = feed(folder)
    for _ in range(3):
        first.next()
    kept = feed(folder, size=1 << 20)
    kept.restore(first.state())
    same(kept, first, 20)


@pytest.mark.parametrize("size", [0, COUNT * 364 - 1])
def test_what_does_not_fit_streams(folder: Path, size: int) -> None:
    kept = feed(folder, "mirror: true", size)
    same(kept, feed(folder, "mirror: true"), 12)
    assert kept._resident is None


def test_the_memory_is_one_for_all_layers(folder: Path) -> None:
    """And free again once a layer is closed."""
    memory, size = DataMemory(COUNT * 364, CPU), COUNT * 364
    assert memory.take(size)
    assert not memory.take(1)
    memory.give_back(size)
    assert memory.take(size)


def test_images_of_other_sizes_are_streamed_among_those_that_stay(folder: Path) -> None:
    records = [encode_datum(one[:, : 12 - i % 2], i) for i, one in enumerate(PIXELS)]
    write(folder, records)
    text = "crop_size: 7 mirror: true"
    same(feed(folder, text, 1 << 20), feed(folder, text), 20)


def test_floats_stream(folder: Path) -> None:
    write(folder, [encode_floats(one.astype(np.float32) / 7) for one in PIXELS])
    kept = feed(folder, "scale: 0.3", 1 << 20)
    same(kept, feed(folder, "scale: 0.3"), 8)
    assert kept._resident is None


def test_what_is_done_to_a_batch_is_not_done_to_the_records(folder: Path) -> None:
    kept, streamed = feed(folder, size=1 << 20), feed(folder)
    for _ in range(12):
        given = kept.next()
        for tensor, expected in zip(given.values(), streamed.next().values(), strict=True):
            assert torch.equal(tensor, expected)
            tensor.fill_(-1)


def test_nothing_waits_for_a_device(folder: Path) -> None:
    """On `meta` whatever asks a tensor for a number, or leaves one on the CPU, fails."""
    meta = torch.device("meta")
    for text in TRANSFORMS.values():
        kept = feed(folder, text, 1 << 20, device=meta)
        for _ in range(12):
            assert {tensor.device for tensor in kept.next().values()} == {meta}
        kept.close()


def test_sizes() -> None:
    found = [memory_size(text) for text in ("0", "1000", "2K", "1.5M", "2G", "2GiB", "3gb")]
    assert found == [0, 1000, 2048, 1572864, 2 << 30, 2 << 30, 3 << 30]
    for wrong in ("", "G", "-1", "2X", "nan", "inf"):
        with pytest.raises(ValueError, match=r".*"):
            memory_size(wrong)


# A run ------------------------------------------------------------------------------------------


def solver_file(folder: Path) -> Path:
    (folder / "net.prototxt").write_text(
        """name: "n"
        layer { name: "d" type: "Data" top: "data" top: "label" include { phase: TRAIN }
          transform_param { crop_size: 7 mirror: true mean_file: "mean" scale: 0.01 }
          data_param { source: "db" batch_size: 5 backend: LMDB } }
        layer { name: "t" type: "Data" top: "data" top: "label" include { phase: TEST }
          transform_param { crop_size: 7 mean_file: "mean" scale: 0.01 }
          data_param { source: "db" batch_size: 5 backend: LMDB } }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
          inner_product_param { num_output: 30 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    )
    path = folder / "solver.prototxt"
    path.write_text(
        f'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 20 '
        f'test_iter: 4 test_interval: 5 random_seed: 4 snapshot_prefix: "{folder}/s"'
    )
    return path


def test_a_run_is_the_same_and_goes_on_the_same(folder: Path) -> None:
    path = solver_file(folder)

    def trained(size: int, then: int, start: Path | None = None) -> list[np.ndarray]:
        with Solver(
            path,
            snapshot=start,
            data_memory=size,
            layout="contiguous",
            overrides=[f"max_iter={then}"],
        ) as solver:
            solver.solve()
            assert (solver.batches(solver.net)[0]._resident is not None) == bool(size)
            return [blob.detach().numpy().copy() for blob in solver.net.learnable]

    expected = trained(0, 20)
    for size in (1 << 20, 0):
        trained(size, 9)
        found = trained(1 << 20, 20, folder / "s_iter_9.solverstate")
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, b)


# Larger than memory -------------------------------------------------------------------------------


ROUNDS = """
import resource, sys
sys.path.insert(0, "tests")
from pathlib import Path
import test_resident as t
batches = t.feed(Path(sys.argv[1]), "crop_size: 60 mirror: true", int(sys.argv[2]), batch=50)
peaks = []
for _ in range(4):
    for _ in range(40):
        batches.next()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
assert batches._resident is None
print(*peaks)
"""


def test_a_database_larger_than_the_memory_streams_in_constant_memory(tmp_path: Path) -> None:
    """2000 records of 12,288 bytes (24 MB) beside 8 MB that may be taken, four rounds."""
    pixels = RNG.integers(0, 256, (2000, 3, 64, 64), np.uint8)
    write(tmp_path, [encode_datum(one, i % 9) for i, one in enumerate(pixels)])
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS, tmp_path, str(8 << 20)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    peaks = [int(word) * 1024 for word in done.stdout.split()]
    assert len(peaks) == 4
    # A leak of a round's pixels would be 24 MB; the allocator's own blocks are below 4.
    assert peaks[-1] - peaks[0] < 4 << 20
