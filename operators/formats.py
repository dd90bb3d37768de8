"""Say what a value is that is not JSON in UTF-8, as far as its first bytes tell.

The formats that reach a topic by a wrong setting of a producer. Marks at the beginning are taken
from Confluent's wire format, AWS Glue's, RFC 8259 (its predecessor 4627 for UTF-16 and 32 without a
mark), and each compressor's own description.
"""

import codecs
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["Format", "recognise"]

FIRST: Final = b'{[" \t\r\n'  # what JSON begins with
GLUE: Final = (b"\x03\x00", b"\x03\x05")
COMPRESSED: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
    b"\x82SNAPPY\x00": "snappy",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}


class Format(NamedTuple):
    """What a value is."""

    code: str
    words: str


def recognise(value: bytes) -> Format | None:
    """Look what a value is that is no JSON.

    :returns: None if its beginning says nothing.

    """
    for name in ("utf-32", "utf-16"):  # the mark of UTF-16 begins one of UTF-32
        if _is_encoded(value, name):
            return Format(name.replace("-", "_"), f"{name.upper()}, where UTF-8 is expected")
    if value.startswith(codecs.BOM_UTF8):
        return Format("byte_order_mark", "a byte order mark, which JSON must not begin with")
    if (value[:1] == b"\0" and len(value) >= 5) or (value[:2] in GLUE and len(value) >= 18):  # noqa: PLR2004 - mark and schema's id
        return Format("registry_framing", "framed for a schema registry, not plain JSON")
    for mark, name in COMPRESSED.items():
        if value.startswith(mark):
            return Format("compressed", f"compressed by the producer ({name}), not plain JSON")
    return None


def _is_encoded(value: bytes, name: str) -> bool:
    """Whether it is all text of an encoding with characters of several bytes."""
    width = int(name[-2:]) // 8
    mark = codecs.encode("", name)  # of this machine's order
    first, zeros = value[:width], bytes(width - 1)
    if first in {mark, mark[::-1]}:
        encoding = name
    elif first[:-1] == zeros and first[-1:] and first[-1] in FIRST and _has_width(value, zeros, 0):
        encoding = f"{name}-be"
    elif first[1:] == zeros and first[0] in FIRST and _has_width(value, zeros, 1):
        encoding = f"{name}-le"
    else:
        return False
    try:
        value.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _has_width(value: bytes, zeros: bytes, start: int) -> bool:
    """Whether the second character is ASCII, too; JSON may have only one."""
    second = value[len(zeros) + 1 :][: len(zeros) + 1]
    return not second or second[start : start + len(zeros)] == zeros
