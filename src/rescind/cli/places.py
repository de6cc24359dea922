"""Where an operator's command goes: to switches, to the store of this machine, or to both.

A stop never has too many places: it goes to every switch that is configured, and to the local store, if there is one.
Who names switches with `--switch` means these and nothing else.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rescind.cli.stores import find_store, has_store, store_words
from rescind.config import (
    STORE_VARIABLE,
    TOKEN_VARIABLE,
    URL_VARIABLE,
    Settings,
    load_settings,
    store_of_environment,
    urls_of_environment,
)
from rescind.errors import ConfigError, UsageError
from rescind.switch.client.asking import Switches

if TYPE_CHECKING:
    from rescind.database.address import StoreAt


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says of places.

    Attributes:
        store: `--store`, absolute, or a database.
        urls: `--switch`, each.
        token_file: `--token-file`.
    """

    store: "StoreAt | None" = None
    urls: tuple[str, ...] = ()
    token_file: str | None = None


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go; there is at least one place.

    Attributes:
        switches: The switches; without URLs if there are none.
        store: The local store; None if there is none, or if it was not meant.
        given: As it was typed.
        passed_over: Why `rescind.yaml` could not be read, where the command can do without; empty otherwise.
    """

    switches: Switches
    store: "StoreAt | None"
    given: Given = Given()
    passed_over: str = ""

    def words(self) -> list[str]:
        """What another command needs to be told to go to the same places. No token: who lifts may be somebody else."""
        named = [word for url in self.given.urls for word in ("--switch", url)]
        return [*named, *(store_words(self.store) if self.store is not None else [])]


def find_places(given: Given) -> Places:
    """The places of a command.

    Raises: UsageError, if there is neither a switch nor a store, or what was given is none; ConfigError.
    """
    token = _read_token(given.token_file)
    settings, problem = _settings(given, token)
    configured = settings.switch
    urls = given.urls or configured.urls
    switches = _switches(urls, settings.token, configured.ca_file)
    store = None if given.urls else _local_store(given, settings, needed=not urls)
    return Places(switches=switches, store=store, given=given, passed_over=problem)


def _settings(given: Given, token: str | None) -> tuple[Settings, str]:
    # At three in the morning, somebody's typing error in `rescind.yaml` must not stand between an operator and a stop.
    try:
        return load_settings(token=token), ""
    except ConfigError as error:
        urls = given.urls or urls_of_environment()
        if not (urls or given.store or os.environ.get(STORE_VARIABLE)):
            raise
        token = os.environ.get(TOKEN_VARIABLE, "").strip() if token is None else token
        return _without_file(urls, token), str(error)


def _without_file(urls: tuple[str, ...], token: str) -> Settings:
    from rescind.config import Config, SwitchConfig

    store = store_of_environment() or Path(Config().store).absolute()
    return Settings(config=Config(), store=store, switch=SwitchConfig(urls=urls), token=token)


def _switches(urls: Sequence[str], token: str, ca_file: str | None) -> Switches:
    try:
        return Switches(urls=tuple(dict.fromkeys(url.rstrip("/") for url in urls)), token=token, ca_file=ca_file)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _local_store(given: Given, settings: Settings, *, needed: bool) -> "StoreAt | None":
    if given.store is not None:
        return find_store(given.store)
    if not needed:
        return settings.store if has_store(settings.store) else None
    try:
        return find_store(None)
    except ConfigError:
        raise
    except UsageError as error:
        raise UsageError(
            f"{error}. To reach switches from here, name them with --switch URL or {URL_VARIABLE}"
        ) from error


def _read_token(token_file: str | None) -> str | None:
    if token_file is None:
        return None
    try:
        return Path(token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"--token-file {token_file} cannot be read: {reason}") from error
