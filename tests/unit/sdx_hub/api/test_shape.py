"""Handlers stay thin: what is longer than fifteen lines belongs into a service, where no framework is needed."""

import ast
from pathlib import Path

import pytest

import sdx_hub.api

FOLDER = Path(sdx_hub.api.__file__).parent
VERBS = {"get", "head", "post", "put", "patch", "delete", "route"}
MODULES = sorted(FOLDER.glob("*.py"))


def handlers(path: Path) -> list[ast.AsyncFunctionDef]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AsyncFunctionDef):
            names = {
                call.func.id
                for call in node.decorator_list
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
            }
            if names & VERBS:
                found.append(node)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_handler_has_fifteen_lines_at_most(path: Path) -> None:
    for handler in handlers(path):
        assert handler.end_lineno is not None
        assert handler.end_lineno - handler.lineno + 1 <= 15, handler.name


def test_handlers_are_found() -> None:
    assert sum(len(handlers(path)) for path in MODULES) >= 30
