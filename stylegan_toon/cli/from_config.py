"""Command-line options made from the fields of a config dataclass (see `config`)."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import click

from ..config import Limits
from .types import PATH, TEXT, Number


def options_of(
    cls: type,
    *,
    skip: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    help: Mapping[str, str] | None = None,
    unset: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: give a command an option for every field of ``cls``, under the field's name.

    Args:
        cls: a config dataclass.
        skip: fields for which the command has no option.
        defaults: defaults of this command, by field, in place of those of the fields.
        help: the same for help texts.
        unset: an option that is not given is None and its default is not shown, because the value comes from
            somewhere else (a file, a preset, the training that is resumed).
    """
    hints = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if f.name not in skip and not f.metadata.get("hidden")]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for entry in reversed(fields):
            default = None if unset else (defaults or {}).get(entry.name, entry.default)
            text = (help or {}).get(entry.name, entry.metadata.get("help"))
            function = _option(entry, hints[entry.name], default, text)(function)
        return function

    return decorate


def with_config(
    cls: type,
    *,
    name: str = "config",
    skip: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    help: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: like `options_of`, and the command gets an instance of ``cls`` as its argument ``name``."""
    asked = [f.name for f in dataclasses.fields(cls) if f.name not in skip and not f.metadata.get("hidden")]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def collected(*args: Any, **values: Any) -> Any:
            return function(*args, **{name: cls(**{field: values.pop(field) for field in asked})}, **values)

        return options_of(cls, skip=skip, defaults=defaults, help=help)(collected)

    return decorate


def _option(entry: dataclasses.Field[Any], hint: Any, default: Any, text: str | None) -> Callable[..., Any]:
    metadata = entry.metadata
    limits: Limits = metadata.get("limits", Limits())
    hint = _without_none(hint)
    flags = metadata.get("flags") or (f"--{entry.name.replace('_', '-')}",)
    settings: dict[str, Any] = {"help": text, "metavar": metadata.get("metavar")}
    if default is dataclasses.MISSING:
        settings["required"] = True
    else:
        settings["default"] = default
    if hint is bool:
        if default is False:
            return click.option(*flags, entry.name, is_flag=True, **settings)
        return click.option("/".join([flags[0], flags[0].replace("--", "--no-", 1)]), entry.name, **settings)
    if limits.choices and hint is str:
        settings["type"] = click.Choice([str(choice) for choice in limits.choices])
    elif hint in (int, float):
        settings["type"] = Number(hint, limits)
    elif hint is Path:
        settings["type"] = PATH
    else:
        settings["type"] = TEXT if hint is str and default != "" else hint
    return click.option(*flags, entry.name, **settings)


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint
