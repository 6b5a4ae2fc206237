"""Where a net runs: the device that was asked for, that a solver file names, or the best there is.

`gmnet_pt.solver.solver` and the commands on a single net (`gmnet_pt.net_command`) choose here.
"""

from __future__ import annotations

import torch

from converters.errors import SolverError
from converters.proto import caffe_pb2 as pb
from gmnet_pt.log.events import Message


def named_device(name: str | torch.device) -> torch.device:
    """The device of a name: cpu, cuda or cuda:N.

    Raises:
        SolverError: another name, or a GPU that is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SolverError(f"--device {name}: use cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in ("cpu", "cuda") or (device.index or 0) >= count:
        raise SolverError(
            f"--device {name}: there is no such device here (GPUs: {torch.cuda.device_count()})"
        )
    return device


def choose_device(
    solver: pb.SolverParameter, wanted: str | torch.device | None
) -> tuple[torch.device, Message]:
    """`wanted`, or what the solver says, and Caffe's word on it; raises as `named_device`."""
    if wanted is not None:
        device = named_device(wanted)
    else:
        device = solver_device(solver)
    if wanted is None and device.type == "cpu" and solver.solver_mode == pb.SolverParameter.GPU:
        return device, device_message(device, missing=solver.device_id)
    return device, device_message(device)


def solver_device(solver: pb.SolverParameter) -> torch.device:
    """What solver_mode and device_id say; the CPU where there is no such GPU."""
    wanted = solver.solver_mode == pb.SolverParameter.GPU
    if wanted and solver.device_id < torch.cuda.device_count():
        return torch.device("cuda", solver.device_id)
    return torch.device("cpu")


def device_message(device: torch.device, missing: int | None = None) -> Message:
    """Caffe's word on the device; `missing` is the number of the GPU that it stands in for."""
    if device.type == "cuda":
        return Message(f"Use GPU with device ID {device.index or 0}", "caffe.cpp:266")
    count = torch.cuda.device_count()
    absent = "" if missing is None else f" There is no GPU{f' {missing}' if count else ''} here."
    return Message(f"Use CPU.{absent}", "caffe.cpp:275")


def as_run(solver: pb.SolverParameter, device: torch.device) -> pb.SolverParameter:
    """The solver with the device that it runs on, to be shown."""
    shown = pb.SolverParameter()
    shown.CopyFrom(solver)
    on_gpu = device.type == "cuda"
    shown.solver_mode = pb.SolverParameter.GPU if on_gpu else pb.SolverParameter.CPU
    if on_gpu:
        shown.device_id = device.index or 0
    else:
        shown.ClearField("device_id")
    return shown
