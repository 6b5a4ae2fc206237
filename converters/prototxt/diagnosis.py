"""Why a prototxt does not parse: what is there, in which line and layer, and what to write instead.

protobuf says what it expected and stops. This reads the text once more, more patiently: it goes on
behind a field that it does not know, so that all that a net has of forks is told at once
(`converters.proto.foreign`). It never says that a text is well; who asks knows that it is not.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from converters.layers import LAYERS
from converters.layers.unknown import MOST, near_types, nearest
from converters.proto import caffe_pb2 as pb
from converters.proto import foreign
from converters.proto.forks import fork_of, fork_of_value
from converters.proto.legacy import V1_TYPES
from converters.prototxt.strangers import quoted, stranger, unfilled
from converters.reporting import shortened

_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|\#[^\n]*)+)"""
    r"""|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<word>[^\W\d][\w-]*)"""
    r"""|(?P<number>[-+]?\.?\d[\w.]*(?:(?<=[eE])[-+]\d+f?)?)"""
    r"""|(?P<mark>-[^\W\d]\w*|.)""",
    re.S,
)
_CLOSERS = {"{": "}", "<": ">"}
_TYPOGRAPHIC = re.compile("[\u2018-\u201f\u00ab\u00bb\uff02\uff07\u00b4`]")
_WIDE = {"\uff1a": ":", "\uff5b": "{", "\uff5d": "}", "\uff0c": ",", "\uff1b": ";"}
_LAYERS = ("layer", "layers")
_UNKNOWN_FORK = "an unknown"
_LONGEST = 60

_MEANT = {
    "batchsize": "batch_size",
    "dropout": "dropout_ratio",
    "epochs": "max_iter",
    "filters": "num_output",
    "kernel": "kernel_size",
    "learning_rate": "base_lr",
    "lr": "base_lr",
    "max_epoch": "max_iter",
    "max_epochs": "max_iter",
    "num_filter": "num_output",
    "num_filters": "num_output",
    "num_iter": "max_iter",
    "optimizer": "type",
    "out_channels": "num_output",
    "padding": "pad",
    "units": "num_output",
}
"""What other frameworks call a field of Caffe's."""


class Diagnosis(NamedTuple):
    """The first place (line and column from 1) and what is to be said of it."""

    line: int
    column: int
    words: str


def diagnose(text: str, message: Message) -> Diagnosis | None:
    """Why `text` is none of what `message` holds; None if nothing is found."""
    place = _Lines(text).place
    # A broken label map is one still, to whoever reads label maps.
    finding = None if isinstance(message, pb.LabelMap) else stranger(text)
    if finding is not None:
        return Diagnosis(*place(finding.offset), finding.words)
    reader = _Reader(text, message)
    template = unfilled(text)
    if template and not any(problem.offset < template.offset for problem in reader.problems):
        return Diagnosis(*place(template.offset), template.words)
    return reader.diagnosis()


def without_idle_fields(text: str, message: Message) -> tuple[str, list[str]]:
    """The text with blanks for solver fields without effect that the schema lacks, and these."""
    idle: list[str] = []
    if isinstance(message, pb.SolverParameter):
        reader = _Reader(text, message)
        for name, start, end in reader.unknown:
            if name in foreign.SOLVER_WITHOUT_EFFECT:
                idle.append(name)
                text = text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
    return text, idle


class _Lines:
    """Lines and columns, from 1, of offsets."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(found.end() for found in re.finditer(r"\n", text))]

    def place(self, offset: int) -> tuple[int, int]:
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


class _Token(NamedTuple):
    """A piece of the text: its kind is the name of a group of `_TOKEN`, or "end"."""

    kind: str
    text: str
    offset: int


def _tokens(text: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "blank":
            yield _Token(str(found.lastgroup), found[0], found.start())
    yield _Token("end", "", len(text))


_NOTHING = _Token("mark", "", 0)


@dataclass
class _Open:
    """A message being read: `descriptor` is None where a field is unknown, and in all below it.

    `key` and `opener` began it, `name` and `type` are its own, `seen` has the first place of each
    field among the tokens.
    """

    descriptor: Descriptor | None
    key: str = ""
    opener: _Token = _NOTHING
    name: str = ""
    type: str = ""
    seen: dict[str, int] = field(default_factory=dict)


class _Problem(NamedTuple):
    offset: int
    layer: str
    words: str


class _Foreign(NamedTuple):
    """A part of a fork's: `what` is a key of `_PLURALS`."""

    offset: int
    what: str
    name: str
    forks: tuple[str, ...]
    otherwise: str = ""


