"""What a file is that was taken for a prototxt: a web page, a merge conflict, a template, code …

Asked once parsing has failed: nothing that parses is anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from converters.reporting import shortened

COMMENT_OR_STRING = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""")
_MOST = 8
_EXCERPT = 60


class Finding(NamedTuple):
    """Where in the text, as an offset, and what is there and what to do, in words."""

    offset: int
    words: str


class _Kind(NamedTuple):
    """A kind of file: what tells it, and what is said; FOUND stands for the text that matched."""

    pattern: re.Pattern[str]
    words: str


_DOWNLOAD = "download the file itself (on GitHub: its Raw button)"
_KINDS = (
    _Kind(
        re.compile(r"\A\s*<(?:!doctype|html|head|body|title|script|meta)\b[^>]*>", re.I),
        f"this is a web page; {_DOWNLOAD}",
    ),
    _Kind(
        re.compile(r"\A\s*<\?xml\b.{0,200}", re.S),
        f"this is XML, as a server answers for want of a file: FOUND; {_DOWNLOAD}",
    ),
    _Kind(
        re.compile(
            r"\A\s*(?:[345]\d\d\b[^\n]{0,80}|(?:not found|forbidden|too many requests|bad gateway|"
            r"access denied|internal server error|moved permanently|service unavailable)\b.?)\s*\Z",
            re.I,
        ),
        f"this is a server's answer, FOUND, in place of a file; {_DOWNLOAD}",
    ),
    _Kind(
        re.compile(r"\A\s*\{\s*\"message\"\s*:[^\n]*"),
        f"this is a server's answer, FOUND, in place of a file; {_DOWNLOAD}",
    ),
    _Kind(
        re.compile(r"^(?:<{7}|>{7}|={7}|\|{7})(?: [^\n]*)?$", re.M),
        "FOUND is a merge conflict: keep one of its sides, and no line of marks",
    ),
    _Kind(
        re.compile(r"\Aversion https://git-lfs[^\n]*"),
        "this is a pointer of Git LFS, not the file: `git lfs pull` brings it",
    ),
    _Kind(
        re.compile(r"\A(?:\s|#[^\n]*\n)*item\s*\{"),
        "this is a label map (item { name … label … }), no net and no solver; SSD's data layer "
        "names one in label_map_file",
    ),
    _Kind(
        re.compile(r"\A(?:\s|#[^\n]*\n)*(?:node|graph_def)\s*\{"),
        "this is a graph of TensorFlow (node { … }), no net of Caffe's",
    ),
    _Kind(
        re.compile(r"\A(?:\s|#[^\n]*\n)*(?:name:[^\n]*\s+)?op\s*\{"),
        "this is a net of Caffe2 (op { … }), another program's format",
    ),
    _Kind(
        re.compile(r"^(?:ir_version|opset_import)\b[^\n]*", re.M),
        "this is an ONNX model as text, no net of Caffe's",
    ),
    _Kind(
        re.compile(r"^(?:diff --git |@@ -\d|Index: |--- a/)[^\n]*", re.M),
        "this is a patch; `git apply` or `patch` puts it into the prototxt that it changes",
    ),
    _Kind(
        re.compile(
            r"\A#![^\n]*python|"
            r"^(?:import \w[\w., ]*|from [\w.]+ import [^\n]*|def \w+\(|class \w+[(:])",
            re.M,
        ),
        "this is Python code (FOUND); run it, and save the prototxt that it makes",
    ),
    _Kind(re.compile(r"\A#!\s*\S+[^\n]*"), "this is a program (FOUND), no prototxt"),
    _Kind(
        re.compile(r"^\s*(?:syntax\s*=\s*[\"']proto|message\s+\w+\s*\{)", re.M),
        "this is a schema (.proto), which says what a prototxt can hold; Caffe's is built in",
    ),
    _Kind(
        re.compile(r"^\[[a-z_]+\]\s*$", re.M),
        "this is a configuration in sections (FOUND), as Darknet's .cfg; it must be converted to a "
        "prototxt first",
    ),
    _Kind(
        re.compile(r"\A\s*(?:\{\s*[\"}]|\[)"),
        "this is JSON; a prototxt begins with a field's name, without {} around it all",
    ),
    _Kind(
        re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d[^\n]*", re.M),
        "this is a log of Caffe's (FOUND), no prototxt",
    ),
    _Kind(
        re.compile(r"^```", re.M),
        "this is Markdown; save what stands between its lines of ``` alone",
    ),
    _Kind(
        re.compile(r"\A\s*\S+\.(?:jpe?g|png|bmp|tiff?|ppm|webp)[ \t]+-?\d+", re.I),
        "this is a list of images and labels (FOUND), as an ImageData layer's source",
    ),
    _Kind(
        re.compile(r"\An\d{8}\b[^\n]*"), "this is a list of classes (FOUND), no net and no solver"
    ),
    _Kind(
        re.compile(r"\A\s*1[:|.)]?[ \t]+[^\n]*\n\s*2[:|.)]?[ \t][^\n]*"),
        "each line begins with its number, as copied from a page; remove them",
    ),
    _Kind(
        re.compile(r"^\w+:[ \t]*\n(?:[ \t]*\n)*[ \t]*- ", re.M),
        "this is YAML; a prototxt has `layer { … }` for each layer and quotes around strings",
    ),
)

_PLACEHOLDER = re.compile(
    r"\{\{.*?\}\}|\{%.*?%\}|\$\{[^}\n]*\}|\$\([^)\n]*\)|\$[A-Za-z_]\w*|@[A-Za-z_]\w*@|"
    r"%\([^)\n]*\)[a-z]|%[sdfg]\b|<%.*?%>|(?<=:)\s*(?:<[A-Za-z_]\w*>|\{[A-Za-z_]\w*\})|"
    r"\b__[A-Z]\w*__\b|(?<=:)\s*\?+(?=\s)",
    re.S,
)
_PLACEHOLDER_IN_STRING = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\$\{[^}]*\}|%\(\w+\)s")


def stranger(text: str) -> Finding | None:
    """What the text is, if it is a well-known kind of file and no prototxt."""
    code = without_strings(text)
    for kind in _KINDS:
        found = kind.pattern.search(text)
        # What stands in a comment or a string tells nothing, but for a first line.
        if found and (found.start() == 0 or not _hidden(code, found)):
            offset = found.start() + len(found[0]) - len(found[0].lstrip())
            return Finding(offset, kind.words.replace("FOUND", quoted(found[0])))
    return None


def unfilled(text: str) -> Finding | None:
    """The places of a template that nobody has filled, outside strings."""
    found = list(placeholders(without_strings(text)))
    if not found:
        return None
    names = list(dict.fromkeys(quoted(place.words) for place in found))
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    verb = "is an unfilled place" if len(names) == 1 else "are unfilled places"
    return Finding(
        found[0].offset,
        f"{', '.join(names[:_MOST])}{more} {verb} of a template; this is an unfilled template: "
        "render it, or write the values",
    )


def unfilled_strings(text: str) -> Finding | None:
    """The first place of a template within a string, where it does not keep a file from parsing."""
    for literal in COMMENT_OR_STRING.finditer(text):
        place = None if literal[0].startswith("#") else _PLACEHOLDER_IN_STRING.search(literal[0])
        if place:
            return Finding(
                literal.start() + place.start(),
                f"{quoted(place[0])} looks like an unfilled place of a template",
            )
    return None


def placeholders(text: str) -> Iterator[Finding]:
    """Each place that looks like a template's, as it stands."""
    for found in _PLACEHOLDER.finditer(text):
        blank = len(found[0]) - len(found[0].lstrip())
        yield Finding(found.start() + blank, found[0].strip())


def without_strings(text: str) -> str:
    """The text with blanks for its comments and strings, each place where it was."""
    return COMMENT_OR_STRING.sub(lambda found: " " * len(found[0]), text)


def quoted(text: str) -> str:
    """An excerpt in backquotes, on one line."""
    return f"`{shortened(' '.join(text.split()), _EXCERPT)}`"


def _hidden(code: str, found: re.Match[str]) -> bool:
    at = found.start() + len(found[0]) - len(found[0].lstrip())
    return code[at : at + 1] == " "
