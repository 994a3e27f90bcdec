"""Breaking sound files as people and attackers do: seeded, so that every input can be made again."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import onnx

NUMBERS = [0, -1, 1, 2, 7, 99, 127, 255, 2**31 - 1, 2**31, 2**40, 2**63 - 1, -(2**63)]
VALUES: list[Any] = [
    None, True, False, 0, -1, 3, 0.5, 1e308, -1e308, 1e-320, 2**63, 10**30, "", "x", "nonsense", "a\0b", "../..", "/etc/passwd",
    "\u202egnp", "\x1b[31m", "é" * 300, "~nobody/x", [], [1], [[]], {}, {"a": 1}, ["x", "x"], [0.0, float("1e308")],
]  # fmt: skip
TEXTS = ["", "\0", "x" * 5000, "\x1b[2J", "..", "/dev/zero", "\u2028", "²³", "1e999", "-5", "nan", "inf"]

SCRIPT_WORDS = ["1e400", "-1", "0", "None", "True", '"²"', '""', "[]", "{}", "[1, 'a']", "9" * 30, "9" * 5000, "float('nan')", "x" * 300,
                "trt", "*", "1x-1", "workspace:1e400", "a.b.c", "--", "lambda: 0", "'%99999d' % 1", "1 << 64", "..", "/etc/passwd"]  # fmt: skip
"""What may stand for any word of a script."""


def mutated(kind: str, content: bytes, seed: int) -> bytes:
    """A broken twin of a file; about a third are broken byte by byte, the rest within the bounds of their format."""
    rng = random.Random(seed)
    change: Callable[[bytes, random.Random], bytes] = {
        "onnx": onnx_fields, "json": json_values, "jsonl": json_lines, "npz": zip_members, "npy": npy_header, "toml": toml_values,
        "script": script_words,
    }.get(kind, some_bytes)  # fmt: skip
    if rng.random() < 0.3:
        change = some_bytes
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            content = change(content, rng)
        except Exception:  # what was broken before may not be read again
            content = some_bytes(content, rng)
    return content


def some_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, cut, double, insert or clear bytes."""
    if not content:
        return rng.randbytes(20)
    data = bytearray(content)
    place = rng.randrange(len(data))
    length = rng.choice((1, 1, 2, 8, 64))
    how = rng.randrange(6)
    if how == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif how == 1:
        del data[place:]
    elif how == 2:
        del data[place : place + length]
    elif how == 3:
        data[place:place] = rng.randbytes(length)
    elif how == 4:
        data[place : place + length] = bytes([rng.choice((0, 255))]) * min(length, len(data) - place)
    else:
        data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
    return bytes(data)


# ---------------------------------------------------------------- JSON and TOML


def json_values(content: bytes, rng: random.Random) -> bytes:
    """Replace, drop, add or nest a value, or write a number that JSON or Python finds hard."""
    holder = [json.loads(content)]
    places: list[tuple[Any, Any]] = [(holder, 0)]
    pending: list[Any] = [holder[0]]
    while pending:
        value = pending.pop()
        keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        places += [(value, key) for key in keys]
        pending += [value[key] for key in keys]
    parent, key = rng.choice(places)
    how = rng.randrange(6)
    marker = "stretchesholestretches"
    raw = ""
    if how <= 1:
        parent[key] = rng.choice(VALUES)
    elif how == 2 and isinstance(parent, dict):
        del parent[key]
    elif how == 3 and isinstance(parent, dict):
        parent[rng.choice(("evil", "", "schema", "a\0b"))] = rng.choice(VALUES)
    elif how == 4:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"a": parent[key]}
    else:
        parent[key] = marker
        raw = rng.choice(
            (
                "NaN",
                "-Infinity",
                "1e400",
                "1" + "0" * 400,
                "9" * 5000,
                '"\\ud800"',
                "[" * 3000 + "]" * 3000,
                '{"a":1,"a":2}',
                "",
            )
        )
    return json.dumps(holder[0]).replace(f'"{marker}"', raw).encode("utf-8", "surrogatepass")


