"""Who may import whom, and the other rules of the house, read from the source and not from memory.

A *room* is a package of mirothinker_jax, or one of its modules. What a room imports is found by `ast`, so
imports inside functions count too, unless they are said to be only about import time.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, KERNELS = "mirothinker_jax", "mirothinker_kernels"

COMMANDS = {"train", "plan", "evaluate", "convert", "serve", "watch", "report", "study"}
COMMANDS_IN_ROOMS = {"tools.mcp_server", "agent.__main__"}  # nobody imports them

# Room → the rooms, or single modules of them, that it may import besides itself.
MAY_IMPORT = {
    "config_tree": set(),
    "config_episodes": {"config_tree"},
    "config_model": {"config_tree"},
    "config_training": {"config_tree"},
    "config_objectives": {"config_tree", "config_training"},
    "config_tasks": {"config_tree"},
    "config_agent": {"config_tree"},
    "config": {
        *("config_tree", "config_episodes", "config_model", "config_objectives", "config_tasks"),
        *("config_agent", "config_training"),
    },
    "config_file": {"config_tree"},
    "flags": {"config", "config_tree", "config_file"},
    "types": set(),
    "tasks": {
        *("config", "config_tree", "checked_lines", "tools.spec", "tools.client", "tools.chat_api"),
        *("data.record_files", "data.paths", "data.strict_json"),
    },
    "tools": {"config", "config_tree", "checked_lines"},
    "world": {"config", "config_tree", "tasks", "tools.spec"},
    "agent": {"config", "config_tree", "tasks", "tools", "trajectory.types"},
    "parallel": {"config", "config_tree", "types"},
    "models": {"config", "config_tree", "types", "parallel"},
    "data": {"config", "config_tree", "types", "tools.spec", "tools.hermes"},
    "objectives": {"config", "types"},
    "checked_lines": set(),
    "trajectory": {
        "config",
        "config_tree",
        "types",
        "data.packing",
        "data.weights",
        "checked_lines",
        "tasks.types",
    },
    "rollout": {
        *("config", "config_tree", "types", "parallel", "models", "data", "tools", "agent", "trajectory"),
        *("tasks.types", "checked_lines"),
    },
    "trainer": {"config", "config_tree", "types", "parallel", "models", "objectives", "data"},
    "evals": {
        *("config", "config_tree", "types", "parallel", "models", "data", "tools", "agent", "trajectory"),
        *("rollout", "tasks", "config_agent", "checked_lines"),
    },
    "serving": {
        *("config", "config_tree", "data", "rollout", "tools.spec"),
        *("agent.policy", "agent.prompt", "agent.wire.formats"),
    },
    "planning": {"config", "config_tree", "types", "parallel", "models", "objectives", "trainer"},
    "recipes": {"config", "models.presets"},
    "pipeline": {"*"},  # puts the rooms together; only commands import it
}
# These run in processes of their own, or before a config is accepted: jax would cost them seconds and memory.
NO_JAX = {"config", "config_tree", "config_episodes", "config_model", "config_file"}
NO_JAX |= {"config_agent", "config_objectives", "config_tasks", "config_training"}
NO_JAX |= {"flags", "tasks", "tools", "world", "agent"}
JAX_FAMILY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", KERNELS}
KERNEL_IMPORTS = {"jax", "jaxlib", "numpy", KERNELS}
VAGUE = {"utils", "util", "common", "misc", "helpers", "helper"}


def sources():
    """Every Python file of the checkout that belongs to the product or its tests."""
    folders = (PACKAGE, "kernels", "configs", "benchmarks", "tests", "launch")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))] + [
        ROOT / "setup.py"
    ]


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts[0] = KERNELS if parts[0] == "kernels" else parts[0]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for path in sources() if path.relative_to(ROOT).parts[0] in (PACKAGE, "kernels")
}


def imports_in(source: str, module: str, is_package: bool, at_import_time: bool = False) -> set[str]:
    """Dotted names of the modules that a source imports; with `at_import_time`, none from inside functions.

    `from package import name` counts as package.name where that is a module, and imports under
    `if TYPE_CHECKING` do not count at import time.
    """
    found = set()

    def visit(node: ast.AST) -> None:
        if at_import_time and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if at_import_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def imports(module: str, at_import_time: bool = False) -> set[str]:
    path = MODULES[module]
    return imports_in(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", at_import_time)


def room(module: str) -> str:
    """`mirothinker_jax.data.packing` → `data`."""
    return module.partition(".")[2].partition(".")[0]


def allowed(importer: str, imported: str) -> bool:
    """Whether one module of mirothinker_jax may import another one."""
    here, there = room(importer), room(imported)
    if imported.removeprefix(f"{PACKAGE}.") in COMMANDS_IN_ROOMS:
        return False
    if (
        here in COMMANDS
        or importer.removeprefix(f"{PACKAGE}.") in COMMANDS_IN_ROOMS
        or here == there
        or there == ""
    ):
        return True
    if there in COMMANDS | {"pipeline", "flags"}:
        return False
    rights = MAY_IMPORT[here]
    return "*" in rights or there in rights or imported.removeprefix(f"{PACKAGE}.") in rights


def reached(module: str) -> set[str]:
    """All modules, ours and others', that importing `module` imports, as far as our own source tells."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
            todo += [*imports(name, at_import_time=True), *parents]
    return seen


