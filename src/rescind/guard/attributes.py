"""A run's attributes, from what a caller wrote."""

from rescind.errors import UsageError
from rescind.model.scope import unnameable
from rescind.model.step import RunInfo, parse_agent


def new_info(
    *,
    run_id: str,
    agent: str,
    tenant: str,
    workflow: str,
    session: str,
    trace_id: str,
    ancestors: tuple[str, ...],
) -> RunInfo:
    """A run's attributes from what a caller wrote.

    Raises: UsageError, if the agent cannot be read, or an attribute could not be named in a scope.
    """
    try:
        name, version = parse_agent(agent)
    except ValueError as error:
        raise UsageError(str(error)) from error
    texts = {"run_id": run_id, "tenant": tenant, "workflow": workflow, "session": session, "trace_id": trace_id}
    for what, value in (*texts.items(), *(("parent", each) for each in ancestors)):
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
            raise UsageError(f"{what} is a text, not {value!r}")
        problem = unnameable(value) if what in ("run_id", "tenant", "workflow") else ""
        if problem:
            raise UsageError(f"{what} {value!r} {problem}, so no order could name it; choose another")
    return RunInfo(
        run_id=run_id,
        agent_name=name,
        agent_version=version,
        tenant=tenant,
        workflow=workflow,
        session=session,
        trace_id=trace_id,
        ancestors=ancestors,
    )
