"""A caffemodel of VGG-16's size, read and written, beside NumPy on the same bytes.

Times are taken with the file in the page cache; both writers sync it to the disk. Memory is the
peak of a process of its own that does nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from bench.options import Measurements, Options
from bench.processes import environment
from bench.rows import Measure, Row, alternate
from converters import load_net
from converters.formats.blob import FloatArray
from converters.formats.caffemodel import read_caffemodel, write_caffemodel
from converters.net.written import snapshot_net
from converters.proto import caffe_pb2 as pb
from converters.prototxt.text import parse_net

TIME_BOUND = 5.0
MEMORY_BOUND = 2.5
REPEATS = 5
CONVOLUTIONS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
# A 2x2 pooling follows these, so that 224x224 inputs leave 512 channels of 7x7.
POOLED = (1, 3, 6, 9, 12)
FULL = ((4096, 25088), (4096, 4096), (1000, 4096))

# What the measured processes run; the last line each prints is its peak in bytes.
PEAK = """
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""
READ = (
    "from converters.formats.caffemodel import read_caffemodel as read; model = read(sys.argv[1])"
)
LOAD = "from converters import load_net; net = load_net(sys.argv[2], weights=sys.argv[1])"
WRITE = """
from converters.formats.caffemodel import read_caffemodel, write_caffemodel
from converters.proto import caffe_pb2 as pb
net, blobs = pb.NetParameter(), {}
for layer in read_caffemodel(sys.argv[1]).layers:
    net.layer.add(name=layer.name, type=layer.type)
    blobs[layer.name] = layer.blobs
write_caffemodel(sys.argv[1] + ".copy", net, blobs)
"""


def measurements(options: Options) -> Measurements:
    """VGG-16's file."""
    return {"vgg16": rows}


def rows() -> Iterable[Row]:
    """Time and memory of reading and writing 138 million parameters (550 MB)."""
    net = vgg16()
    with tempfile.TemporaryDirectory(prefix="files_bench_") as folder:
        model, raw = Path(folder, "vgg16.caffemodel"), Path(folder, "raw")
        prototxt = Path(folder, "vgg16.prototxt")
        prototxt.write_text(str(net))
        blobs = random_blobs()
        write, write_raw = alternate(
            partial(write_caffemodel, model, snapshot_net(net, "TEST"), blobs),
            partial(write_with_numpy, raw, blobs),
            REPEATS,
        )
        check(model, blobs)
        size = model.stat().st_size
        note = f"{size / 1e6:.0f} MB"
        yield Row("caffemodel written", write, write_raw, TIME_BOUND, note=note)
        read, read_raw = alternate(
            partial(read_caffemodel, model), partial(np.fromfile, model, np.uint8), REPEATS
        )
        yield Row("caffemodel read", read, read_raw, TIME_BOUND, note=note)
        load, load_raw = alternate(
            partial(load_net, prototxt, weights=model),
            partial(np.fromfile, model, np.uint8),
            REPEATS,
        )
        yield Row("caffemodel loaded into a net", load, load_raw, TIME_BOUND, note=note)
        for name, script in (("read", READ), ("written", WRITE), ("loaded into a net", LOAD)):
            peak = Measure((peak_bytes(script, model, prototxt) / 1e6,))
            file = Measure((size / 1e6,))
            yield Row(
                f"caffemodel {name}: peak memory",
                peak,
                file,
                MEMORY_BOUND,
                unit="MB",
                note="whole process; beside the file's size",
            )


def vgg16() -> pb.NetParameter:
    """VGG-16 as a deploy net for one image of (3, 224, 224)."""
    bottom = "data"
    layers = [
        'name: "VGG16" layer { name: "data" type: "Input" top: "data" '
        "input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }"
    ]
    for index, outputs in enumerate(CONVOLUTIONS):
        name = f"conv{index}"
        settings = f"num_output: {outputs} kernel_size: 3 pad: 1"
        layers.append(layer(name, "Convolution", bottom, f"convolution_param {{ {settings} }}"))
        layers.append(
            f'layer {{ name: "relu{index}" type: "ReLU" bottom: "{name}" top: "{name}" }}'
        )
        bottom = name
        if index in POOLED:
            bottom = f"pool{index}"
            layers.append(
                layer(bottom, "Pooling", name, "pooling_param { kernel_size: 2 stride: 2 }")
            )
    for index, (outputs, _) in enumerate(FULL):
        settings = f"inner_product_param {{ num_output: {outputs} }}"
        layers.append(layer(f"fc{index}", "InnerProduct", bottom, settings))
        bottom = f"fc{index}"
    return parse_net("\n".join(layers), "vgg16")


def layer(name: str, kind: str, bottom: str, settings: str) -> str:
    """A layer with one bottom, and one top of its own name."""
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {settings} }}'


def random_blobs() -> dict[str, list[FloatArray]]:
    """VGG-16's parameters, drawn at random."""
    random = np.random.default_rng(0)
    inputs = (3, *CONVOLUTIONS)
    shapes: dict[str, tuple[int, ...]] = {
        f"conv{index}": (outputs, inputs[index], 3, 3) for index, outputs in enumerate(CONVOLUTIONS)
    }
    shapes |= {f"fc{index}": shape for index, shape in enumerate(FULL)}
    return {
        name: [random.standard_normal(one, np.float32) for one in (shape, shape[:1])]
        for name, shape in shapes.items()
    }


def write_with_numpy(path: Path, blobs: dict[str, list[FloatArray]]) -> None:
    """The same numbers, one array after the other, synced to the disk."""
    with open(path, "wb") as file:
        for arrays in blobs.values():
            for array in arrays:
                array.tofile(file)
        file.flush()
        os.fsync(file.fileno())


def check(model: Path, blobs: dict[str, list[FloatArray]]) -> None:
    """What was written must read back equal; the times mean nothing otherwise."""
    read = {one.name: one.blobs for one in read_caffemodel(model).layers if one.blobs}
    for name, arrays in blobs.items():
        for got, wanted in zip(read[name], arrays, strict=True):
            np.testing.assert_array_equal(got, wanted)


def peak_bytes(script: str, *arguments: Path) -> int:
    """The peak of resident memory of a process that runs `script`."""
    # VmHWM, as getrusage's peak would start from the memory of the process that forks.
    command = [sys.executable, "-c", f"import sys\n{script}\n{PEAK}", *map(str, arguments)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment())
    return int(run.stdout.split()[-1])
