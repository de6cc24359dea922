"""`rescind.yaml`: found, read and refused as a whole.

    store: .rescind              # folder of journal and standing orders, relative to this file; or a database:
    store: postgresql://rescind@db/agents    # for several machines; its password in PGPASSWORD or ~/.pgpass
    fallback: "Please call …"    # what users are shown for a halted run; or, in full:
    fallback:
      text: "The assistant is paused. Please call …"   # {reason}, {agent}, {level} and {retry_after_s} are filled in
      retry_after_s: 30
      lang: en
      templates:                 # the most specific one that matches: agent@version, agent, workflow, level
        - {agent: billing-agent, workflow: refunds, level: halted, text: "Refunds are paused: {reason}"}
    undo:
      parallel: 8                # compensations at the same time
      retries: 3                 # for transient errors
      within_s: 600              # begin no further step after so long; left out: take all the time it needs
      systems:                   # what may be asked of each target system; `*` is every other one
        stripe: {parallel: 2, rate_per_s: 25, burst: 5}
      workers: false             # whether undos are left to `rescind worker`, or done by who asks for them
    switch:
      urls: [https://a:7443, https://b:7443]   # any one of them can stop the guards of this program
      token_file: agent.token    # what to show them; relative to this file. Or RESCIND_TOKEN
      ca_file: switch.pem        # whom to believe, if not the system's authorities
      lease_ttl_s: 10            # after so much silence of all of them …
      on_silence: read_only      # … a guard lowers itself to this level
      start_within_s: 2          # how long a first run waits for the first answer
    approval:
      wait_s: 300                # how long a write waits for a person before it is refused; 0: not at all
      expire_s: 3600             # how long a person has to decide, and the write to begin
    policy: {}                   # what is looked for, and what is done then: see `rescind.triggers.policy_file`

The environment variable RESCIND_STORE names the store for programs and commands that are given none. RESCIND_URL names
further switches, separated by blanks or commas: it can add to those of the file and takes none away. Whom it adds to
switches of the file can stop a guard, and neither lift what those have ordered nor renew a lease. RESCIND_TOKEN is the
token to show them, and comes before `token_file`.
"""

import difflib
import itertools
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from rescind.errors import ConfigError, UsageError
from rescind.model.level import Level

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

CONFIG_NAME = "rescind.yaml"
STORE_VARIABLE = "RESCIND_STORE"
STORE_DEFAULT = ".rescind"

URL_VARIABLE = "RESCIND_URL"
TOKEN_VARIABLE = "RESCIND_TOKEN"  # noqa: S105  # the name of a variable

POLICY_KEY = "policy"
"""The section of `rescind.yaml` that is read by `rescind.triggers.policy_file`, and by nobody else."""

FALLBACK_TEXT_MAX = 4_000
"""Characters of one text for users. It is read on a telephone."""

FALLBACK_DEPTH_MAX = 16
"""How deep a JSON template may be nested: far beyond any answer to a user, and a bound for one that holds itself."""

JOURNAL_NAME = "journal.db"
"""The journal's file in a store. Here, since commands look for it without importing the journal."""


EVERY_SYSTEM = "*"
"""Stands for every target system that is not named."""


class SystemLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an undo may ask of one target system.

    Attributes:
        parallel: Steps that are undone there at once; None for as many as there are.
        rate_per_s: Tries per second; None for as many as it takes.
        burst: Tries that may come at once, after a time without any.
    """

    parallel: int | None = None
    rate_per_s: float | None = None
    burst: int = 1

    def __post_init__(self) -> None:
        if self.parallel is not None and not 1 <= self.parallel <= 64:
            raise ValueError(f"parallel is {self.parallel}; it must be from 1 to 64")
        if self.rate_per_s is not None and not 0.001 <= self.rate_per_s <= 100_000:
            raise ValueError(f"rate_per_s is {self.rate_per_s:g}; it must be from 0.001 to 100000")
        if not 1 <= self.burst <= 100_000:
            raise ValueError(f"burst is {self.burst}; it must be from 1 to 100000")


class UndoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How undos are applied. `within_s`: after so many seconds no further step is begun; None for no such deadline.

    `workers`: whether they are left to `rescind worker`, if the command line does not say.
    """

    parallel: int = 8
    retries: int = 3
    within_s: float | None = None
    systems: dict[str, SystemLimits] = {}
    workers: bool = False

    def __post_init__(self) -> None:
        if self.within_s is not None and not 1 <= self.within_s <= 604_800:
            raise ValueError(f"within_s is {self.within_s:g}; it must be from 1 to 604800, which are seven days")
        if not 1 <= self.parallel <= 64:
            raise ValueError(f"parallel is {self.parallel}; it must be from 1 to 64")
        if not 0 <= self.retries <= 20:
            raise ValueError(f"retries is {self.retries}; it must be from 0 to 20")


class SwitchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which switches a guard follows, and what it does when it hears from none of them. No URL: none are followed.

    `further` are those of the `urls` that may hold a guard and not let it go on: see `rescind.switch.client.merge`.
    """

    urls: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
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


class ApprovalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long writes wait for a person, and for how long what was asked and decided counts.

    What is asked outlives the waiting: a call that was refused goes through when it is made again after its approval.
    """

    wait_s: float = 300.0
    expire_s: float = 3_600.0

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s <= 86_400:
            raise ValueError(f"wait_s is {self.wait_s:g}; it must be from 0 to 86400")
        if not 1 <= self.expire_s <= 604_800:
            raise ValueError(f"expire_s is {self.expire_s:g}; it must be from 1 to 604800, which are seven days")


class ReviewConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where review tasks are told, besides the journal. An empty `webhook`: nowhere."""

    webhook: str = ""
    secret_file: str | None = None

    def __post_init__(self) -> None:
        if self.webhook and self.secret_file is None:
            raise ValueError("webhook needs a secret_file beside it, with the whsec_… that signs its messages")


NO_WAITING = ApprovalConfig(wait_s=0.0)
"""Ask, and refuse the call at once: for guards that nobody has told how long to wait."""


def _refuse_bad_text(place: str, text: str) -> None:
    if len(text) > FALLBACK_TEXT_MAX:
        raise ValueError(f"{place} has {len(text):,} characters; at most {FALLBACK_TEXT_MAX:,} are shown to users")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{place} holds half a character (a surrogate), which is no text")
    from rescind.model.template import Template  # only those with a text need it

    try:
        Template.parse(text)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _refuse_bad_json(place: str, value: Any, *, depth: int) -> None:
    if depth > FALLBACK_DEPTH_MAX:
        raise ValueError(f"{place} is nested deeper than {FALLBACK_DEPTH_MAX} levels, or holds itself")
    if isinstance(value, str):
        _refuse_bad_text(place, value)
    elif isinstance(value, (dict, list)):
        for key, inner in _inside(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise ValueError(f"{place} has the key {key!r}, which is no text; put it in quotes")
            _refuse_bad_json(f"{place}[{key}]", inner, depth=depth + 1)
    elif not (value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))):
        raise ValueError(f"{place} is {value!r}, which JSON cannot say; put it in quotes")


def _inside(value: Any) -> list[tuple[Any, Any]]:
    pairs: Any = value.items() if hasattr(value, "items") else zip(itertools.count(), value, strict=False)
    return list(pairs)


def _refuse_bad_wait(retry_after_s: int) -> None:
    if not 1 <= retry_after_s <= 86_400:
        raise ValueError(f"retry_after_s is {retry_after_s}; it must be from 1 to 86400")


class FallbackTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What users are shown in one case. An empty `agent`, `workflow` or `level` means any; see `docs/fallback.md`."""

    agent: str = ""
    workflow: str = ""
    level: str = ""
    text: str = ""
    json: dict[str, Any] | None = None
    retry_after_s: int | None = None

    def __post_init__(self) -> None:
        if self.agent:
            from rescind.model.step import parse_agent  # 3 ms that `rescind stop` need not pay

            parse_agent(self.agent)
        if self.level and Level.parse(self.level) is Level.NORMAL:
            raise ValueError("level is normal, and at that nobody is shown a fallback; use halted, or leave it out")
        if not self.text.strip() and self.json is None:
            raise ValueError("it says nothing; give it a text, a json, or both")
        _refuse_bad_text("text", self.text)
        if self.json is not None:
            _refuse_bad_json("json", self.json, depth=1)
        if self.retry_after_s is not None:
            _refuse_bad_wait(self.retry_after_s)

    @property
    def case(self) -> tuple[str, str, str]:
        """When it is meant: agent, workflow and level, in one spelling each."""
        return self.agent, self.workflow, Level.parse(self.level).label if self.level else ""


class FallbackConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What users are shown instead of an answer. An empty `text` means our own words."""

    text: str = ""
    retry_after_s: int = 30
    lang: str = "en"
    templates: tuple[FallbackTemplate, ...] = ()

    def __post_init__(self) -> None:
        _refuse_bad_text("text", self.text)
        _refuse_bad_wait(self.retry_after_s)
        if not re.fullmatch(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*", self.lang):
            raise ValueError(
                f"lang is {self.lang!r}; write the language of the texts as HTML does, such as en or de-CH"
            )
        seen: dict[tuple[str, str, str], int] = {}
        for index, template in enumerate(self.templates):
            first = seen.setdefault(template.case, index)
            if first != index:
                raise ValueError(f"templates[{first}] and templates[{index}] are for the same case; keep one of them")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that `rescind.yaml` may say, but for `policy`. The templates of `fallback` are in `Settings`."""

    store: str = STORE_DEFAULT
    fallback: str | None = None
    undo: UndoConfig = UndoConfig()
    switch: SwitchConfig = SwitchConfig()
    approval: ApprovalConfig = ApprovalConfig()
    review: ReviewConfig = ReviewConfig()


class Settings(msgspec.Struct, frozen=True):
    """A configuration in its place.

    Attributes:
        config: What the file says, or the defaults.
        store: The folder of the stores, absolute; or the database.
        source: The file; None if there is none.
        switch: Which switches to follow: those of the file and those of the environment.
        token: What to show them; empty for nothing.
        fallback: What users are shown, in whichever form the file says it.
    """

    config: Config
    store: "StoreAt"
    source: Path | None = None
    switch: SwitchConfig = SwitchConfig()
    token: str = ""
    fallback: FallbackConfig = FallbackConfig()

    def __repr__(self) -> str:  # whatever prints this must print neither the token nor a password of the store
        return f"Settings(store={str(self.store)!r}, source={self.source!r})"


def load_settings(path: str | Path | None = None, *, token: str | None = None) -> Settings:
    """The settings of the given file, else of the nearest `rescind.yaml` from here upwards, else the defaults.

    Args:
        path: The file.
        token: What to show to switches. The file's `token_file` is then not read: it may be the agent's, and unreadable
            for whoever comes with a token of their own.

    Raises: ConfigError, which names the file, the place in it and the remedy.
    """
    source = Path(path) if path is not None else _nearest()
    config, fallback = _read(source) if source is not None else (Config(), FallbackConfig())
    base = source.parent if source is not None else Path()
    store = store_of_environment() or _store(config.store, base, f"{source}: store")
    switch = _with_environment(config.switch, base)
    return Settings(config, store, source, switch, token if token is not None else _token(switch), fallback)


def store_of_environment() -> "StoreAt | None":
    """The store that RESCIND_STORE names; None if it names none.

    Raises: ConfigError, if it names a database in a way that cannot be read.
    """
    named = os.environ.get(STORE_VARIABLE)
    return _store(named, Path(), STORE_VARIABLE) if named else None


def _store(named: str, base: Path, place: str) -> "StoreAt":
    if "://" not in named:  # so that a folder, which is what most have, costs no import
        return (base / named).absolute()
    from rescind.database.address import store_at

    try:
        return store_at(named, base=base)
    except UsageError as error:
        raise ConfigError(f"{place}: {error}") from error


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
    # What it adds may be a switch of the agent's own, which would lift every order and renew every lease, if it could.
    named = dict.fromkeys(url.rstrip("/") for url in switch.urls)
    added = dict.fromkeys(url.rstrip("/") for url in urls_of_environment())
    return msgspec.structs.replace(
        switch,
        urls=tuple(named | added),
        further=(*switch.further, *(url for url in added if named and url not in named)),
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
    if url.startswith("postgres"):  # perhaps with a password in it, so that it is not repeated
        raise ValueError(f"a database is no switch; name it as `store`, or in {STORE_VARIABLE}")
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


def _read(source: Path) -> tuple[Config, FallbackConfig]:
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
        return Config(), FallbackConfig()
    if not isinstance(raw, dict):
        raise ConfigError(f"{source} must hold keys and values, such as `store: {STORE_DEFAULT}`")
    # A guard reads it from the file itself, with line numbers; a stop has no time for it, and no use.
    raw = {key: value for key, value in raw.items() if key != POLICY_KEY}  # pyright: ignore[reportUnknownVariableType]  # of whatever the file holds
    fallback = _fallback(raw, source)
    _refuse_unknown_keys(raw, Config, source, "")
    _refuse_other_types(raw, Config, source, "")
    try:
        return msgspec.convert(raw, Config), fallback
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}") from error


