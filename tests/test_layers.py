"""A lower layer never imports a higher one, there are no import cycles, and importing the package loads little."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {
    "ops": 1, "models": 2, "weights": 3, "data": 4, "features": 5, "faces": 5, "drawing": 6, "inversion": 6,
    "dataset_builder": 7, "training": 7, "metrics": 7, "pipelines": 8, "cli": 9,
}  # fmt: skip
BASE = {"config", "errors", "files", "memory", "distributed", "progress"}
COMMANDS = 10


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of the package and the projects under ``root``."""
    result = {}
    for package in ("stylegan_toon", "projects"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules imported in ``known``, also those inside functions.

    Imports under ``if TYPE_CHECKING`` never run and do not count.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from (grandchild for part in child.orelse for grandchild in ast.walk(part))
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                if f"{base}.{alias.name}" in known:
                    yield f"{base}.{alias.name}"
                elif base in known:
                    yield base


def layer(name: str) -> int:
    parts = name.split(".")
    if len(parts) == 1 or parts[1] in BASE:
        return 0
    return LAYERS.get(parts[1], COMMANDS)


def faults(root: Path) -> list[str]:
    """Every breach of the rules of layers under ``root``."""
    known = modules(root)
    result = []
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        for target in imports(name, path, known):
            if target != name:
                graph.setdefault(name, set()).add(target)
            if name.startswith("projects"):
                own = name.split(".")[1:2], ["_common"]
                if target.startswith("projects.") and target.split(".")[1:2] not in own:
                    result.append(f"{name} imports another project: {target}")
            elif target.startswith("projects"):
                result.append(f"{name} imports a project: {target}")
            elif layer(target) > layer(name):
                result.append(f"{name} (layer {layer(name)}) imports {target} (layer {layer(target)})")
            elif layer(name) == layer(target) == COMMANDS:
                result.append(f"{name} imports another command: {target}")
    return result + cycles(graph)


def cycles(graph: dict[str, set[str]]) -> list[str]:
    result, done = [], set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            result.append("cycle: " + " -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return result


def test_no_layer_imports_a_higher_one():
    assert faults(ROOT) == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (
            {"stylegan_toon/ops/a.py": "from ..models import Generator", "stylegan_toon/models/__init__.py": ""},
            "layer 1",
        ),
        (
            {
                "stylegan_toon/models/a.py": "def f():\n    import stylegan_toon.weights.b",
                "stylegan_toon/weights/b.py": "",
            },
            "layer 2",
        ),
        (
            {"stylegan_toon/data/a.py": "from .. import cli", "stylegan_toon/cli/__init__.py": ""},
            "(layer 4) imports stylegan_toon.cli",
        ),
        ({"stylegan_toon/a.py": "from .b import main", "stylegan_toon/b.py": ""}, "imports another command"),
        ({"stylegan_toon/a.py": "from . import b", "stylegan_toon/b.py": "from .a import x"}, "cycle"),
        ({"stylegan_toon/ops/a.py": "from . import b", "stylegan_toon/ops/b.py": "from . import a"}, "cycle"),
        ({"projects/x/a.py": "from projects.y.b import c", "projects/y/b.py": ""}, "imports another project"),
        ({"stylegan_toon/a.py": "import projects.y.b", "projects/y/b.py": ""}, "imports a project"),
        ({"stylegan_toon/errors.py": "from .ops import a", "stylegan_toon/ops/a.py": ""}, "layer 0"),
    ],
)  # fmt: skip
def test_a_breach_is_reported(tmp_path, files, fault):
    for name, text in {"stylegan_toon/__init__.py": "", "stylegan_toon/ops/__init__.py": "", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert any(fault in line for line in faults(tmp_path)), faults(tmp_path)


def test_allowed_imports_are_not_reported(tmp_path):
    for name, text in {
        "stylegan_toon/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .models import a",
        "stylegan_toon/models/a.py": "import torch\nfrom ..ops import b",
        "stylegan_toon/ops/b.py": "from ..errors import E",
        "stylegan_toon/errors.py": "",
        "stylegan_toon/blend.py": "from .pipelines.blend import function\nfrom . import cli",
        "stylegan_toon/pipelines/blend.py": "from ..models.a import x",
        "stylegan_toon/cli/__init__.py": "",
        "projects/x/m.py": "from stylegan_toon.models import a\nfrom projects import _common\nfrom . import n",
        "projects/_common.py": "",
        "projects/x/n.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert faults(tmp_path) == []


def test_the_kernels_include_no_framework():
    for path in (ROOT / "csrc").glob("*"):
        included = re.findall(r'#\s*include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8"))
        assert not [name for name in included if re.match(r"(torch|ATen|c10|Python|pybind)", name)], path


# Importing the package alone loads nothing else; its public names load torch, but none of the other large packages.

WATCHED = """
import socket, subprocess, sys
def refuse(*args, **kwargs): raise AssertionError(f"import reached out: {args}")
socket.socket.connect = socket.getaddrinfo = subprocess.Popen.__init__ = refuse
"""


def fresh(code: str, first: str = "") -> str:
    """What a new interpreter prints; ``first`` runs before imports are recorded."""
    done = subprocess.run([sys.executable, "-c", first + WATCHED + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_package_imports_nothing():
    code = "import stylegan_toon; print({'torch', 'numpy', 'PIL', 'click', 'scipy'} & set(sys.modules))"
    assert fresh(code) == "set()"


def test_the_public_names_bring_torch_and_nothing_heavy():
    """In particular no compiler, no network (refused above), no GPU, and no output."""
    code = """
before = set(sys.modules)
from stylegan_toon import ToonError, blend, generate, load_network, ops
heavy = {"torchvision", "lpips", "facenet_pytorch", "scipy", "matplotlib", "pandas", "tensorboard"}
print(sorted(heavy & set(sys.modules)), torch.cuda.is_initialized(), len(set(sys.modules) - before) < 400)
"""
    assert fresh(code, first="import torch") == "[] False True"  # torch itself looks for CUDA's libraries


def test_names_of_test_files_are_unique():
    """Pytest imports test files by name: two of one name in different folders are an error."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
