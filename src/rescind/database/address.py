"""Where a database is: a URL as libpq reads it, and what of it may be shown."""

from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, unquote_plus, urlencode

import msgspec

from rescind.errors import UsageError

SCHEMES = ("postgresql://", "postgres://")

_REMEDY = "write postgresql://USER@HOST:PORT/DATABASE, and give the password in PGPASSWORD or ~/.pgpass"


def is_database(text: str) -> bool:
    """Whether somebody who writes this means a database, be it well written or not, and no folder."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.partition("+")[0].lower() in ("postgresql", "postgres")


class Address(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """A database's address. Its text is without secrets, so that whoever prints it prints none.

    Attributes:
        url: As it was given, perhaps with a password in it: for the driver alone.
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """The address that a text names.

        Raises: UsageError, which repeats nothing of the text that might be a secret.
        """
        if not text.startswith(SCHEMES):
            scheme = text.partition("://")[0][:40] if "://" in text else "no scheme"
            raise UsageError(f"the store is the address of a database with {scheme!r} before it; {_REMEDY}")
        authority, path, _ = _parts(text)
        if authority.count("@") > 1 or "@" in path or "#" in text:
            raise UsageError(
                "the address of the database holds an @, / or # that belongs to a name or a password; "
                f"write it as %40, %2F or %23, or {_REMEDY}"
            )
        if any(letter.isspace() or not letter.isprintable() for letter in text):
            raise UsageError(f"the address of the database holds a blank or something invisible; {_REMEDY}")
        return cls(text)

    @property
    def shown(self) -> str:
        """The address without secrets: to the same database, with a password from elsewhere if it needs one."""
        authority, path, query = _parts(self.url)
        credentials, separator, host = authority.rpartition("@")
        user = credentials.partition(":")[0]
        kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if not _is_secret(name)]
        question = f"?{urlencode(kept)}" if kept else ""
        return f"postgresql://{user}{separator}{host}{path}{question}"

    def scrub(self, text: str) -> str:
        """A message of the driver or the server, without this address's secrets, in one line."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "***")
        return " ".join(text.split())

    def _secrets(self) -> set[str]:
        authority, _, query = _parts(self.url)
        named = [pair.partition("=") for pair in query.split("&")]
        raw = [authority.rpartition("@")[0].partition(":")[2], *(value for name, _, value in named if _is_secret(name))]
        return {form for secret in raw for form in (secret, unquote(secret), unquote_plus(secret)) if form}

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"


def _is_secret(name: str) -> bool:
    return "password" in unquote(name).lower()


StoreAt: TypeAlias = Path | Address
"""Where a store is: in a folder of this machine, or in a database."""


def store_at(text: str | Path, *, base: Path | None = None) -> StoreAt:
    """The place that a text names: a database, or else a folder.

    Args:
        text: `postgresql://…`, or a path.
        base: What a path is relative to; the current folder by default.

    Raises: UsageError, for the address of a database that cannot be read.
    """
    if isinstance(text, str) and is_database(text):
        return Address.parse(text)
    return ((base or Path()) / text).absolute()


def _parts(url: str) -> tuple[str, str, str]:
    rest = url.partition("://")[2]
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    return authority, slash + path, query
