"""A net as a table, one call per layer, and its deploy form."""

from __future__ import annotations

from google.protobuf import text_format

from converters.proto import caffe_pb2 as pb

# Rate and decay of weights and biases in the nets of 2012 to 2014: a bias moves twice as fast and
# is not decayed.
BIAS_TWICE = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"


class NetBuilder:
    """Layers in their order; every method returns the top that it made.

    `param` is the text of the rates of a layer with weight and bias.
    """

    def __init__(self, name: str, param: str = "") -> None:
        self.net = pb.NetParameter(name=name)
        self.param = param

    def layer(self, kind: str, name: str, *bottoms: str, top: str = "", settings: str = "") -> str:
        """Any layer; its top has its name where none is given."""
        layer = self.net.layer.add(name=name, type=kind, bottom=bottoms, top=[top or name])
        text_format.Merge(settings, layer)
        return top or name

    def conv(
        self, name: str, bottom: str, outputs: int, kernel: int, settings: str = "", param: str = ""
    ) -> str:
        """A square convolution; `settings` are more fields of convolution_param."""
        fields = f"num_output: {outputs} kernel_size: {kernel} {settings}"
        text = f"{param or self.param} convolution_param {{ {fields} }}"
        return self.layer("Convolution", name, bottom, settings=text)

    def full(
        self, name: str, bottom: str, outputs: int, settings: str = "", param: str = ""
    ) -> str:
        """An InnerProduct."""
        fields = f"num_output: {outputs} {settings}"
        text = f"{param or self.param} inner_product_param {{ {fields} }}"
        return self.layer("InnerProduct", name, bottom, settings=text)

    def relu(self, name: str, bottom: str) -> str:
        """In place."""
        return self.layer("ReLU", name, bottom, top=bottom)

    def dropout(self, name: str, bottom: str, ratio: float) -> str:
        """In place."""
        settings = f"dropout_param {{ dropout_ratio: {ratio} }}"
        return self.layer("Dropout", name, bottom, top=bottom, settings=settings)

    def pool(self, name: str, bottom: str, fields: str) -> str:
        """Fields of pooling_param."""
        return self.layer("Pooling", name, bottom, settings=f"pooling_param {{ {fields} }}")

    def norm(self, name: str, bottom: str, fields: str) -> str:
        """Local response normalisation, fields of lrn_param."""
        return self.layer("LRN", name, bottom, settings=f"lrn_param {{ {fields} }}")

    def loss(self, name: str, bottom: str, weight: float = 1) -> str:
        """Softmax and cross-entropy with the blob "label"."""
        settings = "" if weight == 1 else f"loss_weight: {weight}"
        return self.layer("SoftmaxWithLoss", name, bottom, "label", settings=settings)


def deploy(net: pb.NetParameter, shape: tuple[int, ...]) -> pb.NetParameter:
    """What the last loss looks at, from an Input "data" of `shape` to a Softmax "prob"."""
    scores = [layer for layer in net.layer if layer.type == "SoftmaxWithLoss"][-1].bottom[0]
    wanted, kept = {scores}, []
    for layer in reversed(net.layer):
        if wanted.intersection(layer.top) and not layer.include:
            wanted.update(layer.bottom)
            kept.append(layer)
    made = pb.NetParameter(name=net.name)
    dims = " ".join(f"dim: {size}" for size in shape)
    text_format.Merge(
        f'name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }}',
        made.layer.add(),
    )
    made.layer.extend(reversed(kept))
    made.layer.add(name="prob", type="Softmax", bottom=[scores], top=["prob"])
    return made
