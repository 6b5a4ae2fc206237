"""The commands of `gmnet`, a line each: the help, completion and docs are made from this table.

A command that is new: an entry here, or in `converters.__main__` where it needs no training.
"""

from __future__ import annotations

from converters.__main__ import COMMANDS as OF_FILES
from converters.__main__ import DATA, NETS
from converters.command_line.program import Command

TRAINING = "Training and use"
PAPER = "GM-Net and its paper"

_OWN = {
    "train": Command(
        "gmnet_pt.train",
        "train a net as `caffe train` would",
        TRAINING,
        "gmnet train solver.prototxt --gpu 0",
        "gmnet_pt.options.train",
    ),
    "test": Command(
        "gmnet_pt.test",
        "score a net over its TEST data",
        TRAINING,
        "gmnet test net.prototxt --weights net.caffemodel --iterations 100",
        "gmnet_pt.options.test",
    ),
    "time": Command(
        "gmnet_pt.time",
        "milliseconds a layer, forward and backward",
        TRAINING,
        "gmnet time net.prototxt --iterations 20",
        "gmnet_pt.options.time",
    ),
    "classify": Command(
        "gmnet_pt.classify",
        "the likeliest classes of images",
        TRAINING,
        "gmnet classify deploy.prototxt net.caffemodel cat.jpg --mean 104,117,123",
        "gmnet_pt.options.classify",
    ),
    "detect": Command(
        "gmnet_pt.detect",
        "the objects that a detector finds on images",
        TRAINING,
        "gmnet detect deploy.prototxt ssd.caffemodel street.jpg --labels labelmap.prototxt "
        "--mean 104,117,123 --out found.png",
        "gmnet_pt.options.detect",
    ),
    "features": Command(
        "gmnet_pt.features",
        "blobs over the data: arrays, LMDBs, or pictures of maps",
        TRAINING,
        "gmnet features net.prototxt --weights net.caffemodel --blobs fc7 --out fc7.npz",
        "gmnet_pt.options.features",
    ),
    "plot": Command(
        "gmnet_pt.plot",
        "curves of our logs and of Caffe's",
        TRAINING,
        "gmnet plot runs/lenet/train.log curves.png",
    ),
    "report": Command(
        "gmnet_pt.report",
        "a table of runs: scores, time, speed",
        TRAINING,
        "gmnet report runs/* --out runs.html",
    ),
    "generate": Command(
        "prototxt_gen.commands.generate",
        "write a GM-Net's net, deploy net and solver",
        PAPER,
        "gmnet generate bua --dataset mnist --width 0.25",
    ),
    "audit": Command(
        "prototxt_gen.commands.audit",
        "the variants' costs beside the paper's Table 1",
        PAPER,
        "gmnet audit",
    ),
    "demo": Command(
        "gmnet_pt.demo",
        "train a small GM-Net on handwritten digits, no download",
        PAPER,
        "gmnet demo",
        "gmnet_pt.options.demo",
    ),
    "reproduce": Command(
        "gmnet_pt.reproduce.__main__",
        "train what the paper's tables and figures need",
        PAPER,
        "gmnet reproduce --budget smoke",
        "gmnet_pt.reproduce.options",
    ),
}

_ALL = {**_OWN, **OF_FILES}
COMMANDS = {
    name: command
    for group in (TRAINING, NETS, DATA, PAPER)
    for name, command in _ALL.items()
    if command.group == group
}