def test_every_room_is_in_the_table():
    rooms = {room(module) for module in MODULES if module.startswith(f"{PACKAGE}.")}
    assert rooms - MAY_IMPORT.keys() - COMMANDS == set()


def test_rooms_import_what_the_table_allows():
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        if module.startswith(f"{PACKAGE}.")
        for imported in imports(module)
        if imported.split(".")[0] == PACKAGE and not allowed(module, imported)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("importer", "imported", "right"),
    [
        ("objectives.grpo", "types", True),
        ("objectives.grpo", "trajectory.types", False),
        ("trainer.loop", "rollout.local.driver", False),
        ("agent.episode", "trajectory.types", True),
        ("agent.episode", "trajectory.reward", False),
        ("data.chat", "tools.spec", True),
        ("data.chat", "tools.executor", False),
        ("models.qwen", "data.packing", False),
        ("rollout.local.device", "flags", False),
        ("tools.mcp_server", "flags", True),
        ("tools.mcp_tools", "flags", False),
        ("tools.build", "tools.mcp_server", False),
        ("train", "pipeline.run", True),
        ("evals.report", "pipeline.run", False),
        ("types", "config", False),
    ],
)
def test_the_table_itself(importer, imported, right):
    assert allowed(f"{PACKAGE}.{importer}", f"{PACKAGE}.{imported}") is right


def test_rooms_without_jax_name_none_of_its_family():
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        if room(module) in NO_JAX
        for imported in imports(module)
        if imported.split(".")[0] in JAX_FAMILY
    ]
    assert wrong == []


def test_importing_them_or_a_command_reaches_no_jax():
    jaxless = [m for m in MODULES if room(m) in NO_JAX | COMMANDS] + [f"{PACKAGE}.trainer.metrics"]
    wrong = [
        f"{module} reaches {name}"
        for module in jaxless
        for name in reached(module)
        if name.split(".")[0] in JAX_FAMILY
    ]
    assert wrong == []
    # The same search does find jax where it is.
    assert "jax" in {name.split(".")[0] for name in reached(f"{PACKAGE}.trainer.loop")}


def test_starting_a_run_imports_nothing_that_it_may_not_need():
    """Each of these costs 0.1 to 4 CPU-seconds (tensorboardX brings torch), and is imported where it is asked for."""
    late = {"aiohttp", "httpx", "jinja2", "jsonschema", "matplotlib", "mcp", "pyarrow", "tensorboardX"}
    late |= {"tensorflow_datasets", "torch", "trafilatura"}
    found = {name.split(".")[0] for name in reached(f"{PACKAGE}.pipeline.run")}
    assert "orbax" in found and found & late == set()


