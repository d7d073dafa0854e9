"""A YAML file and `key=value` overrides become a frozen Config, or one line that says what to change.

Each value is put into OmegaConf's structured config by its full key, so that every error can name that key,
inside lists too. Values may refer to other keys (`output_dir: runs/${run.seed}`); resolvers such as
`${oc.env:HOME}` are refused, so that a config means the same on every machine. Relative paths stay as they
are written: they are read from the working directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from configs.errors import ConfigError
from configs.schema import Config

_RESOLVER = re.compile(r"\$\{[^${}]*:")
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The run that a YAML file describes, after overrides: `optimizer.lr=1e-4`, `data.sources.0.weight=2`.

    Raises ConfigError for a file that cannot be read, an unknown key (naming the nearest known one), a value
    of the wrong type, and a key without a value. Values that fit their types but not each other are
    `configs.check`'s concern.
    """
    raw = _read(Path(path))
    for override in overrides:
        _override(raw, override)
    config = OmegaConf.structured(Config)
    _fill(config, Config, raw, ())
    try:
        OmegaConf.resolve(config)
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(
                f"{_dotted(missing[0])}: no value; set it in {path} or with {_dotted(missing[0])}=…"
            )
        return OmegaConf.to_object(config)  # pyright: ignore[reportReturnType]
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{_dotted(error.full_key or '')}: {str(error).splitlines()[0]}; "
            "write the value itself or ${section.key}"
        ) from error


def save_config(config: Config, path: str | Path) -> None:
    """Writes the config as YAML, defaults included; `load_config` reads an equal Config back."""
    Path(path).write_text(OmegaConf.to_yaml(OmegaConf.structured(config)), encoding="utf-8")


def known_keys() -> list[str]:
    """Every key that can be set, dotted; `*` stands for a position in a list."""
    return [".".join(key) for key in _walk(Config, ())]


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; paths are read from the working directory") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no YAML that can be read: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    raw = OmegaConf.to_container(loaded, resolve=False)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds a list; a config is `section:` with `key: value` lines under it")
    return raw  # pyright: ignore[reportReturnType]


def _override(raw: dict[str, Any], override: str) -> None:
    """Puts one `key=value` into the raw mapping; its value is YAML, and replaces what stood there."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"{override}: not an override; write KEY=VALUE, for example optimizer.lr=1e-4")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # pyright: ignore
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{name}={text}: no YAML value: {' '.join(str(error).split())}") from error
    keys = name.split(".")
    place: Any = raw
    key: Any
    for depth, key in enumerate(keys):
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise ConfigError(
                    f"{name}: {'.'.join(keys[:depth])} has {len(place)} entries; "
                    f"name one by its position, 0 to {len(place) - 1}"
                )
            key = int(key)
        elif not isinstance(place, dict):
            raise ConfigError(f"{name}: unknown key; {'.'.join(keys[:depth])} is a single value")
        if depth == len(keys) - 1:
            place[key] = value
        else:
            if isinstance(place, dict) and place.get(key) is None:
                place[key] = {}
            place = place[key]


def _fill(node: DictConfig, schema: type, raw: dict[Any, Any], at: tuple[str, ...]) -> None:
    """Moves a raw mapping into the structured node of its dataclass, key by key."""
    OmegaConf.set_readonly(node, False)  # frozen dataclasses arrive read-only
    hints = get_type_hints(schema)
    for name, value in raw.items():
        key = (*at, str(name))
        if name not in hints:
            raise ConfigError(
                f"{'.'.join(key)}: unknown key; the nearest known key is {_nearest(key, list(hints))}"
            )
        hint = hints[name]
        if is_dataclass(hint):
            _fill(node[name], hint, _section(value, key), key)  # pyright: ignore[reportArgumentType]
        elif (entry := _entry_schema(hint)) is not None:
            if not isinstance(value, list | None):
                raise ConfigError(f"{'.'.join(key)}={value!r}: must be a list, one `- ` line for each entry")
            for position, item in enumerate(value or []):
                filled = OmegaConf.structured(entry)
                _fill(filled, entry, _section(item, (*key, str(position))), (*key, str(position)))
                node[name].append(filled)
        else:
            _set(node, name, hint, value, ".".join(key))


def _set(node: DictConfig, name: str, hint: Any, value: Any, key: str) -> None:
    if _RESOLVER.search(str(value)):
        raise ConfigError(
            f"{key}={value}: only references to other keys, ${{section.key}}; write the value itself"
        )
    try:
        if isinstance(value, bool) and bool not in _alternatives(hint):
            raise TypeError  # OmegaConf would read true as 1
        OmegaConf.update(node, name, value)
    except (OmegaConfBaseException, TypeError) as error:
        raise ConfigError(f"{key}={'null' if value is None else value}: must be {_allowed(hint)}") from error


def _section(value: Any, key: tuple[str, ...]) -> dict[Any, Any]:
    if value is None:  # a heading with all its lines commented out
        return {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{'.'.join(key)}={value!r}: must be a section, `key: value` lines under {key[-1]}:"
        )
    return value


def _entry_schema(hint: Any) -> type | None:
    """The dataclass of a list's entries; None where the hint is no such list."""
    arguments = get_args(hint)
    return arguments[0] if get_origin(hint) is list and is_dataclass(arguments[0]) else None  # pyright: ignore


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _allowed(hint: Any) -> str:
    """What a key takes, in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))} numbers"
    return " or ".join(_TYPE_NAMES.get(kind, str(kind)) for kind in _alternatives(hint))


def _walk(schema: type, at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            yield from _walk(hint, (*at, name))  # pyright: ignore[reportArgumentType]
        elif (entry := _entry_schema(hint)) is not None:
            yield from _walk(entry, (*at, name, "*"))
        else:
            yield (*at, name)


def _nearest(key: tuple[str, ...], siblings: list[str]) -> str:
    """The known key most like an unknown one: beside it, of the same name elsewhere, or by spelling."""
    beside = get_close_matches(key[-1], siblings, n=1)
    if beside:
        return ".".join((*key[:-1], beside[0]))
    namesakes = [known for known in known_keys() if known.rpartition(".")[2] == key[-1]]
    return (namesakes or get_close_matches(".".join(key), known_keys(), n=1, cutoff=0.0))[0]


def _dotted(key: str) -> str:
    return re.sub(r"\[(\d+)\]", r".\1", key)