def _fallback(raw: Any, source: Path) -> FallbackConfig:
    """Take the fallback out of what a file says, in either form, and leave its text there."""
    said: Any = raw.get("fallback")
    if isinstance(said, str):
        said = {"text": said}
    if said is None:
        return FallbackConfig()
    if not isinstance(said, dict):
        raise ConfigError(f"{source}: fallback must be text, or keys and values, and is {_said(said)}")
    _refuse_unknown_keys(said, FallbackConfig, source, "fallback.")
    templates: Any = raw["fallback"].get("templates") if "templates" in said else []
    for place, template in _inside(templates if isinstance(templates, list) else []):
        if isinstance(template, dict):
            _refuse_unknown_keys(template, FallbackTemplate, source, f"fallback.templates[{place}].")
    try:
        fallback = msgspec.convert(said, FallbackConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {str(error).replace('`$', '`$.fallback')}") from error
    raw["fallback"] = fallback.text or None
    return fallback


def _refuse_unknown_keys(raw: Any, kind: type[msgspec.Struct], source: Path, prefix: str) -> None:
    hints = get_type_hints(kind)
    fields: list[tuple[Any, Any]] = list(raw.items())
    for key, value in fields:
        if key not in hints:
            known = (*hints, POLICY_KEY) if kind is Config else tuple(hints)
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix + nearest[0]!r}? " if nearest else ""
            raise ConfigError(f"{source}: unknown key {prefix + str(key)!r}; {hint}known are: {', '.join(known)}")
        inner = hints[key]
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _refuse_unknown_keys(value, inner, source, f"{prefix}{key}.")
        elif isinstance(value, dict) and inner == dict[str, SystemLimits]:
            for name, limits in _inside(value):
                if isinstance(limits, dict):
                    _refuse_unknown_keys(limits, SystemLimits, source, f"{prefix}{key}.{name}.")


_NUMBERS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    int | None: (int, type(None)),
    float | None: (int, float, type(None)),
}
"""What a key of this type may hold; a truth value is none of it."""


def _refuse_other_types(raw: Any, kind: type[msgspec.Struct], source: Path, prefix: str) -> None:
    hints = get_type_hints(kind)
    fields: list[tuple[Any, Any]] = list(raw.items())
    for key, value in fields:
        inner = hints[key]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {prefix}{key} must hold keys and values, and is {_said(value)}")
            _refuse_other_types(value, inner, source, f"{prefix}{key}.")
        elif inner is bool:
            if not isinstance(value, bool):
                raise ConfigError(f"{source}: {prefix}{key} must be true or false, and is {_said(value)}")
        elif inner in _NUMBERS:
            if isinstance(value, bool) or not isinstance(value, _NUMBERS[inner]):
                raise ConfigError(f"{source}: {prefix}{key} must be a number, and is {_said(value)}")
        elif inner == dict[str, SystemLimits]:
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {prefix}{key} must hold names of systems, and is {_said(value)}")
            for name, limits in _inside(value):
                if not isinstance(name, str) or not isinstance(limits, dict):
                    what = f"{prefix}{key}.{name}"
                    raise ConfigError(f"{source}: {what} must hold keys and values, such as {{parallel: 2}}")
                _refuse_other_types(limits, SystemLimits, source, f"{prefix}{key}.{name}.")
        elif inner == tuple[str, ...]:
            if not _is_list_of_texts(value):
                raise ConfigError(f"{source}: {prefix}{key} must be a list of texts, and is {_said(value)}")
        elif not isinstance(value, str) and not (value is None and inner is not str):
            raise ConfigError(f"{source}: {prefix}{key} must be text, and is {_said(value)}")


def _is_list_of_texts(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # of whatever the file holds
    return all(isinstance(each, str) for each in items)


def _said(value: Any) -> str:
    return "empty" if value is None else repr(value)
