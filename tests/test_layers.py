"""The direction of imports: each module uses only its own folder and what stands below it."""

import ast

import pytest
from conftest import PROJECT

ROWS = "runtime, sources model schedulers, data storage, features, training verdict, experiment"
COMMANDS = ("train", "report", "predict", "bench")
LEVELS = dict.fromkeys(COMMANDS, 9)
LEVELS |= {name: level for level, row in enumerate(ROWS.split(", ")) for name in row.split()}
MODULES = list(PROJECT.glob("*.py"))
MODULES += [path for name in LEVELS for path in (PROJECT / name).glob("*.py")]


def upward_imports(code, room):
    """Return what code in a room, a folder or a module at the root, may not import but does."""
    imported = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    return {name for name in imported - {room} if LEVELS.get(name, -1) >= LEVELS[room]}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_go_downwards_only(path):
    room = path.relative_to(PROJECT).parts[0].removesuffix(".py")
    # The benchmark runs train.py.
    allowed = {"train"} if room == "bench" else set()
    assert upward_imports(path.read_text("utf-8"), room) <= allowed


def test_an_import_upwards_is_found():
    assert upward_imports("def f():\n    from training.heads import order", "verdict")
    assert upward_imports("import features.cache", "storage")
    assert not upward_imports("import numpy\nfrom runtime import files", "model")
