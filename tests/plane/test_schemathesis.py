"""Whatever the description allows, and much that it does not: never a 5xx, and refusals are problem documents."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from plane.served import Served

EXAMPLES = 25


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_no_request_makes_the_server_fail(mode: GenerationMode, shared: Served) -> None:
    described: Any = schemathesis.openapi.from_url(f"{shared.url}/openapi.json")
    asked: set[str] = set()
    for found in described.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
            continue
        ask_for(operation, mode, shared, asked)
    assert {"POST /v1/impact", "POST /v1/undos/{plan}/pause", "POST /v1/reviews/{task_id}/resolution"} <= asked


def ask_for(operation: Any, mode: GenerationMode, served: Served, asked: set[str]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    def ask(case: Any) -> None:
        response = case.call(headers={"authorization": f"Bearer {served.tokens['approver']}"}, timeout=20)
        asked.add(operation.label)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"][0].startswith("application/problem+json"), response.text

    ask()
