"""`rescind.yaml`: found, read and refused as a whole.

    store: .rescind              # folder of journal and standing orders, relative to this file
    fallback: "Please call …"    # what users are shown for a halted run
    undo:
      parallel: 8                # compensations at the same time
      retries: 3                 # for transient errors
    switch:
      urls: [https://a:7443, https://b:7443]   # any one of them can stop the guards of this program
      token_file: agent.token    # what to show them; relative to this file. Or RESCIND_TOKEN
      ca_file: switch.pem        # whom to believe, if not the system's authorities
      lease_ttl_s: 10            # after so much silence of all of them …
      on_silence: read_only      # … a guard lowers itself to this level
      start_within_s: 2          # how long a first run waits for the first answer

The environment variable RESCIND_STORE names the store for programs and commands that are given none. RESCIND_URL names
further switches, separated by blanks or commas: it can add to those of the file and takes none away. RESCIND_TOKEN is
the token to show them, and comes before `token_file`.
"""

import difflib
import os
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from rescind.errors import ConfigError
from rescind.model.level import Level

CONFIG_NAME = "rescind.yaml"
STORE_VARIABLE = "RESCIND_STORE"
STORE_DEFAULT = ".rescind"

URL_VARIABLE = "RESCIND_URL"
TOKEN_VARIABLE = "RESCIND_TOKEN"  # noqa: S105  # the name of a variable

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


class SwitchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which switches a guard follows, and what it does when it hears from none of them. No URL: none are followed."""

    urls: tuple[str, ...] = ()
    token_file: str | None = None
    ca_file: str | None = None
    lease_ttl_s: float = 10.0
    on_silence: str = "read_only"
    start_within_s: float = 2.0

    def __post_init__(self) -> None:
        for url in self.urls:
            _refuse_bad_url(url)
        if not 0.5 <= self.lease_ttl_s <= 600:
            raise ValueError(f"lease_ttl_s is {self.lease_ttl_s:g}; it must be from 0.5 to 600")
        if not 0 <= self.start_within_s <= 60:
            raise ValueError(f"start_within_s is {self.start_within_s:g}; it must be from 0 to 60")
        if Level.parse(self.on_silence) < Level.SUPERVISED:
            raise ValueError("on_silence is normal, which would let a guard go on that nobody can stop; use read_only")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that `rescind.yaml` may say."""

    store: str = STORE_DEFAULT
    fallback: str | None = None
    undo: UndoConfig = UndoConfig()
    switch: SwitchConfig = SwitchConfig()


class Settings(msgspec.Struct, frozen=True):
    """A configuration in its place.

    Attributes:
        config: What the file says, or the defaults.
        store: The folder of the stores, absolute.
        source: The file; None if there is none.
        switch: Which switches to follow: those of the file and those of the environment.
        token: What to show them; empty for nothing.
    """

    config: Config
    store: Path
    source: Path | None = None
    switch: SwitchConfig = SwitchConfig()
    token: str = ""


def load_settings(path: str | Path | None = None) -> Settings:
    """The settings of the given file, else of the nearest `rescind.yaml` from here upwards, else the defaults.

    Raises: ConfigError, which names the file, the place in it and the remedy.
    """
    source = Path(path) if path is not None else _nearest()
    config = _read(source) if source is not None else Config()
    base = source.parent if source is not None else Path()
    named = os.environ.get(STORE_VARIABLE)
    store = Path(named) if named else base / config.store
    switch = _with_environment(config.switch, base)
    return Settings(config, store.absolute(), source, switch, _token(switch))


def urls_of_environment() -> tuple[str, ...]:
    """The switches that RESCIND_URL names.

    Raises: ConfigError, if one is no URL of a switch.
    """
    urls = tuple(os.environ.get(URL_VARIABLE, "").replace(",", " ").split())
    for url in urls:
        try:
            _refuse_bad_url(url)
        except ValueError as error:
            raise ConfigError(f"{URL_VARIABLE}: {error}") from error
    return urls


def _with_environment(switch: SwitchConfig, base: Path) -> SwitchConfig:
    # The environment of an agent is within the agent's reach: it may add a switch that can stop it, and remove none.
    urls = (url.rstrip("/") for url in (*switch.urls, *urls_of_environment()))
    return msgspec.structs.replace(
        switch,
        urls=tuple(dict.fromkeys(urls)),
        token_file=None if switch.token_file is None else str(base / switch.token_file),
        ca_file=None if switch.ca_file is None else str(base / switch.ca_file),
    )


def _token(switch: SwitchConfig) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token or switch.token_file is None:
        return token
    try:
        return Path(switch.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"switch.token_file {switch.token_file} cannot be read: {reason}") from error


def _refuse_bad_url(url: str) -> None:
    scheme, separator, rest = url.partition("://")
    host = rest.rstrip("/")
    if scheme not in ("http", "https") or not separator or not host or any(c in "/?#@" or c.isspace() for c in host):
        raise ValueError(f"{url!r} is no switch; write http://HOST:PORT or https://HOST:PORT")


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
        elif inner in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, inner))):
            raise ConfigError(f"{source}: {prefix}{key} must be a number, and is {_said(value)}")
        elif inner == tuple[str, ...]:
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ConfigError(f"{source}: {prefix}{key} must be a list of texts, and is {_said(value)}")
        elif inner not in (int, float) and not isinstance(value, str) and not (value is None and inner is not str):
            raise ConfigError(f"{source}: {prefix}{key} must be text, and is {_said(value)}")


def _said(value: Any) -> str:
    return "empty" if value is None else repr(value)
