"""What the README and the documentation name exists: environment variables, folders, commands, files, functions."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import stylegan_toon
from stylegan_toon import ops
from stylegan_toon.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Read by tests and benchmarks only to pass on what they were started with.
INHERITED = {"PATH", "PYTHONPATH"}
CALLS = ("os.environ.get", "os.environ.pop", "os.environ.setdefault", "os.getenv")


def section(title: str) -> str:
    """The text under a heading of the second level."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def tree() -> str:
    return section("Where things are").split("```")[1]


def constants(node: ast.AST) -> dict[str, str]:
    """Names that a module binds to a string: ``VARIABLE = "STYLEGAN_TOON_LIBRARY"``."""
    strings = {}
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            strings |= {t.id: str(statement.value.value) for t in statement.targets if isinstance(t, ast.Name)}
    return strings


def variables_read(source: str) -> Iterator[str]:
    """Environment variables that Python source reads or sets, by ``os.environ`` in any form or ``os.getenv``."""
    module = ast.parse(source)
    names = constants(module)

    def text(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in names or name.isupper():
                yield names.get(name, name)

    for node in ast.walk(module):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield from text(node.slice)
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            yield from text(node.left)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLS:
            yield from text(node.args[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.update":
            yield from (keyword.arg for keyword in node.keywords if keyword.arg)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('os.environ["A"]', ["A"]),
        ('os.environ.get("A", "B")', ["A"]),
        ('os.getenv("A")', ["A"]),
        ('"A" in os.environ', ["A"]),
        ('N = "A"\nos.environ.get(N)', ["A"]),
        ('os.environ.update(A="1")', ["A"]),
        ("{**os.environ}", []),
    ],
)
def test_variables_are_found_in_every_form(source, names):
    assert list(variables_read(source)) == names


def test_every_environment_variable_that_is_read_is_listed():
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", section("Environment variables")))
    read = {}
    for path in [
        ROOT / "setup.py",
        *(p for f in ("stylegan_toon", "projects", "tests", "benchmarks") for p in (ROOT / f).rglob("*.py")),
    ]:
        for name in variables_read(path.read_text(encoding="utf-8")):
            read[name] = path.relative_to(ROOT).as_posix()
    read.pop("VARIABLE", None)  # `library.VARIABLE` in tests; ops/library.py says which that is
    assert not {name: place for name, place in read.items() if name not in listed | INHERITED}
    assert {name for name in listed if name.startswith("STYLEGAN_TOON")} <= set(read)


def test_the_tree_has_every_folder_and_nothing_else():
    package = ROOT / "stylegan_toon"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    listed = set(re.findall(r"^  (\w+)/", tree(), re.MULTILINE))
    assert listed == folders
    top = set(re.findall(r"^(\w+)/", tree(), re.MULTILINE))
    assert all((ROOT / name).is_dir() for name in top)
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("_")}
    named = set(re.findall(r"\b(\w+\.py)\b", tree().split("ops/")[0] + tree().split("metrics/")[1]))
    assert modules <= named and named - {"_common.py"} <= modules


def test_every_command_is_in_the_table():
    rows = re.findall(r"^\| `(\w+)", section("Commands"), re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_the_test_command_is_marked():
    block = README.split("<!-- test command -->")[1].split("```")[1]
    assert block.startswith("bash\n") and "pytest" in block


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page):
    """In the repository as it is browsed; mkdocs build --strict checks those of the site."""
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in link or (page.parent / link).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_named_files_exist(page):
    pattern = r"(?<![\w/.])(?:stylegan_toon|csrc|tests|benchmarks|pretrained|projects)/[\w./-]*\w\.\w+"
    text = page.read_text(encoding="utf-8")
    for name in re.findall(pattern, text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"
    folders = ("stylegan_toon", "projects", "pretrained", "benchmarks", "tests")
    for name in re.findall(r"`([\w/]+\.py)`", text):  # also those named without their folder
        exists = (ROOT / name).exists() or any(any((ROOT / folder).rglob(name)) for folder in folders)
        assert exists, f"{page.name} names {name}"


def resolve(name: str) -> object:
    """The object of a dotted name, module by module and then attribute by attribute."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            value = getattr(value, part)
        return value
    raise AttributeError(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_the_reference_describes_exists(page):
    text = page.read_text(encoding="utf-8")
    for name, members in re.findall(r"^::: (\S+)\n(?:    options:\n      members: \[(.*)\])?", text, re.MULTILINE):
        for member in filter(None, (part.strip() for part in members.split(","))):
            resolve(f"{name}.{member}")
        resolve(name)


def test_the_reference_has_every_op():
    page = (ROOT / "docs" / "api" / "ops.md").read_text(encoding="utf-8")
    described = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)", page, re.MULTILINE)}
    described |= {part.strip() for row in re.findall(r"members: \[(.*)\]", page) for part in row.split(",")}
    assert set(ops.__all__) <= described


def test_public_names_come_from_the_listed_modules():
    """The page of functions is made from this table, see docs/hooks.py."""
    assert set(stylegan_toon._NAMES) == set(stylegan_toon.__all__)
    for name, module in stylegan_toon._NAMES.items():
        assert name == "ops" or resolve(f"stylegan_toon.{module}.{name}") is getattr(stylegan_toon, name)


# Options of pip, pytest, ruff, torchrun, mkdocs, setup.py and of the recipes' own scripts.
FOREIGN = {"--dist", "--check", "--nproc-per-node", "--strict", "--inplace", "--faces"}


def options(command: click.Command) -> set[str]:
    """All options of a command and its subcommands, as they are written."""
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    if isinstance(command, click.Group):
        flags = flags.union(*(options(child) for child in command.commands.values()))
    return flags


@pytest.fixture(scope="module")
def all_options() -> set[str]:
    modules = [importlib.import_module(f"stylegan_toon.{name}") for name in COMMANDS]
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    benchmarks = re.findall(r'add_argument\("(--[a-z-]+)"', scripts)
    return {"--help", *FOREIGN, *benchmarks}.union(*(options(module.main) for module in modules))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_named_options_exist(page, all_options):
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text(encoding="utf-8")))
    assert named <= all_options, f"{page.name} names {', '.join(sorted(named - all_options))}"
