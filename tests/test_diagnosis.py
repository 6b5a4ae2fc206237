"""Broken prototxts as strangers have them: one line that names what is there and what to write."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from converters.__main__ import COMMANDS
from converters.command_line.program import run_subcommand
from converters.errors import NetError, PrototxtError
from converters.layers import LAYERS
from converters.layers.unknown import require_known
from converters.net.choice import NetChoice
from converters.net.plan import plan_net
from converters.proto import caffe_pb2 as pb
from converters.proto.foreign import FORKS, SOLVER_WITHOUT_EFFECT, TYPES_OTHERWISE
from converters.proto.forks import idle
from converters.prototxt.diagnosis import diagnose
from converters.prototxt.text import parse_net, parse_text, read_solver

INPUT = 'name: "n"\ninput: "data"\ninput_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8\n'
CONV = """layer {
  name: "c"
  type: "Convolution"
  bottom: "data"
  top: "c"
  convolution_param {
    num_output: 4
    kernel_size: 3
  }
}
"""
NET = INPUT + CONV


def net(old: str, new: str) -> str:
    """The net with a piece of it replaced; `num_output` stands in line 10."""
    assert NET.count(old) >= 1
    return NET.replace(old, new, 1)


def with_layer(settings: str) -> str:
    """The net and one more layer, in line 14."""
    return NET + f'layer {{ name: "x" bottom: "c" top: "x" {settings} }}\n'


def pooled(settings: str) -> str:
    return with_layer(f'type: "Pooling" pooling_param {{ kernel_size: 2 {settings} }}')


def ranked(settings: str) -> str:
    return with_layer(f'type: "Dropout" dropout_param {{ {settings} }}')


WEB = "this is a web page; download the file"
ANSWER = "a server's answer, `.*`, in place of a file"
TEMPLATE = "an? unfilled template"

STRANGERS = {
    "page": ("\n\n<!DOCTYPE html>\n<html lang='en'><title>x · GitHub</title>", f":3:1: {WEB}"),
    "page_2": ('<html class="a">\n<body>name: "x"</body>', WEB),
    "tensorflow": ('node {\n  name: "x"\n  op: "Placeholder"\n}', ":1:1: .*graph of TensorFlow"),
    "caffe2": ('name: "n"\nop {\n  type: "Conv"\n}', ":1:1: this is a net of Caffe2"),
    "onnx": ("ir_version: 3\ngraph {\n}", ":1:1: this is an ONNX model"),
    "quote_in_line": (
        INPUT + 'layer { name: "c type: "ReLU" bottom: "data" top: "c" }',
        r'a quote is missing: `"c type: "` of line 4 ends at ReLU',
    ),
    "net_has_layers_field": (NET + 'bottom: "c"', ":14:.* It belongs into layer { … }"),
    "net_has_solvers_field": (NET + "base_lr: 1", ":14:.* It belongs into a solver"),
    "multiplier": (
        net("kernel_size: 3", "kernel_size: 3 lr_mult: 1"),
        "It belongs into the layer's param { … }",
    ),
    "sentence_ends": (
        pooled("pool: AVG\n pad_type: SAME"),
        r"the values are MAX, AVE, STOCHASTIC\. There is more in line 15\.$",
    ),
    "xml": (
        '<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "this is XML",
    ),
    "not_found": ("404: Not Found", ANSWER),
    "not_found_2": ("Not Found\n", ANSWER),
    "too_many": ("429: Too Many Requests", ANSWER),
    "api": ('{"message": "Not Found"}', ANSWER),
    "json": ('{\n "layers": []\n}', "this is JSON"),
    "conflict": (
        net("    num_output: 4\n", "<<<<<<< HEAD\n    num_output: 4\n=======\n>>>>>>> b\n"),
        ":10:1: `<<<<<<< HEAD` is a merge conflict: keep one",
    ),
    "lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "Git LFS.*git lfs pull"),
    "labels": ('# x\nitem {\n  name: "a"\n  label: 0\n}\n', "this is a label map"),
    "python": ("# a net\nfrom caffe import layers as L\n\nn = 1\n", "Python code .*run it"),
    "shell": ("#!/usr/bin/env sh\n./caffe train\n", "this is a program"),
    "schema": ('syntax = "proto2";\nmessage A { optional int32 b = 1; }', r"a schema \(\.proto\)"),
    "patch": ("diff --git a/x b/x\n--- a/x\n+++ b/x\n", "this is a patch"),
    "darknet": ("[net]\nbatch=64\n", "Darknet"),
    "yaml": ("name: net\nlayers:\n  - type: conv\n", "this is YAML"),
    "log": ("I0101 12:00:00.0  1234 caffe.cpp:185] Using\n", "a log of Caffe"),
    "markdown": (f"# ResNet\n\n```\n{NET}```\n", ":3:1: this is Markdown"),
    "list": ("cat/1.jpg 0\ncat/2.jpg 1\n", "a list of images"),
    "classes": ("n01440764 tench, Tinca\nn01443537 goldfish\n", "a list of classes"),
    "numbers": ("".join(f"{i} {x}\n" for i, x in enumerate(NET.split("\n"), 1)), "its number"),
    "prose": ("Please see the link\nhttp://x.y/z\n", "no prototxt: it begins with `Please see"),
    "zip": (b"PK\x03\x04\x14\x00", "a zip archive"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "a gzip archive"),
    "picture": (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    "weights": (b"\x0a\x05AlexN\xa2\x06\x80\x00\xff\xfe", "caffemodel goes to --weights"),
    "utf16": (NET.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    # Templates.
    "jinja": (net("4", "{{ n }}"), rf":10:17: `{{{{ n }}}}` is .*{TEMPLATE}"),
    "jinja_loop": ("{% for i in r %}\n" + CONV + "{% endfor %}\n", f"`{{% endfor %}}`.*{TEMPLATE}"),
    "shell_place": (net("4", "${N}"), rf"`\$\{{N\}}` is an unfilled place.*{TEMPLATE}"),
    "shell_place_2": (net("4", "$N"), TEMPLATE),
    "percent": (net("4", "%d"), TEMPLATE),
    "at": (net("4", "@N@"), TEMPLATE),
    "angle": (net("4", "<classes>"), TEMPLATE),
    "braces": (net("4", "{classes}"), TEMPLATE),
    "capitals": (
        net("4", "NUM_CLASSES"),
        r"not `NUM_CLASSES` \(an unfilled place of a template\?\)",
    ),
    "type_place": (net("Convolution", "${TYPE}"), 'type "\\${TYPE}"; an unfilled template'),
    # Marks.
    "no_colon": (net("num_output:", "num_output"), ':10:16: layer "c": .*missing: `num_output: 4`'),
    "no_value": (net("num_output: 4", "num_output:"), ":10:5: .*`num_output` has no value after"),
    "no_value_2": (net("kernel_size: 3", "kernel_size:"), "`kernel_size` has no value after"),
    "no_value_3": ("name:", "`name` has no value"),
    "no_value_4": (net('top: "c"', "top:"), "`top` has no value"),
    "equals": (net("num_output: 4", "num_output = 4"), "write : in place of ="),
    "no_end": (NET.rstrip().rstrip("}"), r"a } is missing at the end: `layer \{` of line 4 is not"),
    "no_end_2": (net("  }\n}", "  }\n") + CONV, r"a } is missing before `layer`.*of line 4"),
    "end_again": (NET + "}\n" + CONV, ":14:1: one } too many"),
    "no_open": (net("convolution_param {", "convolution_param"), "a { is missing after `conv"),
    "round": (net("convolution_param {", "convolution_param ("), "a { is missing"),
    "no_quotes": (net('name: "n"', "name: n"), 'in quotes: name: "n"'),
    "open_quote": (net('name: "c"', 'name: "c'), ":5:9: no quote ends this string"),
    "curly_quotes": (net('"c"', "\u201cc\u201d"), 'typographic quote: write "'),
    "wide_colon": (net("num_output:", "num_output\uff1a"), "a wide character: write :"),
    "slashes": (net("4", "4 // outputs"), ":10:19: .*a comment begins with #"),
    "stars": ("/* net */\n" + NET, "a comment begins with #"),
    "dots": (net("    num_output: 4", "    ..."), "left out here"),
    "decimal_comma": (ranked("dropout_ratio: 0,5"), "a point, not a comma: 0.5"),
    "product": (net("4", "2*2"), r"nothing is computed in `num_output: 2\*2`"),
    "once_more": (
        net("num_output: 4", "num_output: 4\nnum_output: 5"),
        "second time, after line 10",
    ),
    "list_of": (net("4", "[4, 8]"), "takes one value, not a list"),
    "message": (net("num_output: 4", "num_output { value: 4 }"), "num_output is one value"),
    "scalar": (with_layer("convolution_param: 4"), "holds fields: write convolution_param {"),
    # Values.
    "enum": (pooled("pool: MEAN"), "no value `MEAN`; the values are MAX, AVE, STOCHASTIC"),
    "enum_case": (pooled("pool: max"), "did you mean MAX"),
    "enum_quotes": (pooled('pool: "MAX"'), "no quotes: pool: MAX"),
    "enum_number": (pooled("pool: 77"), "no value `77`; the values are MAX"),
    "phase": (with_layer('type: "ReLU" include { phase: VAL }'), "the values are TRAIN, TEST"),
    "old_type": (net('"Convolution"', "CONVOLUTION"), 'in layer { } write type: "Convolution"'),
    "new_type": (
        INPUT + CONV.replace("layer", "layers"),
        r'`type: "Convolution"` is of layer { }; .* it is type: CONVOLUTION',
    ),
    "old_unknown": (INPUT + 'layers { name: "c" type: CONVOLUTOIN }', "did you mean CONVOLUTION"),
    "yes": (net("4", "4 bias_term: yes"), "bias_term is true or false, not `yes`"),
    "whole": (net("4", "4.0"), "num_output is a whole number, not `4.0`"),
    "negative": (net("4", "-4"), "a whole number from 0 to 4294967295, not `-4`"),
    "octal": (net("4", "08"), "without 0 before it"),
    "quoted": (net("4", '"4"'), "without quotes: num_output: 4"),
    "quoted_float": (ranked('dropout_ratio: "0.5"'), "without quotes: dropout_ratio: 0.5"),
    "word": (ranked("dropout_ratio: half"), "is a number, not `half`"),
    # Fields and types.
    "plural": (
        net("num_output", "num_outputs"),
        'field named "num_outputs". Did you mean num_output',
    ),
    "plural_2": (net("bottom", "bottoms"), "Did you mean bottom?"),
    "singular": ("layer { data_param { } } state { stages: 3 }", "Did you mean stage?"),
    "solver_plural": ('net: "x"\nbase_lr: 1\nstepvalues: 9', ":3:1: .*Did you mean stepvalue?"),
    "camel": (net("num_output", "numOutput"), "Did you mean num_output?"),
    "old_field": (net("kernel_size", "kernelsize"), "Did you mean kernel_size?"),
    "torch": (net("kernel_size: 3", "padding: 1"), "Did you mean pad?"),
    "rate": ('net: "x"\nlearning_rate: 0.1', "Did you mean base_lr?"),
    "epochs": ('net: "x"\nbase_lr: 1\nepochs: 3', "Did you mean max_iter, in iterations?"),
    "level": (
        'layer { name: "c" type: "Convolution" num_output: 4 }',
        "belongs into convolution_param",
    ),
    "far": (net("num_output", "frobnicate"), r"The nearest of its \d+ fields: (\w+, ){7}\w+\.$"),
    "type_case": (net("Convolution", "CONVOLUTION"), "did you mean Convolution\\?$"),
    "type_torch": (net("Convolution", "Conv2d"), "did you mean Convolution?"),
    "type_loss": (with_layer('type: "SoftmaxLoss"'), "did you mean SoftmaxWithLoss?"),
    "type_far": (net("Convolution", "Frobnicate"), r"nearest of \d+ known types: (\w+, ){7}\w+$"),
    "no_type": (net('  type: "Convolution"\n', ""), 'unknown layer type ""; give it one'),
    "solver_enum": ('net: "x"\nsolver_mode: CUDA', "the values are CPU, GPU"),
    "foreign": (
        with_layer('type: "Correlation" correlation_param { pad: 2 }')
        + with_layer('type: "ImResize" imresize_param { factor: 1 }').replace(NET, "")
        + with_layer('type: "MineAlone" mine_alone_param { x { y: 1 } }').replace(NET, ""),
        r":14:\d+: not in BVLC's Caffe; of FlowNet's fork: layer type Correlation \(line 14\); "
        r"field correlation_param \(line 14\); "
        r"of OpenPose's fork: layer type ImResize \(line 15\); "
        r"field imresize_param \(line 15\); of an unknown fork: layer type MineAlone \(line 16\); "
        r"field mine_alone_param \(line 16\)$",
    ),
    "foreign_and_wrong": (
        with_layer('type: "Correlation" correlation_param { pad: 2 }').replace("size", "sise"),
        "Did you mean kernel_size.*; and in line 14: not in BVLC's Caffe; of FlowNet's fork",
    ),
    "foreign_types": (
        with_layer('type: "Correlation"').replace('"Convolution"', '"MultiStageMeanfield"'),
        r'layer "c": unknown layer type "MultiStageMeanfield"; it is of CRF-as-RNN\'s fork; '
        r'unknown too: "Correlation" \(layer "x"; it is of FlowNet\'s fork\)$',
    ),
    "foreign_settings": (
        with_layer('type: "Pooling" pooling_param { pool: MAX torch_pooling: true }')
        + with_layer('type: "BatchNorm" batch_norm_param { scale_bias: true }').replace(NET, "")
        + with_layer('type: "Correlation"').replace(NET, ""),
        r'layer "x": unknown layer type "Correlation"; it is of FlowNet\'s fork; '
        r'layer "x" \(Pooling\): pooling_param.torch_pooling is a setting of the fork NVCaffe that '
        r'is not computed here; nor is layer "x" \(BatchNorm\): batch_norm_param.scale_bias \(of ',
    ),
    "foreign_solver": (
        'net: "x"\nbase_lr: 1\nsparse_mode: 1\ndisplay_sparsity: 9',
        r":3:1: .*Texas Instruments' fork: field sparse_mode \(line 3\); this changes the training",
    ),
    "empty": ("# nothing\n", "has no layer"),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The lines that `check` prints of each file, from one run over all of them."""
    folder = tmp_path_factory.mktemp("strangers")
    for name, (text, _) in STRANGERS.items():
        content = text if isinstance(text, bytes) else text.encode()
        (folder / f"{name}.prototxt").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        out: list[str] = []
        patch.setattr("converters.commands.check.show", out.append)
        assert run_subcommand("converters", "", COMMANDS, ["check", str(folder)]) == 1
    lines: dict[str, list[str]] = {}
    for line in out:
        name = re.match(r"\w+ +(\w+)\.prototxt: ", line)
        assert name, line
        lines.setdefault(name[1], []).append(line)
    return lines


@pytest.mark.parametrize("name", STRANGERS)
def test_a_broken_file_is_told_in_one_line(told: dict[str, list[str]], name: str) -> None:
    *notes, line = told[name]
    assert all(note.startswith("note ") for note in notes)
    assert line.startswith("FAIL ")
    assert re.search(STRANGERS[name][1], line), line
    assert len(line) < 900
    assert "\n" not in line


def test_lists_are_cut_to_the_nearest_eight(told: dict[str, list[str]]) -> None:
    blobs = "".join(
        f'layer {{ name: "b{i}" type: "ReLU" bottom: "data" top: "blob{i}" }}' for i in range(30)
    )
    text = INPUT + blobs + 'layer { name: "x" type: "ReLU" bottom: "blob2x" top: "x" }'
    with pytest.raises(NetError, match=r"before it, the nearest of 31: blob2, (\w+, ){6}\w+$"):
        plan_net(NetChoice("f", parse_net(text)))
    assert "nearest" not in told["plural"][0]


def test_every_type_of_a_known_fork_is_said_to_be_its() -> None:
    """What is built leaves the list."""
    foreign = [name for fork in FORKS for name in fork.types.split()]
    assert foreign
    assert not LAYERS.keys() & {*foreign, *TYPES_OTHERWISE}
    for name in foreign:
        layer = pb.LayerParameter(name="x", type=name)
        with pytest.raises(NetError) as error:
            require_known([layer], LAYERS, "f")
        assert any(f"it is of {fork.whose} fork" in str(error.value) for fork in FORKS)
        assert TYPES_OTHERWISE.get(name, "") in str(error.value)