_PLURALS = {
    "type": ("layer type", "layer types"),
    "field": ("field", "fields"),
}


class _LostError(Exception):
    """What follows cannot be told apart any more."""


class _Reader:
    """One reading of a text; what it found is in its lists."""

    def __init__(self, text: str, message: Message) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.at = 0
        self.place = _Lines(text).place
        self.stack = [_Open(cast(Descriptor, message.DESCRIPTOR))]
        self.problems: list[_Problem] = []
        self.foreign: list[_Foreign] = []
        self.unknown: list[tuple[str, int, int]] = []  # of the outermost message, with their values
        try:
            while self._field():
                pass
        except _LostError:
            pass

    def diagnosis(self) -> Diagnosis | None:
        """The first problem and all that is foreign, in the order in which they stand."""
        told: list[tuple[int, str]] = []
        more = ""
        if self.problems:
            first, *others = self.problems
            layer = f'layer "{_cut(first.layer)}": ' if first.layer else ""
            lines = list(dict.fromkeys(self.place(one.offset)[0] for one in others))
            told.append((first.offset, f"{layer}{first.words}"))
            more = f" There is more in line{_s(lines)} {_listed(lines)}." if lines else ""
        if self.foreign:
            told.append((self.foreign[0].offset, self._foreign_words()))
        if not told:
            return None
        told.sort()
        words = told[0][1]
        for offset, further in told[1:]:
            words = f"{words.removesuffix('.')}; and in line {self.place(offset)[0]}: {further}"
        if more and words[-1] not in ".?":
            words += "."
        return Diagnosis(*self.place(told[0][0]), words + more)

    # What is read --------------------------------------------------------------------------------

    def _field(self) -> bool:
        """Read a field, or the end of a message; False at the end of the text."""
        here, name = self.stack[-1], self._take()
        if name.kind == "end":
            if here.key:
                self._unclosed(here, name)
            return False
        if name.text in (";", ",") and self.at > 1:
            return True
        if here.key and name.text == _CLOSERS[here.opener.text]:
            self.stack.pop()
            return True
        if name.kind != "word":
            self._no_name(name)
        known = here.descriptor.fields_by_name.get(name.text) if here.descriptor else None
        if known is not None:
            first = here.seen.setdefault(name.text, self.at - 1)
            if first != self.at - 1 and not known.is_repeated and known.message_type is None:
                line = self.place(self.tokens[first].offset)[0]
                self._problem(
                    name, f"{quoted(name.text)} a second time, after line {line}; it is one value"
                )
        elif here.descriptor is not None:
            self._unknown_field(here, here.descriptor, name)
        self._value(here, known, name)
        if known is None and here is self.stack[0]:
            last = self.tokens[self.at - 1]
            self.unknown.append((name.text, name.offset, last.offset + len(last.text)))
        return True

    def _value(self, here: _Open, known: FieldDescriptor | None, name: _Token) -> None:
        colon = self._peek().text == ":"
        if colon:
            self._take()
        token = self._peek()
        if token.text in _WIDE:
            self._stop(
                token, f"{quoted(token.text)} is a wide character: write {_WIDE[token.text]}"
            )
        if token.text in _CLOSERS and (known is None or known.message_type is not None):
            self._take()
            message = known.message_type if known is not None else None
            self.stack.append(_Open(message, name.text, token))
            return
        if not colon:
            self._no_colon(known, name, token)
        if token.text == "[":
            self._list(here, known, name)
        else:
            self._scalar(here, known, name)
        after = self._peek()
        if after.text in ("*", "+", "/", "^", "%") and not self._starts(after, "//", "/*"):
            self._stop(after, f"nothing is computed in {self._line(after)}: write the result")

    def _list(self, here: _Open, known: FieldDescriptor | None, name: _Token) -> None:
        opener = self._take()
        if known is not None and not known.is_repeated:
            self._stop(opener, f"{name.text} takes one value, not a list in [ ]")
        while (token := self._peek()).text != "]":
            if token.kind == "end":
                self._stop(opener, "a ] is missing: this list is not closed")
            if token.text in _CLOSERS:
                raise _LostError  # a list of messages, which hardly anybody writes
            if token.text == ",":
                self._take()
            else:
                self._scalar(here, known, name)
        self._take()

    def _scalar(self, here: _Open, known: FieldDescriptor | None, name: _Token) -> None:
        token, after = self._peek(), self._peek(1)
        follows = token.kind == "word" and (
            after.text == ":" or (after.text in _CLOSERS and token.offset > self._line_end(name))
        )
        if token.kind == "end" or token.text in ("}", ">", ";", ",") or follows:
            self._stop(name, f"{quoted(name.text)} has no value after its colon")
        self._take()
        while token.kind == "string" and self._peek().kind == "string":
            self._take()
        if known is None:
            return
        if known.message_type is not None:
            self._stop(token, f"{name.text} holds fields: write {name.text} {{ … }}")
        words = _CHECKS[known.cpp_type](self, known, token)
        if words:
            self._problem(token, words)
        elif known.name == "name" and not here.name:
            here.name = token.text[1:-1]
        elif known.name == "type" and here.descriptor is pb.LayerParameter.DESCRIPTOR:
            here.type = token.text[1:-1]
            self._layer_type(here.type, token)

    # What is wrong -------------------------------------------------------------------------------

    def _no_name(self, token: _Token) -> NoReturn:
        text, here = token.text, self.stack[-1]
        before = self.tokens[max(0, self.at - 2)]
        if text in ("}", ">", "]", ")") and here.key:
            line = self.place(here.opener.offset)[0]
            closer = _CLOSERS[here.opener.text]
            self._stop(
                token,
                f"{text} where {closer} closes `{here.key} {here.opener.text}` of line {line}",
            )
        if text in ("}", ">"):
            self._stop(token, f"one {text} too many: all that was opened before it is closed")
        if before.text == "," and token.kind == "number":
            whole = self.tokens[max(0, self.at - 3)].text
            self._stop(token, f"a number has a point, not a comma: {whole}.{text}")
        if self._starts(token, "//", "/*"):
            self._stop(token, "a comment begins with #, in every line of its own")
        if self._starts(token, "...", "\u2026"):
            self._stop(token, "something was left out here (…): write it in full")
        if _TYPOGRAPHIC.match(text):
            self._stop(token, f'{quoted(text)} is a typographic quote: write "')
        if token is self.tokens[0]:
            self._no_prototxt(token)
        self._stop(token, f"a field's name is missing before {quoted(text)} in {self._line(token)}")

    def _no_prototxt(self, token: _Token) -> NoReturn:
        self._stop(token, f"this is no prototxt: it begins with {self._line(token)}")

    def _unknown_field(self, here: _Open, message: Descriptor, token: _Token) -> None:
        name, after = token.text, self._peek()
        if token is self.tokens[0] and after.text not in (":", *_CLOSERS, *_WIDE, "="):
            self._no_prototxt(token)
        if here.key and name in _LAYERS:
            self._unclosed(here, token)
        before = self.tokens[self.at - 2] if self.at > 1 else _NOTHING
        if before.kind == "string" and before.offset + len(before.text) == token.offset:
            line = self.place(before.offset)[0]
            self._stop(
                before, f"a quote is missing: {quoted(before.text)} of line {line} ends at {name}"
            )
        forks = foreign.forks_with_field(message.name, name)
        if not forks and here.type and here.type not in LAYERS and name.endswith("_param"):
            forks = () if near_types(here.type, LAYERS) else (_UNKNOWN_FORK,)
        if not forks:
            told = f'Message type "{message.full_name}" has no field named "{_cut(name)}".'
            self._problem(token, f"{told} {self._instead(message, name, here)}")
            return
        told = name if here.key in ("", *_LAYERS) else f"{here.key}.{name}"
        otherwise = foreign.FIELDS_OTHERWISE.get(name, "")
        self.foreign.append(_Foreign(token.offset, "field", told, forks, otherwise))

    def _instead(self, message: Descriptor, name: str, here: _Open) -> str:
        """What to write instead of a field that nobody has."""
        fields = [known.name for known in message.fields if not fork_of(known)]
        plain = re.sub(r"[_-]", "", name.lower())
        same = {re.sub("_", "", known.lower()): known for known in message.fields_by_name}
        for spelling in (plain, plain.removesuffix("s"), plain + "s"):
            if spelling in same:
                return f"Did you mean {same[spelling]}?"
        meant = _MEANT.get(name.lower())
        if meant in fields:
            return f"Did you mean {meant}{', in iterations' if meant == 'max_iter' else ''}?"
        if otherwise := foreign.FIELDS_OTHERWISE.get(name):
            return f"Caffe's own way: {otherwise}."
        if message is pb.LayerParameter.DESCRIPTOR and (home := _home(name, here.type)):
            return f"It belongs into {home} {{ … }}."
        for outer in reversed(self.stack[:-1]):
            if outer.descriptor and name in outer.descriptor.fields_by_name:
                closer = _CLOSERS[here.opener.text]
                owner = outer.key or "the net"
                return f"{owner} has: is a {closer} missing before it?"
        if home := self._elsewhere(message, name):
            return home
        if near := difflib.get_close_matches(name, fields, 3):
            return f"Did you mean {' or '.join(near)}?"
        if len(fields) <= MOST:
            return f"It has {', '.join(fields)}."
        return f"The nearest of its {len(fields)} fields: {', '.join(nearest(name, fields))}."

    def _elsewhere(self, message: Descriptor, name: str) -> str:
        """Where a field belongs that another message has: a layer, its settings, a solver."""
        layer = next((level for level in self.stack if level.key in _LAYERS), None)
        if layer is not None:
            home = _home(name, layer.type)
            return f"It belongs into the layer's {home} {{ … }}." if home else ""
        if message is pb.NetParameter.DESCRIPTOR:
            if name in pb.LayerParameter.DESCRIPTOR.fields_by_name:
                return "It belongs into layer { … }."
            if name in pb.SolverParameter.DESCRIPTOR.fields_by_name:
                return "It belongs into a solver."
        return ""

    def _no_colon(self, known: FieldDescriptor | None, name: _Token, token: _Token) -> NoReturn:
        if token.text == "=":
            self._stop(token, f"write : in place of =, {quoted(f'{name.text}: …')}")
        if known is not None and known.message_type is not None:
            self._stop(token, f"a {{ is missing after {quoted(name.text)}, which holds fields")
        if token.text in _CLOSERS:
            self._stop(token, f"{name.text} is one value and no message: {name.text}: …")
        if token.kind in ("end", "mark"):
            self._stop(name, f"{quoted(name.text)} has no colon and no value")
        self._stop(token, f"a colon is missing: {quoted(f'{name.text}: {token.text}')}")

    def _unclosed(self, opened: _Open, before: _Token) -> NoReturn:
        line = self.place(opened.opener.offset)[0]
        where = "at the end" if before.kind == "end" else f"before {quoted(before.text)}"
        self._stop(
            before,
            f"a {_CLOSERS[opened.opener.text]} is missing {where}: "
            f"`{opened.key} {opened.opener.text}` of line {line} is not closed",
        )

    def _layer_type(self, name: str, token: _Token) -> None:
        if name in LAYERS:
            return
        near = near_types(name, LAYERS)
        forks = foreign.forks_with_type(name) or (() if near else (_UNKNOWN_FORK,))
        if forks:
            otherwise = foreign.TYPES_OTHERWISE.get(name, "")
            self.foreign.append(_Foreign(token.offset, "type", name, forks, otherwise))
        else:
            hint = f"did you mean {' or '.join(near)}?"
            self._problem(token, f"unknown layer type {token.text}; {hint}")

    # How it is told ------------------------------------------------------------------------------

    def _foreign_words(self) -> str:
        """All foreign parts, by fork: one that several have is told of that which has the most."""
        shares = Counter(whose for one in self.foreign for whose in one.forks)
        groups: dict[str, dict[str, dict[str, list[int]]]] = {}
        otherwise = {}
        for one in self.foreign:
            whose = max(one.forks, key=lambda fork: shares[fork])
            names = groups.setdefault(whose, {}).setdefault(one.what, {})
            lines = names.setdefault(one.name, [])
            lines.append(self.place(one.offset)[0])
            if one.otherwise:
                otherwise[one.name] = one.otherwise
        told = []
        for whose, kinds in groups.items():
            lists = [
                f"{_PLURALS[what][len(names) > 1]} "
                + ", ".join(f"{_cut(n)} (line{_s(at)} {_listed(at)})" for n, at in names.items())
                for what, names in kinds.items()
            ]
            told.append(f"of {whose} fork: {'; '.join(lists)}")
        words = f"not in BVLC's Caffe; {'; '.join(told)}"
        if otherwise:
            words += "; Caffe's own way: " + ", ".join(
                f"for {name}: {how}" for name, how in otherwise.items()
            )
        if self.stack[0].descriptor is pb.SolverParameter.DESCRIPTOR:
            words += "; this changes the training and is not built: remove it to train without"
        return words

    def _problem(self, token: _Token, words: str) -> None:
        layer = next((level.name for level in self.stack if level.key in _LAYERS), "")
        self.problems.append(_Problem(token.offset, layer, words))

    def _stop(self, token: _Token, words: str) -> NoReturn:
        self._problem(token, words)
        raise _LostError

    def _line(self, token: _Token) -> str:
        """The line of a token, quoted."""
        start = self.text.rfind("\n", 0, token.offset) + 1
        return quoted(self.text[start : self._line_end(token)])

    def _line_end(self, token: _Token) -> int:
        end = self.text.find("\n", token.offset)
        return end if end >= 0 else len(self.text)

    def _starts(self, token: _Token, *marks: str) -> bool:
        return self.text.startswith(marks, token.offset)

    def _peek(self, further: int = 0) -> _Token:
        return self.tokens[min(self.at + further, len(self.tokens) - 1)]

    def _take(self) -> _Token:
        token = self._peek()
        self.at += 1
        return token