def test_kernels_know_only_jax_and_numpy():
    wrong = [
        f"{module} imports {imported}"
        for module in MODULES
        if module.split(".")[0] == KERNELS
        for imported in imports(module)
        if imported.split(".")[0] not in KERNEL_IMPORTS | sys.stdlib_module_names
    ]
    assert wrong == []


def test_three_modules_are_the_meeting_points_of_kernels_and_mesh():
    importers = {
        module
        for module in MODULES
        if module.split(".")[0] == PACKAGE
        if any(imported.split(".")[0] in (KERNELS, "kernels") for imported in imports(module))
    }
    assert importers == {f"{PACKAGE}.parallel.{name}" for name in ("attend", "experts", "paged")}


def test_files_are_short_and_named_for_what_they_do():
    files = [*sources(), *(ROOT / PACKAGE).rglob("*.j2")]
    long = [
        f"{path}: {n}" for path in files if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert long == []
    assert [str(path) for path in files if path.stem in VAGUE or path.parent.name in VAGUE] == []


def test_every_module_says_what_it_is():
    silent = []
    for path in MODULES.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):
            silent.append(str(path))
    assert silent == []


def calls(tree: ast.AST, name: str) -> list[int]:
    return [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == name]


def test_nothing_prints_and_the_environment_is_left_alone():
    wrong = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if room(module) not in COMMANDS:
            wrong += [f"{path}:{line}: print" for line in calls(tree, "print")]
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else []
            if any(ast.unparse(t).startswith("os.environ[") for t in targets):
                wrong.append(f"{path}:{node.lineno}: os.environ")
        for method in ("setdefault", "update", "pop", "clear"):
            wrong += [f"{path}:{line}: os.environ" for line in calls(tree, f"os.environ.{method}")]
        wrong += [f"{path}:{line}: os.putenv" for line in calls(tree, "os.putenv")]
    assert wrong == []


def test_the_scanner_sees_every_kind_of_import():
    source = """
from typing import TYPE_CHECKING
import a.b, c
from mirothinker_jax import config, nothing
from . import report
from ..data.atomic import replacing
if TYPE_CHECKING:
    import d
def f():
    import e
"""
    seen = imports_in(source, f"{PACKAGE}.evals.summary", is_package=False)
    ours = {f"{PACKAGE}.config", PACKAGE, f"{PACKAGE}.evals.report", f"{PACKAGE}.data.atomic"}
    assert seen == {"typing", "a.b", "c", "d", "e", *ours}
    early = imports_in(source, f"{PACKAGE}.evals.summary", is_package=False, at_import_time=True)
    assert seen - early == {"d", "e"}
    package = imports_in("from .x import y", f"{PACKAGE}.evals", is_package=True)
    assert package == {f"{PACKAGE}.evals.x"}


def test_setup_names_every_package():
    named = re.findall(r"^\s+\"(mirothinker_kernels[\w.]*)\",", (ROOT / "setup.py").read_text(), re.MULTILINE)
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    assert set(named) == {module for module in packages if module.split(".")[0] == KERNELS}
    named = re.findall(
        r"^\s+\"mirothinker_jax.configs.(\w+)\",", (ROOT / "setup.py").read_text(), re.MULTILINE
    )
    assert set(named) == {path.parent.name for path in (ROOT / "configs").glob("*/*.py")}


def functions(tree: ast.AST, public: bool = True, inside: bool = False):
    """(node, is it public) of every class and function; what is defined inside a function is nobody's interface."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            seen = public and not inside and not node.name.startswith("_")
            yield node, seen
            yield from functions(node, seen, inside or not isinstance(node, ast.ClassDef))
        else:
            yield from functions(node, public, inside)


def test_functions_say_what_they_return_and_public_ones_what_they_are():
    silent, documented, public = [], 0, 0
    for path in MODULES.values():
        for node, seen in functions(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef) and node.returns is None and node.name[:2] != "__":
                silent.append(f"{path}:{node.lineno}: {node.name}")
            public += seen
            documented += seen and ast.get_docstring(node) is not None
    assert silent == []
    assert documented >= 0.9 * public
