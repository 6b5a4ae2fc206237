"""Caffe's own programs by their names: what each is called here, and its arguments in our order.

`gmnet convert_imageset …` runs where the arguments can be told; elsewhere it names the command to
use. Source: Caffe tools/, python/, examples/, tools/extra/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Translate = Callable[[Sequence[str]], list[str] | None]
"""Our arguments for Caffe's; None where they are not those of the tool."""


class Tool(NamedTuple):
    """The command of ours that does what the tool did, and a line that shows it.

    Without `translate` the tool is named alone: its arguments have no counterpart, one by one.
    """

    command: str
    use: str
    translate: Translate | None = None


def _same(arguments: Sequence[str]) -> list[str]:
    return list(arguments)


def _imageset(arguments: Sequence[str]) -> list[str]:
    """Caffe's --shuffle has no seed; ours takes one, so that the order can be repeated."""
    on = re.compile(r"--?shuffle(=(1|t|true|y|yes))?", re.IGNORECASE)
    off = re.compile(r"--?(noshuffle|shuffle=(0|f|false|n|no))", re.IGNORECASE)
    kept = [word for word in arguments if not off.fullmatch(word)]
    return ["--shuffle=1" if on.fullmatch(word) else word for word in kept]


def _features(arguments: Sequence[str]) -> list[str] | None:
    """WEIGHTS NET BLOBS LMDBS BATCHES [lmdb] [CPU|GPU] [N]."""
    words = [word for word in arguments if not word.startswith("-")]
    if len(words) < 5 or not words[4].isdecimal() or (words[5:6] or ["lmdb"]) != ["lmdb"]:
        return None
    weights, net, blobs, out, batches = words[:5]
    ours = [net, "--weights", weights, "--blobs", blobs, "--out", out, "--iterations", batches]
    if words[6:7] != ["GPU"]:
        return [*ours, "--device", "cpu"]
    return [*ours, "--gpu", (words[7:8] or ["0"])[0].removeprefix("DEVICE_ID=")]


def _classification(arguments: Sequence[str]) -> list[str] | None:
    """NET WEIGHTS MEAN LABELS IMAGE."""
    if len(arguments) != 5:
        return None
    net, weights, mean, labels, image = arguments
    return [net, weights, "--mean", mean, "--labels", labels, image]


def _plot(arguments: Sequence[str]) -> list[str] | None:
    """TYPE OUT.png LOG…; the type chose one of the curves, all are drawn here."""
    if len(arguments) < 3 or not arguments[0].isdecimal():
        return None
    return [*arguments[2:], arguments[1]]


def _finetune(arguments: Sequence[str]) -> list[str] | None:
    """SOLVER WEIGHTS."""
    return [arguments[0], "--weights", arguments[1]] if len(arguments) == 2 else None


_MNIST = Tool("lmdb", "gmnet lmdb mnist --source FOLDER")
_CIFAR = Tool("lmdb", "gmnet lmdb cifar10 --source FOLDER")
_UPGRADE = Tool("upgrade", "gmnet upgrade IN OUT", _same)

TOOLS: Mapping[str, Tool] = {
    "convert_imageset": Tool("imageset", "gmnet imageset ROOT LIST OUT", _imageset),
    "convert_annoset": Tool("annotated", "gmnet annotated ROOT LIST OUT --label-map M"),
    "ssd_detect": Tool("detect", "gmnet detect DEPLOY WEIGHTS IMAGE… --labels M --out DIR/"),
    "compute_image_mean": Tool("mean", "gmnet mean LMDB OUT.binaryproto", _same),
    "extract_features": Tool(
        "features",
        "gmnet features NET --weights W --blobs B[,B2] --out LMDB[,LMDB2] --iterations N",
        _features,
    ),
    "upgrade_net_proto_text": _UPGRADE,
    "upgrade_net_proto_binary": _UPGRADE,
    "upgrade_solver_proto_text": _UPGRADE,
    "draw_net.py": Tool("draw", "gmnet draw NET OUT.svg", _same),
    "classify.py": Tool("classify", "gmnet classify DEPLOY WEIGHTS IMAGE…"),
    "classification": Tool(
        "classify",
        "gmnet classify DEPLOY WEIGHTS --mean M --labels L IMAGE…",
        _classification,
    ),
    "parse_log.py": Tool("plot", "gmnet plot LOG… --table"),
    "parse_log.sh": Tool("plot", "gmnet plot LOG… --table"),
    "plot_training_log.py": Tool("plot", "gmnet plot LOG… OUT.png", _plot),
    "extract_seconds.py": Tool("plot", "gmnet plot LOG… OUT.png --x seconds"),
    "summarize.py": Tool("summary", "gmnet summary NET", _same),
    "convert_mnist_data": _MNIST,
    "create_mnist.sh": _MNIST,
    "get_mnist.sh": _MNIST,
    "convert_cifar_data": _CIFAR,
    "create_cifar10.sh": _CIFAR,
    "get_cifar10.sh": _CIFAR,
    "train_net": Tool("train", "gmnet train SOLVER [--snapshot STATE]"),
    "finetune_net": Tool("train", "gmnet train SOLVER --weights W", _finetune),
    "test_net": Tool("test", "gmnet test NET --weights W --iterations N"),
    "net_speed_benchmark": Tool("time", "gmnet time NET --iterations N"),
}
"""By the names of their source files, without the `.bin` that some builds give them."""

_ENDINGS = (".bin", ".exe", ".example", ".py", ".sh")


def find_tool(word: str) -> str | None:
    """The name in TOOLS that a command line means by `build/tools/convert_imageset.bin`."""
    name = Path(word).name
    plain = name
    while plain.endswith(_ENDINGS):
        plain = plain.rpartition(".")[0]
    by_plain = {known.rpartition(".")[0]: known for known in TOOLS}
    return next((one for one in (name, plain) if one in TOOLS), by_plain.get(plain or name))


def overview() -> str:
    """The tools by what does their work here, for the help."""
    by_command: dict[str, list[str]] = {}
    for name in ("train", "test", "time"):
        by_command[name] = [f"caffe {name}"]
    for name, tool in TOOLS.items():
        by_command.setdefault(tool.command, []).append(name)
    width = max(map(len, by_command))
    lines = ["Caffe's tools, found by their own names too (gmnet convert_imageset …):"]
    for command, names in by_command.items():
        lines.append(f"  {command:{width}}  {', '.join(names)}")
    return "\n".join(lines)
