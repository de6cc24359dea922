"""Tokens, powers and limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.clock import SystemIds
from rescind.errors import UsageError
from rescind.testing import ManualClock
from rescind.web import limits
from rescind.web.limits import Limit
from rescind.web.problems import Refused
from rescind.web.tokens import PREFIX, Caller, Power, Role, Token, TokenBook, hash_of, new_token


def made(role: Role = Role.OPERATOR, name: str = "alice", identity: str = "") -> tuple[str, Token]:
    return new_token(role, name, identity, clock=ManualClock(), ids=SystemIds())


def test_a_secret_is_long_random_recognisable_and_not_in_what_is_kept() -> None:
    secrets = {made()[0] for _ in range(50)}
    secret, kept = made()

    assert len(secrets) == 50
    assert all(each.startswith(PREFIX) and len(each) >= len(PREFIX) + 43 for each in secrets)
    assert kept.hash == hash_of(secret)
    assert secret.removeprefix(PREFIX) not in str(kept)


def test_a_token_is_found_by_its_secret_until_it_is_revoked() -> None:
    secret, kept = made()
    revoked = Token(**{name: getattr(kept, name) for name in kept.__struct_fields__} | {"revoked_at_us": 1})

    assert TokenBook([kept]).find(secret) == kept
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), kept.hash, "\ud800"):
        assert TokenBook([kept]).find(wrong) is None
    assert TokenBook([revoked]).find(secret) is None


def test_a_book_whose_last_token_was_revoked_is_not_an_empty_one() -> None:
    _, kept = made()
    revoked = Token(**{name: getattr(kept, name) for name in kept.__struct_fields__} | {"revoked_at_us": 1})

    assert TokenBook([]).is_empty
    assert not TokenBook([revoked]).is_empty


@pytest.mark.parametrize(
    ("role", "name", "identity", "says"),
    [
        (Role.OPERATOR, " ", "", "name"),
        (Role.OPERATOR, "a\nb", "", "name"),
        (Role.OPERATOR, "x" * 101, "", "name"),
        (Role.OPERATOR, "alice", "agent:x", "operator has none"),
        (Role.AGENT, "billing", "", "needs --identity"),
        (Role.AGENT, "billing", "agnet:x", "--identity"),
        (Role.AGENT, "billing", "everything", "stop all others"),
    ],
)
def test_a_token_that_would_make_no_sense_is_not_made(role: Role, name: str, identity: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        made(role, name, identity)


def test_nobody_but_an_approver_lifts() -> None:
    able = {role for role in (None, *Role) if Caller(name="", role=role).may(Power.LIFT)}
    assert able == {Role.APPROVER}


# --- limits ---


def test_a_bucket_holds_its_burst_and_refills_at_its_rate() -> None:
    clock = ManualClock()
    limit = Limit(rate=2.0, burst=3.0, clock=clock)
    for _ in range(3):
        limit.take("alice")
    with pytest.raises(Refused) as refused:
        limit.take("alice")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 1)
    limit.take("bob")

    clock.advance(0.5)
    limit.take("alice")
    with pytest.raises(Refused):
        limit.take("alice")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3)), max_size=60))
def test_nobody_gets_more_than_the_burst_and_the_rate_allow(requests: list[tuple[str, float]]) -> None:
    clock, taken = ManualClock(), {"a": 0, "b": 0}
    limit = Limit(rate=1.0, burst=5.0, clock=clock)
    for who, pause_s in requests:
        clock.advance(pause_s)
        try:
            limit.take(who)
        except Refused:
            continue
        taken[who] += 1
    assert max(taken.values()) <= 5 + clock.boot_s() + 1e-6


def test_the_askers_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BUCKETS_MAX", 10)
    limit = Limit(rate=1.0, burst=1.0, clock=ManualClock())
    for number in range(100):
        limit.take(f"asker-{number}")
    with pytest.raises(Refused):
        limit.take("asker-99")
    limit.take("asker-0")  # forgotten