def json_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = json_values(lines[place], rng)
    return b"\n".join(lines) + b"\n"


def toml_values(content: bytes, rng: random.Random) -> bytes:
    """Another value after a key, a key more, or a line less."""
    lines = content.decode().splitlines()
    place = rng.choice([i for i, line in enumerate(lines) if "=" in line])
    raw = rng.choice(
        ["nan", "-inf", "inf", "-1", "0", "1e300", "1e-320", "true", '""', '"x"', '"a\\u0000b"', "[]", "[1]", "{}", "9" * 30,
         "9" * 5000, '"' + "x" * 5000 + '"', "[" * 200 + "]" * 200, '"~nobody/x"', '"/dev/zero"', '"-1GB"', "1979-05-27", '"\\U0001F4A5"',
         "9223372036854775807", "-9223372036854775808"]
    )  # fmt: skip
    how = rng.randrange(4)
    if how <= 1:
        numbers = list(re.finditer(r'(?<=[=\[,]) *("[^"]*"|[-\d.]+)', lines[place]))
        spot = rng.choice(numbers)
        lines[place] = lines[place][: spot.start()] + f" {raw}" + lines[place][spot.end() :]
    elif how == 2:
        lines.insert(place + 1, f"{rng.choice(setting_names())} = {raw}")
    else:
        del lines[place]
    return "\n".join(lines).encode()


def script_words(content: bytes, rng: random.Random) -> bytes:
    """Another word, number or text in a Python or shell script, or a line less or twice."""
    text = content.decode()
    lines = text.splitlines()
    how, place = rng.randrange(6), rng.randrange(len(lines))
    if how == 0:
        del lines[place]
        return "\n".join(lines).encode()
    if how == 1:
        return "\n".join([*lines[:place], lines[place], *lines[place:]]).encode()
    spots = list(re.finditer(r"\"[^\"]*\"|'[^']*'|[\w.]+", text))
    one, other = rng.choice(spots), rng.choice(spots)
    word = rng.choice([*SCRIPT_WORDS, other[0]])
    return (text[: one.start()] + word + text[one.end() :]).encode()


@lru_cache
def setting_names() -> list[str]:
    """Every key of a recipe and of the built-in passes, with one that nothing has."""
    from toolkit.contract.installed import installed_passes
    from toolkit.run.recipe.recipe import Recipe

    definitions = Recipe.model_json_schema()["$defs"]
    found = {
        "evil",
        "manual.c",
        "weights.p",
        "images.scale",
        "images.size",
        "random.seed",
        "budget.min_sqnr_db",
        "shapes.x.min",
    }
    found |= {key for section in definitions.values() for key in section.get("properties", ())}
    found |= {key for entry in installed_passes().values() for key in entry.load().model_fields}
    return sorted(found)


# ---------------------------------------------------------------- arrays


def npy_header(content: bytes, rng: random.Random) -> bytes:
    """Another header before the same values: shapes, types and forms that numpy does not write."""
    length = struct.unpack("<H", content[8:10])[0]
    header, rest = content[10 : 10 + length].decode("latin-1"), content[10 + length :]
    how = rng.randrange(4)
    if how == 0:
        shape = rng.choice(("(-1, 3)", "(True, 3, 4, 4)", "(99999999999999, 3, 4, 4)", "()", "(0,)", f"({'9' * 400},)", "(6.0, 3)", "'x'",
                            "(6, 3, 4, 4)" + "(" * 90, "(2**40,)", "(6, 3, 16)"))  # fmt: skip
        header = re.sub(r"\([^)]*\)", lambda _: shape, header)
    elif how == 1:
        dtype = rng.choice(
            (">f4", "<f8", "|O", "<U100000000", "<V8", "<M8[s]", "|b1", "<c16", "x", "", "<f4,<i4", "<f2")
        )
        header = re.sub(r"'descr': '[^']*'", lambda _: f"'descr': '{dtype}'", header)
    elif how == 2:
        header = header.replace("False", rng.choice(("True", "None", "1", "__import__('os')")))
    else:
        header = some_bytes(header.encode("latin-1"), rng).decode("latin-1")
    text = header.encode("latin-1")[:60000]
    return content[:8] + struct.pack("<H", len(text)) + text + rest


def zip_members(content: bytes, rng: random.Random) -> bytes:
    """A member with another header, name, method, checksum, size or flag."""
    how = rng.randrange(6)
    if how == 0:
        data = bytearray(content)
        spot = data.rfind(b"PK\x01\x02")
        field, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (42, 4)))
        data[spot + field : spot + field + size] = rng.choice(
            (rng.randbytes(size), b"\xff" * size, b"\x01" + bytes(size - 1))
        )
        return bytes(data)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        infos = old.infolist()
        chosen = rng.randrange(len(infos))
        for number, info in enumerate(infos):
            member, name = old.read(info), info.filename
            method = info.compress_type
            if number == chosen and how <= 2:
                member = npy_header(member, rng)
            elif number == chosen and how == 3:
                name = rng.choice(
                    (
                        "x/²³.npy",
                        "x/1.npy",
                        "../x.npy",
                        "",
                        "y.npy",
                        "label.npy",
                        "x/" + "9" * 5000 + ".npy",
                        "head.npy",
                    )
                )
            elif number == chosen and how == 4:
                method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
            elif number == chosen:
                member = some_bytes(member, rng)
            new.writestr(name, member, method)
    return stream.getvalue()


# ---------------------------------------------------------------- ONNX


def onnx_fields(content: bytes, rng: random.Random) -> bytes:
    """A field of some message with another value, dropped, or doubled; text that is none is written over placeholders."""
    proto = onnx.ModelProto.FromString(content)
    messages: list[Any] = []
    pending: list[Any] = [proto]
    while pending:
        message = pending.pop()
        messages.append(message)
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                pending += [value] if hasattr(value, "ListFields") else list(value)
    message = rng.choice(messages)
    fields = list(message.DESCRIPTOR.fields)
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.random() < 0.7 else fields)
    repeated = not hasattr(getattr(message, field.name), "ListFields") and hasattr(
        getattr(message, field.name), "append" if field.type != field.TYPE_MESSAGE else "add"
    )
    how = rng.randrange(4)
    if how == 0:
        message.ClearField(field.name)
    elif repeated and field.type == field.TYPE_MESSAGE:
        held = getattr(message, field.name)
        if len(held) and how <= 2:
            held.add().CopyFrom(held[rng.randrange(len(held))])
        elif len(held):
            del held[rng.randrange(len(held))]
        else:
            held.add()
    elif field.type == field.TYPE_MESSAGE:
        getattr(message, field.name).SetInParent()
    else:
        value: Any = rng.choice(NUMBERS)
        if field.type == field.TYPE_STRING:
            value = rng.choice([*TEXTS, "BADUTF8"])
        elif field.type == field.TYPE_BYTES:
            value = rng.randbytes(rng.choice((0, 1, 4, 1000)))
        elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
            value = rng.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38))
        elif field.type in (field.TYPE_INT32, field.TYPE_ENUM):
            value = max(-(2**31), min(value, 2**31 - 1))
        elif field.type == field.TYPE_UINT64:
            value = abs(value)
        try:
            if repeated:
                held = getattr(message, field.name)
                if len(held) and how == 1:
                    held[rng.randrange(len(held))] = value
                else:
                    held.append(value)
            else:
                setattr(message, field.name, value)
        except (ValueError, TypeError):
            message.ClearField(field.name)
    return proto.SerializeToString().replace(b"BADUTF8", b"BAD\xff\xfe\xfd8")