def test_what_caffe_writes_otherwise_it_writes_with_layers_that_it_has() -> None:
    for how in TYPES_OTHERWISE.values():
        assert how.split()[0].strip(",") in LAYERS


def test_every_field_of_a_known_fork_is_said_to_be_its() -> None:
    """But for those that the schema has since."""
    roots = {"SolverParameter": pb.SolverParameter, "NetParameter": pb.NetParameter}
    asked = 0
    for fork in FORKS:
        for message, names in fork.fields.items():
            for name in names.split():
                root, path = _way_to(message, roots)
                if root is None or name in _DESCRIPTORS[message].fields_by_name:
                    continue
                text = f"{path} {name}: 1 {'} ' * path.count('{')}"
                found = diagnose(text, root())
                assert found, text
                assert f"{name} (line 1)" in found.words
                assert any(f"of {one.whose} fork" in found.words for one in FORKS)
                asked += 1
    assert asked > 20


_DESCRIPTORS = pb.DESCRIPTOR.message_types_by_name


def _way_to(
    message: str, roots: dict[str, type[pb.SolverParameter] | type[pb.NetParameter]]
) -> tuple[type[pb.SolverParameter] | type[pb.NetParameter] | None, str]:
    """The message that a file holds, and the text that leads to another message within it."""
    if message in roots:
        return roots[message], ""
    if message == "LayerParameter":
        return pb.NetParameter, "layer {"
    for field in _DESCRIPTORS["LayerParameter"].fields:
        if field.message_type is not None and field.message_type.name == message:
            return pb.NetParameter, f"layer {{ {field.name} {{"
    return None, ""