# What a value must be: the words that say why it is not, or "" -----------------------------------

_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0|[1-9]\d*)")
_FLOAT = re.compile(
    r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|inf(?:inity)?|nan)f?", re.I
)
_BOOLS = ("true", "false", "True", "False", "t", "f", "0", "1")


def _string(reader: _Reader, known: FieldDescriptor, token: _Token) -> str:
    if token.kind == "string":
        return ""
    if token.text in "\"'":
        return f"no quote ends this string in its line: {known.name}: {token.text}…{token.text}"
    if _TYPOGRAPHIC.match(token.text):
        return f'{quoted(token.text)} is a typographic quote: write "'
    if known.name == "type" and token.text in V1_TYPES:
        return (
            f"`type: {token.text}` is of old files' layers {{ }}; in layer {{ }} write "
            f'type: "{V1_TYPES[token.text]}"'
        )
    return f'{known.name} is a string, in quotes: {known.name}: "{_cut(token.text)}"'


def _enum(reader: _Reader, known: FieldDescriptor, token: _Token) -> str:
    enum = known.enum_type
    if enum is None:
        return ""
    values = [one.name for one in enum.values if not fork_of_value(one)]
    name = token.text.strip("\"'")
    if (
        token.kind == "number"
        and _INTEGER.fullmatch(name)
        and int(name, 0) in enum.values_by_number
    ):
        return ""
    if token.kind == "word" and name in enum.values_by_name:
        return ""
    if known.containing_type is pb.V1LayerParameter.DESCRIPTOR and name in V1_TYPES.values():
        old = next(old for old, new in V1_TYPES.items() if new == name)
        return (
            f'`type: "{name}"` is of layer {{ }}; in old files\' layers {{ }} it is type: {old} '
            "(or write layer for layers)"
        )
    if token.kind == "string" and name in values:
        return f"no quotes: {known.name}: {name}"
    likely = [value for value in values if value.lower() == name.lower()]
    likely = likely or difflib.get_close_matches(name.upper(), values, 1)
    hint = f"did you mean {likely[0]}? " if likely else ""
    shown = values if len(values) <= MOST else nearest(name, values)
    all_of = "the values are" if len(values) <= MOST else f"the nearest of {len(values)} values are"
    return f"{known.name} has no value {quoted(name)}; {hint}{all_of} {', '.join(shown)}"


