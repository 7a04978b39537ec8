"""Calls one function of the user's for pinsched: `python -c <this> CALL`, where CALL is a file that says which."""

import collections.abc
import importlib
import importlib.util
import inspect
import json
import os
import sys

# As deep as the reader of the output goes, and a bit less.
DEEPEST = 100


class Refused(Exception):
    """A value that JSON has not, or would not bring back as it was."""


def is_a(value, module, *names):
    """Whether it is of a class of that module, which somebody has loaded then: the user's own files may have its name."""
    found = sys.modules.get(module)
    kinds = (getattr(found, name, None) for name in names)
    return isinstance(value, tuple(kind for kind in kinds if isinstance(kind, type)))


def plain(value, path, depth=0):
    """The value as JSON has it. Nothing is changed unseen: what has no form of its own is refused, with its path."""
    if depth > DEEPEST:
        raise Refused("`%s` is nested deeper than %d levels, or holds itself" % (path, DEEPEST))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise Refused("`%s` is a whole number of more than 64 bits: return it as text" % path)
        return int(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise Refused(
                "`%s` is %s, which JSON does not have: return None, or leave it out" % (path, repr(float(value)))
            )
        return float(value)
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused("`%s` is text with a lone surrogate: it is no Unicode text" % path)
        return str.__str__(value)
    if is_a(value, "datetime", "timedelta"):
        return value.total_seconds()
    if is_a(value, "datetime", "date", "time"):  # a datetime is a date
        if value != value:
            raise Refused("`%s` is no date (NaT): return None, or leave it out" % path)
        return value.isoformat()
    if is_a(value, "decimal", "Decimal"):
        if not value.is_finite():
            raise Refused("`%s` is %s, which JSON does not have: return None, or leave it out" % (path, value))
        return str(value)
    if is_a(value, "uuid", "UUID") or is_a(value, "pathlib", "PurePath"):
        return str(value)
    if isinstance(value, collections.abc.Mapping):
        return fields(value.items(), path, depth)
    if isinstance(value, (list, tuple)):
        return [plain(item, "%s[%d]" % (path, place), depth + 1) for place, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        try:
            items = sorted(value)
        except TypeError:
            raise Refused("`%s` is a set that cannot be sorted: return a list" % path)
        return plain(items, path, depth)
    if hasattr(type(value), "__dataclass_fields__"):
        own = ((field.name, getattr(value, field.name)) for field in sys.modules["dataclasses"].fields(value))
        return fields(own, path, depth)
    return plain_of_array(value, path, depth)


def fields(items, path, depth):
    found = {}
    for key, item in items:
        if isinstance(key, str):
            name = plain(key, "a key of %s" % path)
        elif key is None or isinstance(key, (bool, int)):
            name = json.dumps(plain(key, "a key of %s" % path))  # as JSON has it: "null", "true", "7"
        else:
            raise Refused("`%s` has the key %r: the keys of JSON are text" % (path, key))
        if name in found:
            raise Refused("`%s` has two keys that are `%s` as text" % (path, name))
        found[name] = plain(item, "%s[%s]" % (path, json.dumps(name)), depth + 1)
    return found


def plain_of_array(value, path, depth):
    """Numbers of numpy and its like, which know their Python form."""
    kind = type(value).__name__
    dtype = getattr(value, "dtype", None)
    is_scalar = dtype is not None and getattr(value, "shape", None) == () and hasattr(value, "item")
    if is_scalar:
        code = getattr(dtype, "kind", "")
        if code in ("m", "M") and str(value) == "NaT":
            raise Refused("`%s` is no date (NaT): return None, or leave it out" % path)
        if code == "M":
            return str(value)  # `item` may give nanoseconds as a number
        item = value.item()
        if code != "m" and type(item) is not type(value):
            return plain(item, path, depth + 1)
    if is_scalar:
        advice = "convert it to a number of Python's own"
    elif isinstance(value, (bytes, bytearray, memoryview)):
        advice = "decode it to text, or encode it as base64"
    elif hasattr(value, "tolist"):
        advice = "return its `tolist()`, or write it to object storage and return its name"
    elif hasattr(value, "to_dict"):
        advice = "write it to object storage or a table, and return its name"
    elif isinstance(value, collections.abc.Iterable):
        advice = "return it as a list"
    else:
        advice = "return text, numbers, dates, lists or dicts"
    raise Refused("`%s` is of the type `%s`, which JSON does not have: %s" % (path, kind, advice))


def load(call):
    if call["file"]:
        spec = importlib.util.spec_from_file_location("pinsched_callable", call["file"])
        if spec is None or spec.loader is None:
            raise ImportError("`%s` is not a Python file" % call["file"])
        module = importlib.util.module_from_spec(spec)
        sys.modules["pinsched_callable"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(call["module"])
    found = module
    for name in call["function"].split("."):
        found = getattr(found, name)
    return found


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        call = json.load(file)
    with open(os.environ["PINSCHED_CONTEXT"], encoding="utf-8") as file:
        context = json.load(file)
    sys.argv = [call["file"] or call["module"]]
    sys.path.insert(0, os.getcwd())
    if call["file"]:
        sys.path.insert(0, os.path.dirname(os.path.abspath(call["file"])))
    function = load(call)
    wanted = {}
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    given = set(named[: len(call["args"])])
    for name, value in context.items():
        if name not in given and (takes_all or name in named):
            wanted[name] = value
    wanted.update(call["kwargs"])
    try:
        result = function(*call["args"], **wanted)
    except Exception as error:
        if any(kind.__name__ == "AirflowSkipException" for kind in type(error).__mro__):
            print("skipped: %s" % error, file=sys.stderr)
            sys.exit(call["skip"])
        raise
    written = {}
    try:
        with open(os.environ["PINSCHED_OUTPUT"], encoding="utf-8") as file:
            text = file.read()
        written = json.loads(text) if text.strip() else {}
    except FileNotFoundError:
        pass
    if isinstance(written, dict):
        written.setdefault("return_value", result)
        try:
            text = json.dumps({key: plain(value, key) for key, value in written.items()}, allow_nan=False)
        except Refused as refusal:
            with open(call["refused"], "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(str(refusal))
            sys.exit("the output was refused: %s" % refusal)
        with open(os.environ["PINSCHED_OUTPUT"], "w", encoding="utf-8") as file:
            file.write(text)


main()
