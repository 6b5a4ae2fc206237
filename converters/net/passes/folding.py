"""Without gradients: BatchNorm, Scale, sum and ReLU become part of the product before them.

Each Convolution of two axes and each InnerProduct becomes a `Folded`, which later passes give what
stands behind it. It has tensors of its own: `converters.net.frozen` makes it anew when the layers'
blobs have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from converters.layers import onednn
from converters.layers.activation import Dropout, ReLU
from converters.layers.convolution import Convolution
from converters.layers.joining import Concat, Eltwise, Split
from converters.layers.linear import InnerProduct
from converters.layers.normalization import LRN, BatchNorm, Bias, Scale
from converters.layers.pooling import Pooling
from converters.net.layer_module import LayerModule
from converters.net.passes.batch_norm_scale import BatchNormScale, fuse_batch_norm_and_scale
from converters.net.passes.in_place import InPlaceReLU
from converters.net.passes.matching import called, layer_module
from converters.net.passes.packed import packed_convolution, packed_product
from converters.proto import caffe_pb2 as pb


class Folded(nn.Module):
    """A Convolution or an InnerProduct with what is folded into it and stands behind it.

    `adds` says that a second input is added to the top before the ReLU, in that input's memory.
    """

    def __init__(self, layer: LayerModule) -> None:
        super().__init__()
        # In a tuple: its blobs are not registered a second time.
        self.parts = (layer,)
        blobs = [blob.detach() for blob in layer.blobs]
        self.weight, self.bias = blobs[0], blobs[1] if len(blobs) > 1 else None
        product = layer.layer
        if isinstance(product, InnerProduct) and product.param.inner_product_param.transpose:
            self.weight = self.weight.t()
        self.holds_more = self.relu = self.adds = False
        self.run: Callable[..., Tensor] = _not_settled

    def fold(self, scale: Tensor, shift: Tensor) -> bool:
        """Take over y = x · scale + shift (C,), in float64; False where that is not finite."""
        weight = self.weight.double() * scale.view(-1, *(1,) * (self.weight.dim() - 1))
        bias = shift if self.bias is None else self.bias.double() * scale + shift
        if not (weight.isfinite().all() and bias.isfinite().all()):
            return False
        kind = self.weight.dtype
        self.weight, self.bias, self.holds_more = weight.to(kind), bias.to(kind), True
        return True

    def can_add(self) -> bool:
        """Whether a sum may be taken over."""
        layer = self.parts[0].layer
        return isinstance(layer, Convolution) and not self.relu and onednn.takes(self.weight)

    def settle(self) -> None:
        """Lay the weights out for the calls to come; no memory of the layer's blobs is held."""
        module, layer, behind = self.parts[0], self.parts[0].layer, _relu if self.relu else _same
        weight, bias = self.weight, None if self.bias is None else self.bias.clone()
        plain: Callable[..., Any] = module.forward
        if self.holds_more:
            weight = weight.contiguous()
            if isinstance(layer, Convolution):
                plain = partial(_convolve, layer, weight, bias)
            elif isinstance(layer, InnerProduct):
                plain = partial(_multiply, layer, weight, bias)
        if not onednn.takes(weight):
            self.run = lambda x: behind(plain(x))
        elif isinstance(layer, Convolution):
            shape = module.bottom_shapes[0]
            self.run = packed_convolution(layer, shape, weight, bias, self.relu)
        elif isinstance(layer, InnerProduct):
            packed = packed_product(layer, weight, bias, self.relu)
            self.run = lambda x: packed(x) if x.shape[0] >= onednn.ROWS else behind(plain(x))
        del self.weight, self.bias

    def forward(self, *bottoms: Tensor) -> Tensor:
        """The top of one bottom, and of what is added to it."""
        return self.run(*bottoms)


def _not_settled(*bottoms: Tensor) -> Tensor:
    raise RuntimeError("Folded: settle() comes before a call")


def _same(x: Tensor) -> Tensor:
    return x


def _relu(x: Tensor) -> Tensor:
    return x.relu_()


