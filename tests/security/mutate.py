"""Ways to spoil what a file says: bytes, values in JSON and YAML, columns of tables; all drawn from one generator."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

# Written in the place of a number or text, and replaced in the text of the document, where json.dumps has its limits.
_RAW = {
    "@@digits@@": "9" * 5000,
    "@@deep@@": "[" * 3000 + "]" * 3000,
    "@@nan@@": "NaN",
    "@@inf@@": "1e999",
    "@@surrogate@@": '"\\ud800x"',
    "@@hex@@": "0x" + "f" * 4500,
}


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def hostile_values(victim: Path):
    """Values that no honest document has."""
    numbers = [-1, 0, 1, 7, 2**31, 2**62, 2**63, 10**9, 10**12, 10**30, -(10**30), 1.5, -0.0, 1e308]
    texts = [
        "",
        "x",
        str(victim / "settings"),
        "../../../victim/settings",
        "..",
        "a\\b",
        "\x1b[2J",
        "=1+1",
        "\0",
        "é\u202e",
    ]
    return [None, True, *numbers, *texts, "x" * 100_000, [], {}, [[1]], {"a": {"b": []}}, [0] * 5000, *_RAW]


def spoil_bytes(data: bytes, rng) -> bytes:
    """A few flips, a cut, a hole, a doubled or a moved piece."""
    spoiled = bytearray(data)
    if not spoiled:
        return b"x"
    first, last = sorted(rng.integers(len(spoiled) + 1, size=2).tolist())
    match pick(rng, ["flip", "flip", "flip", "cut", "hole", "double", "random", "append"]):
        case "flip":
            for place in rng.integers(len(spoiled), size=int(rng.integers(1, 9))):
                spoiled[int(place)] ^= int(rng.integers(1, 256))
        case "cut":
            del spoiled[first:]
        case "hole":
            spoiled[first:last] = bytes(last - first)
        case "double":
            spoiled[last:last] = spoiled[first:last]
        case "random":
            last = min(last, first + 64)
            spoiled[first:last] = rng.bytes(last - first)
        case "append":
            spoiled += rng.bytes(int(rng.integers(1, 100)))
    return bytes(spoiled)


def spoil_value(value, rng, victim: Path):
    """One place of a document replaced, taken away, doubled or renamed."""
    places = list(_places(value))
    if not places:
        return pick(rng, hostile_values(victim))
    holder, key = pick(rng, places)
    match pick(rng, ["replace", "replace", "replace", "replace", "remove", "double", "rename"]):
        case "remove":
            del holder[key]
        case "double" if isinstance(holder, list):
            holder.insert(0, holder[key])
        case "rename" if isinstance(holder, dict):
            holder[str(pick(rng, ["", "x", "../x", "\x1b[2J", "label.\n", "__class__"]))] = holder.pop(key)
        case _:
            holder[key] = pick(rng, hostile_values(victim))
    return value


def _places(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from _places(inner)


def to_text(value, *, indent=None) -> str:
    """JSON with the raw values in their places."""
    text = json.dumps(value, indent=indent)
    return re.sub(r'"(@@\w+@@)"', lambda match: _RAW[match[1]], text)


def to_sealable(value):
    """The value without what canonical JSON cannot hold: sealed documents have neither NaN nor 5,000 digits."""
    text = re.sub(r'"@@(digits|nan|inf|hex)@@"', str(10**40), json.dumps(value))
    return json.loads(text.replace('"@@surrogate@@"', '"\\ud800x"').replace('"@@deep@@"', "[" * 200 + "]" * 200))


def spoil_table(table: pa.Table, rng, victim: Path) -> pa.Table:
    """A column of other values, of another type, gone, doubled or renamed; rows gone or doubled; other metadata."""
    number = int(rng.integers(table.num_columns))
    name, column = table.column_names[number], table.column(number)
    match pick(rng, ["values", "values", "values", "type", "remove", "double", "rename", "rows", "gap", "metadata"]):
        case "values":
            return table.set_column(number, name, _other_values(column, rng, victim))
        case "type":
            size = len(table)
            others = [
                pa.array(["x"] * size),
                pa.array([[1]] * size, pa.list_(pa.int32())),
                pa.array([1.5] * size),
                pa.array([b"\xff"] * size, pa.binary()),
                pa.nulls(size),
                pa.array([{"a": 1}] * size),
                pa.array(["x"] * size).dictionary_encode(),
                pa.array([2**63] * size, pa.uint64()),
                pa.array([True] * size),
            ]
            return table.set_column(number, name, pick(rng, others))
        case "remove":
            return table.drop_columns([name])
        case "double":
            return table.append_column(name, column)
        case "rename":
            names = list(table.column_names)
            names[number] = pick(rng, ["", "x", "label.\x1b[2J", "label.", "../x", "id"])
            return table.rename_columns(names)
        case "rows":
            return pa.concat_tables([table, table]) if rng.random() < 0.5 else table.slice(0, len(table) // 2)
        case "gap":
            return table.set_column(number, name, pa.nulls(len(table), column.type))
        case _:
            texts = [
                b"",
                b"{",
                b"[]",
                b"null",
                b"{}",
                b'{"version":1}',
                b'{"version":1,"root":7}',
                b"[" * 5000,
                b"\xff",
            ]
            texts += [
                b'{"version":' + b"9" * 5000 + b"}",
                b'{"version":1,"root":"\\u0000"}',
                b'{"version":[1],"root":""}',
            ]
            keys = [*(table.schema.metadata or {}), b"featcache.manifest", b"pandas", b"ARROW:schema"]
            return table.replace_schema_metadata({pick(rng, keys): pick(rng, texts)})


def _other_values(column, rng, victim):
    size, kind = len(column), column.type
    if pa.types.is_string(kind):
        values = column.to_pylist()
        texts = [value for value in hostile_values(victim) if isinstance(value, str) and "@@" not in value]
        values[int(rng.integers(size))] = pick(rng, [*texts, "\\x2e\\x2e/\\x2e\\x2e/victim/settings", "\\udc80"])
        return pa.array(values, kind)
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        values = column.to_pylist()
        values[int(rng.integers(size))] = int(pick(rng, [-1, 0, 1, 10**6, limits.max, limits.min]))
        return pa.array(values, kind)
    if pa.types.is_floating(kind):
        values = column.to_pylist()
        values[int(rng.integers(size))] = float(pick(rng, [-1.0, 0.0, 1e300, float("nan"), float("inf")]))
        return pa.array(values, kind)
    return pa.nulls(size, kind)
