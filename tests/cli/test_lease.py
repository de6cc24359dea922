"""`rescind lease`: whether a run may act, by what this machine and its switches know together."""

from pathlib import Path
from urllib.parse import urlencode

import pytest

from cli.conftest import Rescind
from switch.http.service import running

pytestmark = pytest.mark.usefixtures("shop")


def test_a_run_that_nobody_revoked_may_act_under_number_one(rescind: Rescind) -> None:
    answer = rescind("lease", "run-1", "--json")

    assert answer.status == 0
    assert {key: answer.json[key] for key in ("valid", "fencing_number", "unknown")} == {
        "valid": True,
        "fencing_number": 1,
        "unknown": [],
    }


def test_a_revoked_lease_says_who_and_why_and_its_number_stays_up_after_the_lift(rescind: Rescind) -> None:
    rescind("contain", "tenant:acme", "--revoke", "--reason", "leaked key")

    revoked = rescind("lease", "run-1")
    assert revoked.status == 1
    assert "leaked key" in revoked.out

    rescind("resume", "tenant:acme", "--reason", "new key")
    assert rescind("lease", "run-1", "--fencing", "2").status == 0
    stale = rescind("lease", "run-1", "--fencing", "1")
    assert stale.status == 1
    assert "is stale, the current one is 2" in stale.out


def test_what_is_not_known_of_a_run_counts_until_it_is_said(rescind: Rescind) -> None:
    rescind("contain", "tenant:bank", "--revoke")

    assert rescind("lease", "run-of-nobody").status == 1
    assert rescind("lease", "run-of-nobody", "--tenant", "acme").status == 0
    assert rescind("lease", "run-1").status == 0  # the journal knows its tenant


def test_it_says_what_is_not_known_and_a_switch_says_the_same(rescind: Rescind, tmp_path: Path) -> None:
    lacking = {
        (): ["agent", "version", "tenant", "workflow", "tree"],
        ("--agent", "", "--tenant", "", "--workflow", ""): ["version", "tree"],
        ("--agent", "a", "--tenant", "t"): ["version", "workflow", "tree"],
        ("--agent", "a@1", "--tenant", "t", "--workflow", "w", "--ancestor", "run-0"): [],
    }
    with running(tmp_path, roles=("viewer",)) as switch:
        for said, unknown in lacking.items():
            details = zip(said[::2], said[1::2], strict=True)
            query = urlencode([(name.removeprefix("--"), value) for name, value in details])
            assert rescind("lease", "run-of-nobody", *said, "--json").json["unknown"] == unknown
            assert switch.look(f"/v1/leases/run-of-nobody?{query}")["unknown"] == unknown


def test_revocations_here_and_at_a_switch_count_together_and_each_once(rescind: Rescind, tmp_path: Path) -> None:
    with running(tmp_path, roles=("operator",)) as switch:
        token = tmp_path / "token"
        token.write_text(switch.tokens["operator"])
        Path("rescind.yaml").write_text(f"store: store\nswitch:\n  urls: [{switch.url}]\n")
        at = ["--token-file", str(token)]
        rescind("contain", "run:run-1", "--revoke", *at)  # at both
        rescind("contain", "tenant:acme", "--revoke", "--switch", switch.url, *at)  # there alone
        told = rescind("lease", "run-1", "--json", *at).json

    assert (told["valid"], told["fencing_number"]) == (False, 3)

    gone = rescind("lease", "run-1", "--switch", switch.url, "--token-file", str(token))
    assert gone.status == 1
    assert "no switch says whether this run may act" in gone.err


@pytest.mark.parametrize(
    ("words", "says"),
    [(["run+1"], "has a `+`"), ([""], "is empty"), (["run-9", "--agent", "a b"], "cannot read agent")],
)
def test_what_is_no_run_is_refused(rescind: Rescind, words: list[str], says: str) -> None:
    answer = rescind("lease", *words)

    assert answer.status == 2
    assert says in answer.err
