"""The public names are ordinary functions, classes and modules: signatures, help and pickling work."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import pydoc
import subprocess
import sys
import types

import pytest

import stylegan_toon

FUNCTIONS = [name for name in stylegan_toon.__all__ if inspect.isfunction(getattr(stylegan_toon, name))]
CLASSES = [name for name in stylegan_toon.__all__ if inspect.isclass(getattr(stylegan_toon, name))]


def test_every_public_name_is_a_function_a_class_or_the_ops():
    assert {*FUNCTIONS, *CLASSES, "ops"} == set(stylegan_toon.__all__)
    assert isinstance(stylegan_toon.ops, types.ModuleType)
    assert set(stylegan_toon._NAMES) == set(stylegan_toon.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_explicit_and_typed(name):
    function = getattr(stylegan_toon, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), parameter
    assert function.__name__ == name


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_help_shows_the_docstring(name):
    thing = getattr(stylegan_toon, name)
    page = pydoc.render_doc(thing, renderer=pydoc.plaintext)
    assert name in page and inspect.getdoc(thing).splitlines()[0] in page
    assert inspect.getdoc(thing).splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_they_can_be_pickled(name):
    thing = getattr(stylegan_toon, name)
    assert pickle.loads(pickle.dumps(thing)) is thing


@pytest.mark.parametrize("name", ["FinetoonConfig", "InversionConfig"])
def test_configs_can_be_pickled(name):
    config = getattr(stylegan_toon, name)(seed=3)
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_command_module_does_not_replace_the_function():
    for module in pkgutil.iter_modules(stylegan_toon.__path__):
        if module.name in FUNCTIONS:
            loaded = importlib.import_module(f"stylegan_toon.{module.name}")
            assert isinstance(loaded, types.ModuleType) and loaded.main.name == module.name
            assert inspect.isfunction(getattr(stylegan_toon, module.name)), module.name


def test_nor_does_it_in_a_fresh_interpreter():
    """Importing the command first, as ``import stylegan_toon.blend`` does, leaves the function in its place."""
    code = (
        "import inspect, stylegan_toon.blend; from stylegan_toon import blend; import stylegan_toon as s;"
        "print(inspect.isfunction(s.blend), s.blend is blend, s.blend.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "stylegan_toon.pipelines.blend"]


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = stylegan_toon.nonsense
