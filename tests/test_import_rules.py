"""Who may import whom (DESIGN), read from the source and tried in a bare process."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.cli.main import GROUPS

ROOT = Path(__file__).resolve().parent.parent
OURS = ("protos", "cost_model", "device_agent", "coordinator")
NOBODYS = ("deploy", "benchmarks", "tests", "examples")

MAY_IMPORT = {
    "protos": ("protos",),
    "cost_model": ("cost_model", "protos"),
    "device_agent": ("device_agent", "protos"),
    "coordinator": ("coordinator", "protos", "cost_model", "device_agent.build"),
}

HEAVY_PLACES = {
    "ray": (
        "coordinator.search",
        "coordinator.fleet.builders",
        "coordinator.training",
        "coordinator.server",
        "coordinator.ray_runtime",
    ),
    "lightgbm": ("cost_model",),
    "sqlalchemy": ("coordinator.tuning_log",),
    "alembic": ("coordinator.tuning_log",),
    "cryptography": ("protos.certificates", "coordinator.security"),
    "pyarrow": ("coordinator.tuning_log.exchange",),
    "tvm": (
        "device_agent.build",
        "device_agent.vector_math",
        "coordinator.canary",
        "coordinator.limit_kernels",
        "coordinator.search",
        "coordinator.frontend",
        "coordinator.results",
        "coordinator.package",
        "coordinator.fleet.builders",
        "coordinator.tuning_log.exchange",
    ),
}
HEAVY = (*HEAVY_PLACES, "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Import:
    """``what`` is a dotted name; of ``from a import b`` it is ``a.b``, whatever b is."""

    where: str
    line: int
    what: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.where}:{self.line} imports {self.what}"


@dataclass(frozen=True)
class Module:
    name: str
    is_package: bool
    source: str


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _base(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _dynamic(node: ast.Call) -> Iterator[str]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in ("import_module", "__import__") and node.args:
        argument = node.args[0]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            yield argument.value


def _names(module: Module, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{_base(module, node)}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call):
        yield from _dynamic(node)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_of(module: Module) -> list[Import]:
    """All of them; lazy are those that loading the module does not carry out."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        line = getattr(node, "lineno", 0)
        found.extend(Import(module.name, line, name, lazy) for name in _names(module, node))
        if _is_type_checking(node):
            assert isinstance(node, ast.If)
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, lazy)
            return
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, lazy or function)

    visit(ast.parse(module.source), False)
    return found


@functools.cache
def modules() -> dict[str, Module]:
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            found[name] = Module(name, is_package, path.read_text())
    return found


@functools.cache
def all_imports() -> tuple[Import, ...]:
    return tuple(item for module in modules().values() for item in imports_of(module))


def _complain(offences: list[Import]) -> None:
    assert not offences, "\n".join(str(offence) for offence in offences)


def _breaks_layers(item: Import) -> bool:
    package = item.where.partition(".")[0]
    if within(item.what, *NOBODYS):
        return True
    if not within(item.what, *OURS) or within(item.what, *MAY_IMPORT[package]):
        return False
    starts_an_agent = item.lazy and within(item.where, "coordinator.cli")
    return not (starts_an_agent and within(item.what, "device_agent"))


def test_all_four_packages_are_seen() -> None:
    assert {name.partition(".")[0] for name in modules()} == set(OURS)


def test_packages_import_only_what_the_design_allows() -> None:
    _complain([item for item in all_imports() if _breaks_layers(item)])


def test_no_imports_go_in_a_circle() -> None:
    """Nor those for types, nor those inside functions: who needs each other is one module."""
    graph = {
        name: {needed for item in imports_of(module) if (needed := _module(item.what))}
        for name, module in modules().items()
    }
    for name, needs in graph.items():
        needs.discard(name)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("heavy", HEAVY_PLACES)
def test_a_heavy_dependency_is_imported_in_one_place(heavy: str) -> None:
    places = HEAVY_PLACES[heavy]
    _complain(
        [
            item
            for item in all_imports()
            if within(item.what, heavy) and not within(item.where, *places)
        ]
    )


