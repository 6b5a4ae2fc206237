"""What is said of layer types that are not here: a fork's, misspelt, another framework's, a place.

`converters.layers.registry` asks once a net is read, `converters.prototxt.diagnosis` where a file
does not parse.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

from converters.errors import NetError
from converters.proto import caffe_pb2 as pb
from converters.proto.foreign import TYPES_OTHERWISE, forks_with_type
from converters.reporting import shortened

MOST = 8
"""How many of a longer list are shown: the nearest."""
_LONGEST = 60
_PLACE = re.compile(r"\$\{.*?\}|\{\{.*?\}\}|\{%.*?%\}|\$\w+|%\(\w+\)s|%s|@\w+@")

_MEANT = {
    "add": "Eltwise with operation: SUM",
    "avgpool": "Pooling with pool: AVE",
    "averagepooling": "Pooling with pool: AVE",
    "batchnormalization": "BatchNorm, then Scale",
    "batchnorm2d": "BatchNorm, then Scale",
    "conv": "Convolution",
    "conv2d": "Convolution",
    "convtranspose2d": "Deconvolution",
    "crossentropyloss": "SoftmaxWithLoss",
    "dense": "InnerProduct",
    "fc": "InnerProduct",
    "fullyconnected": "InnerProduct",
    "globalaveragepooling": "Pooling with pool: AVE global_pooling: true",
    "leakyrelu": "ReLU with negative_slope",
    "linear": "InnerProduct",
    "maxpool": "Pooling with pool: MAX",
    "maxpooling": "Pooling with pool: MAX",
    "mseloss": "EuclideanLoss",
    "mul": "Eltwise with operation: PROD",
    "softmaxloss": "SoftmaxWithLoss",
    "sum": "Eltwise with operation: SUM",
}
"""What others call a layer of Caffe's, in small letters."""


def nearest(name: str, known: Iterable[str], most: int = MOST) -> list[str]:
    """The `most` names of `known` that are most like `name`, the likest first."""
    lower = name.lower()

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, lower, other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)[:most]


def near_types(name: str, known: Collection[str]) -> list[str]:
    """The types that a misspelt `name` may mean, at most two."""
    plain = re.sub(r"[\W_]", "", name.lower())
    if plain in _MEANT:
        return [_MEANT[plain]]
    lower = {re.sub(r"\W", "", one.lower()): one for one in known}
    if plain in lower:
        return [lower[plain]]
    return [lower[one] for one in difflib.get_close_matches(plain, lower, 2, 0.7)]


def require_known(layers: Iterable[pb.LayerParameter], known: Collection[str], source: str) -> None:
    """Raise if a type is not in `known`.

    Raises:
        NetError: as `unknown_types`.
    """
    if words := unknown_types(layers, known):
        raise NetError(f"{source}: {words}")


def unknown_types(layers: Iterable[pb.LayerParameter], known: Collection[str]) -> str:
    """Of the types that are not in `known`, what each may mean or whose it is; "" without any."""
    unknown: dict[str, list[str]] = {}
    for layer in layers:
        if layer.type not in known:
            unknown.setdefault(layer.type, []).append(layer.name)
    if not unknown:
        return ""
    (first, names), *others = unknown.items()
    words = (
        f'layer "{_cut(names[0])}"{_more(names)}: unknown layer type "{_cut(first)}"; '
        f"{_hint(first, known)}"
    )
    if others:
        told = [
            f'"{_cut(name)}" (layer "{_cut(names[0])}"{_more(names)}; {_hint(name, known)})'
            for name, names in others[:MOST]
        ]
        more = f" and {len(others) - MOST} more" if len(others) > MOST else ""
        words += f"; unknown too: {', '.join(told)}{more}"
    return words


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _hint(name: str, known: Collection[str]) -> str:
    if not name:
        return 'give it one, as type: "Convolution"'
    if _PLACE.search(name):
        return "an unfilled template: render it, or write the type"
    if forks := forks_with_type(name):
        otherwise = TYPES_OTHERWISE.get(name)
        return f"it is of {forks[0]} fork" + (
            f"; Caffe's own way: {otherwise}" if otherwise else ""
        )
    if otherwise := TYPES_OTHERWISE.get(name):
        return f"Caffe's own way: {otherwise}"
    if near := near_types(name, known):
        return f"did you mean {' or '.join(near)}?"
    return f"the nearest of {len(known)} known types: {', '.join(nearest(name, known))}"


def _cut(name: str) -> str:
    return shortened(name, _LONGEST)