def _convolve(layer: Convolution, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return layer.convolve(x, weight, bias, layer.w)


def _multiply(layer: InnerProduct, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return functional.linear(x.flatten(layer.start), weight, bias)


class SumOnto(nn.Module):
    """A sum in the memory of its first bottom."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """x + …, in the bottoms' order."""
        for other in others:
            x += other
        return x


def drop_what_does_nothing(module: fx.GraphModule) -> None:
    """Leave out Dropout that drops nothing, and Split."""
    for node in list(module.graph.nodes):
        dropout, split = layer_module(module, node, Dropout), layer_module(module, node, Split)
        if dropout is not None:
            layer = dropout.layer
            assert isinstance(layer, Dropout)
            if not layer.rests(dropout.training):
                continue
        if dropout is None and split is None:
            continue
        several = split is not None and len(split.layer.param.top) > 1
        for copy in list(node.users) if several else [node]:
            copy.replace_all_uses_with(node.args[0])
            module.graph.erase_node(copy)
        if several:
            module.graph.erase_node(node)


def fold(module: fx.GraphModule) -> None:
    """Replace products by `Folded`, with the BatchNorm, Scale and Bias that alone read them."""
    for node in list(module.graph.nodes):
        product = _product(module, node)
        if product is None:
            continue
        folded = Folded(product)
        node.target = f"folded.{str(node.target).removeprefix('layers.')}"
        module.add_submodule(node.target, folded)
        while (user := _only_user(node)) is not None:
            behind = _fixed(called(module, user), folded.weight.shape[0])
            if behind is None or len(user.args) != 1 or not folded.fold(*behind):
                break
            _take_over(user, node)


def _product(module: fx.GraphModule, node: fx.Node) -> LayerModule | None:
    """The layer of a node, if it is one product or convolution of images, on stored blobs."""
    found = layer_module(module, node, Convolution) or layer_module(module, node, InnerProduct)
    if found is None or len(node.args) != 1 or found.is_made():
        return None
    layer = found.layer
    if isinstance(layer, Convolution):
        return found if layer.channel_axis == 1 and len(layer.w.kernel) == 2 else None
    return found if isinstance(layer, InnerProduct) and layer.start == 1 else None


def _fixed(found: nn.Module | None, channels: int) -> tuple[Tensor, Tensor] | None:
    """The scale and shift (C,) by which a layer changes each channel, if they are fixed."""
    if not isinstance(found, LayerModule) or found.is_made():
        return None
    layer = found.layer
    if isinstance(layer, BatchNorm):
        by_batch = found.training if layer.use_global_stats is None else not layer.use_global_stats
        if by_batch:
            return None
        mean, variance, weight = (blob.detach().double() for blob in found.blobs)
        factor = torch.where(weight == 0, torch.zeros_like(weight), 1 / weight)
        scale = (variance * factor + layer.eps).rsqrt()
        return scale, -mean * factor * scale
    if isinstance(layer, Scale | Bias) and (layer.start, found.shapes[:1]) == (1, ((channels,),)):
        blobs = [blob.detach().double() for blob in found.blobs]
        if isinstance(layer, Bias):
            return torch.ones_like(blobs[0]), blobs[0]
        return blobs[0], blobs[1] if len(blobs) > 1 else torch.zeros_like(blobs[0])
    return None


def add_and_cut(module: fx.GraphModule) -> None:
    """Give a `Folded` the sum of two and the ReLU that alone read it."""
    for node in list(module.graph.nodes):
        folded = called(module, node)
        if not isinstance(folded, Folded):
            continue
        user = _only_user(node)
        if user is not None and folded.can_add() and _is_sum(module, user, 2):
            (other,) = (x for x in user.all_input_nodes if x is not node)
            # A convolution cannot write where it reads.
            if other is not node.args[0] and _is_free(module, other, user):
                user.target, user.args = node.target, (node.args[0], other)
                folded.adds = True
                module.graph.erase_node(node)
                node, user = user, _only_user(user)
        relu = layer_module(module, user, ReLU)
        if user is not None and relu is not None and not relu.layer.param.relu_param.negative_slope:
            folded.relu = True
            _take_over(user, node)


def reuse_memory(module: fx.GraphModule) -> None:
    """Let sums and ReLUs overwrite what nothing reads behind them."""
    onto, relu = SumOnto(), InPlaceReLU()
    module.add_submodule("in_place.sum", onto)
    module.add_submodule("in_place.relu", relu)
    for node in list(module.graph.nodes):
        if _is_sum(module, node):
            # The order of the first two does not matter to a sum's rounding, that of others does.
            first, second, *rest = node.args
            if not _is_free(module, first, node):
                first, second = second, first
            if _is_free(module, first, node) and len(set(node.args)) == len(node.args):
                node.target, node.args = "in_place.sum", (first, second, *rest)
            continue
        found = layer_module(module, node, ReLU)
        if found is None or found.layer.param.relu_param.negative_slope:
            continue
        if _is_free(module, node.args[0], node):
            node.target = "in_place.relu"


def settle(module: fx.GraphModule) -> None:
    """Lay out the weights of what was folded."""
    for node in module.graph.nodes:
        folded = called(module, node)
        if isinstance(folded, Folded):
            folded.settle()


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _take_over(user: fx.Node, node: fx.Node) -> None:
    user.replace_all_uses_with(node)
    user.graph.erase_node(user)


def _is_sum(module: fx.GraphModule, node: fx.Node, bottoms: int | None = None) -> bool:
    """Whether a node adds up so many different blobs, as they are."""
    found = layer_module(module, node, Eltwise)
    if found is None or not isinstance(found.layer, Eltwise):
        return False
    plain = all(coefficient == 1 for coefficient in found.layer.coefficients)
    is_sum = found.layer.param.eltwise_param.operation == pb.EltwiseParameter.SUM
    number = len(node.all_input_nodes)
    return plain and is_sum and len(node.args) == number == (bottoms or number)


# What makes a new tensor of its bottoms; a top of others may be, or share the memory of, a bottom.
_MAKERS = (Pooling, Eltwise, LRN, BatchNorm, Scale, Convolution)


def _is_free(module: fx.GraphModule, value: fx.Node, reader: fx.Node) -> bool:
    """Whether nothing but `value` has its memory, and `reader` is the last to read it."""
    makes = called(module, value)
    own = isinstance(makes, Folded | BatchNormScale | SumOnto | InPlaceReLU)
    own = own or (isinstance(makes, LayerModule) and isinstance(makes.layer, _MAKERS))
    return own and all(
        user is reader or (user < reader and _reads_only(called(module, user)))
        for user in value.users
    )


def _reads_only(found: nn.Module | None) -> bool:
    """Whether a module's top shares no memory with its bottoms."""
    if isinstance(found, LayerModule):
        joins = isinstance(found.layer, Concat) and len(found.layer.param.bottom) > 1
        return joins or isinstance(found.layer, _MAKERS)
    return isinstance(found, Folded | BatchNormScale) and not getattr(found, "adds", False)


FOLDING: tuple[Callable[[fx.GraphModule], None], ...] = (
    drop_what_does_nothing,
    fold,
    fuse_batch_norm_and_scale,
    add_and_cut,
    reuse_memory,
    settle,
)
"""What makes a graph without gradients faster, in order."""