def _bool(reader: _Reader, known: FieldDescriptor, token: _Token) -> str:
    if token.text in _BOOLS:
        return ""
    return f"{known.name} is true or false, not {quoted(token.text)}"


def _integer(reader: _Reader, known: FieldDescriptor, token: _Token) -> str:
    text = token.text.strip("\"'")
    signed = known.cpp_type in (known.CPPTYPE_INT32, known.CPPTYPE_INT64)
    bits = 32 if known.cpp_type in (known.CPPTYPE_INT32, known.CPPTYPE_UINT32) else 64
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    what = f"{known.name} is a whole number"
    if not _INTEGER.fullmatch(text):
        if re.fullmatch(r"[-+]?0\d+", text):
            return f"{what}, without 0 before it, not {quoted(text)}"
        return f"{what}, not {quoted(token.text)}{_placeholder(token)}"
    if token.kind == "string":
        return f"{what}, without quotes: {known.name}: {text}"
    if not least <= int(text, 0) <= most:
        return f"{what} from {least} to {most}, not {quoted(text)}"
    return ""


def _float(reader: _Reader, known: FieldDescriptor, token: _Token) -> str:
    text = token.text.strip("\"'")
    if not _FLOAT.fullmatch(text) and not _INTEGER.fullmatch(text):
        return f"{known.name} is a number, not {quoted(token.text)}{_placeholder(token)}"
    if token.kind == "string":
        return f"{known.name} is a number, without quotes: {known.name}: {text}"
    return ""


