"""`rescind.yaml`: found, read and refused as a whole.

    store: .rescind              # folder of journal and standing orders, relative to this file
    fallback: "Please call …"    # what users are shown for a halted run
    undo:
      parallel: 8                # compensations at the same time
      retries: 3                 # for transient errors

The environment variable RESCIND_STORE names the store for programs and commands that are given none.
"""

import difflib
import os
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from rescind.errors import ConfigError

CONFIG_NAME = "rescind.yaml"
STORE_VARIABLE = "RESCIND_STORE"
STORE_DEFAULT = ".rescind"

JOURNAL_NAME = "journal.db"
"""The journal's file in a store. Here, since commands look for it without importing the journal."""


class UndoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How undos are applied."""

    parallel: int = 8
    retries: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.parallel <= 64:
            raise ValueError(f"parallel is {self.parallel}; it must be from 1 to 64")
        if not 0 <= self.retries <= 20:
            raise ValueError(f"retries is {self.retries}; it must be from 0 to 20")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that `rescind.yaml` may say."""

    store: str = STORE_DEFAULT
    fallback: str | None = None
    undo: UndoConfig = UndoConfig()


class Settings(msgspec.Struct, frozen=True):
    """A configuration in its place. `source` is the file it came from, or None."""

    config: Config
    store: Path
    source: Path | None = None


def load_settings(path: str | Path | None = None) -> Settings:
    """The settings of the given file, else of the nearest `rescind.yaml` from here upwards, else the defaults.

    Raises: ConfigError, which names the file, the place in it and the remedy.
    """
    source = Path(path) if path is not None else _nearest()
    config = _read(source) if source is not None else Config()
    base = source.parent if source is not None else Path()
    named = os.environ.get(STORE_VARIABLE)
    store = Path(named) if named else base / config.store
    return Settings(config, store.absolute(), source)


def _nearest() -> Path | None:
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / CONFIG_NAME).is_file():
            return folder / CONFIG_NAME
    return None


def _read(source: Path) -> Config:
    import yaml  # 20 ms that only those with a file pay

    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{line}: this is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: this is not YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        return Config()
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} must hold keys and values, such as `store: {STORE_DEFAULT}`")
    _refuse_unknown_keys(raw, Config, source, "")
    _refuse_other_types(raw, Config, source, "")
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}") from error


def _refuse_unknown_keys(raw: Any, kind: type[msgspec.Struct], source: Path, prefix: str) -> None:
    hints = get_type_hints(kind)
    fields: list[tuple[Any, Any]] = list(raw.items())
    for key, value in fields:
        if key not in hints:
            nearest = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"did you mean {prefix + nearest[0]!r}? " if nearest else ""
            raise ConfigError(f"{source}: unknown key {prefix + str(key)!r}; {hint}known are: {', '.join(hints)}")
        inner = hints[key]
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _refuse_unknown_keys(value, inner, source, f"{prefix}{key}.")


def _refuse_other_types(raw: Any, kind: type[msgspec.Struct], source: Path, prefix: str) -> None:
    hints = get_type_hints(kind)
    fields: list[tuple[Any, Any]] = list(raw.items())
    for key, value in fields:
        inner = hints[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {prefix}{key} must hold keys and values, and is {_said(value)}")
            _refuse_other_types(value, inner, source, f"{prefix}{key}.")
        elif inner is int and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"{source}: {prefix}{key} must be a number, and is {_said(value)}")
        elif inner is not int and not isinstance(value, str) and not (value is None and inner is not str):
            raise ConfigError(f"{source}: {prefix}{key} must be text, and is {_said(value)}")


def _said(value: Any) -> str:
    return "empty" if value is None else repr(value)
