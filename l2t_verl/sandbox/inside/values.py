"""Plain Python values as JSON and back: what crosses the sandbox's wall. Stands alone: it is read inside as well."""

from __future__ import annotations

import json
import sys
from typing import Any

sys.set_int_max_str_digits(0)  # both sides are under limits of their own
PLAIN = (type(None), bool, int, float, str)
SEQUENCES = {"tuple": tuple, "set": set, "frozenset": frozenset}
LONGEST = 100_000  # items of an iterator


def dumps(value: Any) -> str:
    """JSON of a value; subclasses (Counter, namedtuple) become what they derive from, iterators what they yield.

    Raises:
        TypeError: it holds something else.
    """
    return json.dumps(_encoded(value))


def loads(text: str) -> Any:
    """The value again.

    Raises:
        ValueError: this is not what `dumps` gives.
    """
    return _decoded(json.loads(text))


def _encoded(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [_encoded(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if hasattr(value, "__next__"):
        return {"iterator": [_encoded(item) for _, item in zip(range(LONGEST), value, strict=False)]}
    raise TypeError(f"a {type(value).__name__} does not leave the sandbox")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, held),) = value.items()
    if name == "dict":
        return {_decoded(key): _decoded(item) for key, item in held}
    if name == "bytes":
        return bytes.fromhex(held)
    if name == "complex":
        return complex(*held)
    if name == "range":
        return range(*held)
    items = [_decoded(item) for item in held]
    return iter(items) if name == "iterator" else SEQUENCES[name](items)