def _module(name: str) -> str:
    """The module of ours that a dotted name is or is in; empty if it is not ours."""
    return max(_loaded_by(name), key=len, default="")


def _loaded_by(name: str) -> Iterator[str]:
    """The modules of ours that importing a dotted name runs: its packages, and itself."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    return (prefix for prefix in prefixes if prefix in modules())


def _closure(roots: list[str]) -> set[str]:
    """Every module of ours that is loaded when the roots are."""
    todo = [loaded for root in roots for loaded in _loaded_by(root)]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for item in imports_of(modules()[name]):
            if not item.lazy:
                todo.extend(_loaded_by(item.what))
    return seen


def _agent_modules() -> list[str]:
    return [
        name
        for name in modules()
        if within(name, "device_agent") and not within(name, "device_agent.build")
    ]


@pytest.mark.parametrize("side", ["agent", "cli"])
def test_agent_and_command_load_nothing_heavy(side: str) -> None:
    groups = [f"coordinator.cli.{name}" for name in ("main", *GROUPS.values())]
    roots = _agent_modules() if side == "agent" else groups
    assert {"device_agent.agent", *groups} <= set(modules())
    loaded = _closure(roots)
    _complain(
        [
            item
            for item in all_imports()
            if item.where in loaded and not item.lazy and within(item.what, *HEAVY)
        ]
    )


BLOCKED_IMPORT = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not to be imported here")

sys.meta_path.insert(0, Blocker())
for name in NAMES:
    importlib.import_module(name)
"""


def _import_without(
    names: tuple[str, ...], blocked: tuple[str, ...]
) -> subprocess.CompletedProcess[str]:
    script = f"BLOCKED = {blocked!r}\nNAMES = {names!r}\n{BLOCKED_IMPORT}"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


COMMAND = tuple(f"coordinator.cli.{name}" for name in GROUPS.values())
ON_A_DEVICE = ("device_agent.agent", "coordinator.cli.main", "coordinator.cli.agent")


@pytest.mark.parametrize(("names", "blocked"), [(COMMAND, HEAVY), (ON_A_DEVICE, (*HEAVY, "rich"))])
def test_imports_without_what_is_not_there(
    names: tuple[str, ...], blocked: tuple[str, ...]
) -> None:
    done = _import_without(names, blocked)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = _import_without(("json",), ("json",))
    assert done.returncode != 0
    assert "json is not to be imported here" in done.stderr


SAMPLE = """
import ray
from . import store
from .. import search
from coordinator.search import proposer
if TYPE_CHECKING:
    import onnx
else:
    import tvm.ir
def start():
    from device_agent import agent
    importlib.import_module("lightgbm.basic")
try:
    import alembic
except ImportError:
    pass
"""


def test_the_reader_reads_every_form() -> None:
    found = imports_of(Module("coordinator.fleet.gateway", False, SAMPLE))
    assert {(item.what, item.lazy) for item in found} == {
        ("ray", False),
        ("coordinator.fleet.store", False),
        ("coordinator.search", False),
        ("coordinator.search.proposer", False),
        ("onnx", True),
        ("tvm.ir", False),
        ("device_agent.agent", True),
        ("lightgbm.basic", True),
        ("alembic", False),
    }


@pytest.mark.parametrize(
    ("item", "offends"),
    [
        (Import("protos.rpc", 1, "cost_model.model", True), True),
        (Import("cost_model.model", 1, "protos.records", False), False),
        (Import("device_agent.agent", 1, "coordinator.server", True), True),
        (Import("coordinator.fleet.builders", 1, "device_agent.build.build", False), False),
        (Import("coordinator.fleet.builders", 1, "device_agent.agent", True), True),
        (Import("coordinator.cli.agent", 1, "device_agent.agent", True), False),
        (Import("coordinator.cli.agent", 1, "device_agent.agent", False), True),
        (Import("coordinator.server", 1, "benchmarks.search", True), True),
        (Import("coordinator.server", 1, "tests.conftest", True), True),
    ],
)
def test_the_layers(item: Import, offends: bool) -> None:
    assert _breaks_layers(item) is offends