def _placeholder(token: _Token) -> str:
    """What a word in large letters in place of a number may be."""
    is_place = token.kind == "word" and token.text.isupper()
    return " (an unfilled place of a template?)" if is_place else ""


_CHECKS: dict[int, Callable[[_Reader, FieldDescriptor, _Token], str]] = {
    FieldDescriptor.CPPTYPE_STRING: _string,
    FieldDescriptor.CPPTYPE_ENUM: _enum,
    FieldDescriptor.CPPTYPE_BOOL: _bool,
    FieldDescriptor.CPPTYPE_INT32: _integer,
    FieldDescriptor.CPPTYPE_INT64: _integer,
    FieldDescriptor.CPPTYPE_UINT32: _integer,
    FieldDescriptor.CPPTYPE_UINT64: _integer,
    FieldDescriptor.CPPTYPE_FLOAT: _float,
    FieldDescriptor.CPPTYPE_DOUBLE: _float,
}


def _home(name: str, layer_type: str) -> str:
    """The settings of a layer, as its type has them, or else the only ones with a field `name`."""
    homes = [
        known.name
        for known in pb.LayerParameter.DESCRIPTOR.fields
        if known.message_type and name in known.message_type.fields_by_name
    ]
    own = LAYERS[layer_type].params if layer_type in LAYERS else ()
    homes = [home for home in homes if home in own] or homes
    return homes[0] if len(homes) == 1 else ""


def _listed(lines: list[int]) -> str:
    more = f" and {len(lines) - MOST} more" if len(lines) > MOST else ""
    return f"{', '.join(map(str, lines[:MOST]))}{more}"


def _s(items: list[int]) -> str:
    return "s" if len(items) > 1 else ""


def _cut(text: str) -> str:
    return shortened(text, _LONGEST)
