"""Calls one function of the user's for pinsched: `python -c <this> CALL`, where CALL is a file that says which."""

import importlib
import importlib.util
import inspect
import json
import os
import sys


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
        text = json.dumps(written)  # of what JSON cannot hold this says so
        with open(os.environ["PINSCHED_OUTPUT"], "w", encoding="utf-8") as file:
            file.write(text)


main()