VALUES = {
    "engine": '"MKL2017"',
    "solver_data_type": "FLOAT16",
    "store_blobs_in_old_format": "true",
    "snapshot_log": "true",
}


def test_solver_fields_that_change_nothing_are_accepted_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    schema = {entry.name: idle(entry) for entry in pb.SolverParameter.DESCRIPTOR.fields}
    reasons = SOLVER_WITHOUT_EFFECT | {name: reason for name, reason in schema.items() if reason}
    lines = [f"{name}: {VALUES.get(name, 3)}" for name in reasons]
    path = tmp_path / "solver.prototxt"
    path.write_text("\n".join(["base_lr: 0.5", *lines, 'net: "x"']))
    solver = read_solver(path)
    assert (solver.base_lr, solver.net) == (0.5, "x")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(reasons)
    for name, reason in reasons.items():
        (line,) = (line for line in told if f" {name}, of " in line)
        assert line.startswith(f"{path}: {name}, of ")
        assert line.endswith(f"fork, has no effect here: {reason}")


def test_the_first_place_counts_though_a_field_without_effect_stands_before_it() -> None:
    text = 'display_sparsity: 1\nbase_lr: 0.1\nmomentun: 0.9\nnet: "x"'
    with pytest.raises(PrototxtError, match=r"^s:3:1: .*named \"momentun\". Did you mean momentum"):
        parse_text(text, pb.SolverParameter(), "s")
