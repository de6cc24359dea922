"""Whatever the description allows, and much that it does not: never a 5xx, and refusals are problem documents."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from switch.http.service import RunningSwitch, running

EXAMPLES = 25

ROLES = ("agent", "approver", "peer")


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_no_request_makes_the_switch_fail(mode: GenerationMode, tmp_path_factory: pytest.TempPathFactory) -> None:
    asked: set[str] = set()
    with running(tmp_path_factory.mktemp("described"), roles=ROLES) as switch:
        described: Any = schemathesis.openapi.from_url(f"{switch.url}/openapi.json")
        # A stream has no end that could be waited for.
        for found in described.exclude(path_regex="stream$").get_all_operations():
            operation = found.ok()
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
                continue
            ask_for(operation, mode, switch, asked)
    assert {"POST /v1/orders", "POST /v1/lifts", "POST /v1/peer/records", "PUT /v1/guards/{guard_id}"} <= asked


def ask_for(operation: Any, mode: GenerationMode, switch: RunningSwitch, asked: set[str]) -> None:
    role = "agent" if "/guards/" in operation.path else "peer" if "/peer/" in operation.path else "approver"

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def ask(case: Any) -> None:
        response = case.call(headers={"authorization": f"Bearer {switch.tokens[role]}"}, timeout=20)
        asked.add(operation.label)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"][0].startswith("application/problem+json"), response.text

    ask()
