"""An address of a database: what is one, what is shown of it, and that no secret gets out."""

import pytest

from rescind.database.address import Address, is_database
from rescind.errors import UsageError

WITH_SECRETS = "postgresql://ops:s3cr%40t@db.example:5432/agents?sslmode=require&sslpassword=hunter2"


@pytest.mark.parametrize("text", ["postgresql://h/d", "postgres://h/d", "postgresql+psycopg://h/d", "PostgreSQL://h"])
def test_who_writes_a_database_is_not_taken_for_a_folder(text: str) -> None:
    assert is_database(text)


@pytest.mark.parametrize("text", [".rescind", "/srv/postgres", "postgres", "http://h/d", "postgresql:/h"])
def test_everything_else_is_a_folder(text: str) -> None:
    assert not is_database(text)


def test_a_password_is_shown_nowhere() -> None:
    address = Address.parse(WITH_SECRETS)

    assert address.shown == "postgresql://ops@db.example:5432/agents?sslmode=require"
    assert str(address) == address.shown
    for shown in (repr(address), f"{address}", f"{[address]}"):
        assert "s3cr" not in shown
        assert "hunter2" not in shown
    assert address.url == WITH_SECRETS


def test_what_the_driver_says_is_without_the_password_in_whichever_form() -> None:
    address = Address.parse(WITH_SECRETS)
    said = f'no route for "{WITH_SECRETS}"\n with s3cr%40t or s3cr@t and hunter2'

    assert address.scrub(said) == (
        'no route for "postgresql://ops:***@db.example:5432/agents?sslmode=require&sslpassword=***"'
        " with *** or *** and ***"
    )


def test_an_address_without_secrets_stays_as_it_is() -> None:
    for text in ("postgresql://db/agents", "postgresql:///agents?host=/run/postgresql", "postgresql://u@a:1,b:2/d"):
        address = Address.parse(text)
        assert address.scrub(f"see {text}") == f"see {text}"
        assert Address.parse(address.shown) == Address.parse(address.shown)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://u:hunter2@h/d",
        "postgresql://u:hun@ter2@h/d",
        "postgresql://u:hun/ter2@h/d",
        "postgresql://u:hun#ter2@h/d",
        "postgresql://u:hun ter2@h/d",
        "postgresql://u:hunter2@h/d\n",
    ],
)
def test_an_address_that_would_be_misread_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError, match=r"PGPASSWORD or ~/.pgpass") as caught:
        Address.parse(text)
    assert "ter2" not in str(caught.value)
