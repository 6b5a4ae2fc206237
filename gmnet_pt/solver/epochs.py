"""How long a solver trains, given in epochs: rounds of its training data, as they lie on disk.

The generator's `--epochs` says the same of the data sets that it knows (`prototxt_gen.recipes`).
"""

from __future__ import annotations

from converters.environment import Environment
from converters.errors import SolverError
from converters.net.choice import NetChoice
from converters.proto import caffe_pb2 as pb
from converters.readers import READERS, open_reader

_LARGEST = 2**31 - 1
_OF_STEPSIZE = ("step", "sigmoid")
_OF_ITERATIONS = ("exp", "inv")


def scale_to_epochs(
    solver: pb.SolverParameter, epochs: int, net: NetChoice, processes: int, source: str
) -> str:
    """Set max_iter to `epochs` rounds of the training data, and move the steps in proportion.

    max_iter = epochs · ⌈records / (batch_size · iter_size · processes)⌉; stepvalue, and the
    stepsize of `step` and `sigmoid`, times new / old max_iter, rounded down. Returns it in words.

    Raises:
        SolverError: no data layer of `net` tells how many records it has, or there are steps and no
            max_iter to measure them by.
        DataError: the data are absent or damaged.
    """
    records, batch, layer = _records(net)
    images = batch * solver.iter_size * processes
    epoch = -(-records // images)
    before, after = solver.max_iter, epochs * epoch
    if after > _LARGEST:
        raise SolverError(f"{source}: --epochs {epochs} is {after} iterations: more than Caffe has")
    sized = solver.lr_policy in _OF_STEPSIZE and solver.stepsize > 0
    if before < 1 and (solver.stepvalue or sized):
        raise SolverError(
            f"{source}: --epochs moves the steps of the rate with max_iter, which is missing"
        )
    solver.max_iter = after
    told = [f"max_iter {after}"]
    if solver.stepvalue:
        steps = [step * after // before for step in solver.stepvalue]
        solver.stepvalue[:] = steps
        told.append(f"stepvalue {', '.join(map(str, steps))}")
    if sized:
        solver.stepsize = max(1, solver.stepsize * after // before)
        told.append(f"stepsize {solver.stepsize}")
    if solver.lr_policy in _OF_ITERATIONS:
        told.append(f"gamma of lr_policy {solver.lr_policy} is left as it is")
    return (
        f'{epochs} epoch{"s" * (epochs > 1)} of the {records} records of layer "{layer}", {images} '
        f"an iteration: {'; '.join(told)}"
    )


def _records(net: NetChoice) -> tuple[int, int, str]:
    """Records, batch size and name of the first data layer that counts its records."""
    environment: Environment = net.environment
    for layer in net.filtered().layer:
        if layer.type not in READERS:
            continue
        reader = open_reader(layer, environment, seed=0)
        try:
            if (records := reader.items) is not None:
                return records, reader.batch_size, layer.name
        finally:
            reader.close()
    raise SolverError(
        f"{net.source}: --epochs needs a data layer that tells how many records it has (Data, "
        "ImageData, HDF5Data); give --max-iter"
    )
