"""LangGraph: each step carries the checkpoint that its node runs from, so that the world can follow a time travel.

A saver's time travel resets the state of the graph, not the world. With this, `rescind undo --to-checkpoint ID` undoes
what the thread did since that checkpoint, and the graph may then be invoked from there.

    rescind.integrations.langgraph.follow(guard)
    app.invoke(state, {"configurable": {"thread_id": "order-7"}})
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from rescind.errors import UsageError
from rescind.model.step import EngineCheckpoint

if TYPE_CHECKING:
    from rescind.guard.guard import Guard

ENGINE = "langgraph"


def follow(guard: "Guard") -> None:
    """Let every step that this guard records from within a node of a graph carry the node's checkpoint.

    Raises: UsageError, if LangGraph is not installed.
    """
    try:
        import_module("langgraph.config")  # asked for at each step, below
    except ImportError as error:
        raise UsageError("there is no LangGraph to follow; pip install langgraph") from error
    guard.engine_checkpoint = current_checkpoint


def current_checkpoint() -> EngineCheckpoint | None:
    """The checkpoint that the running node's outermost graph goes on from; None outside of one, or without a saver."""
    from langgraph.config import get_config

    try:
        config = cast("dict[str, Any]", get_config())
    except RuntimeError:  # no node is running here
        return None
    configurable: dict[str, Any] = config.get("configurable") or {}
    thread = configurable.get("thread_id")
    # The map has the checkpoint of each graph around the node, by namespace; the outermost has none.
    places: dict[str, Any] = configurable.get("checkpoint_map") or {}
    checkpoint_id = places.get("") or configurable.get("checkpoint_id")
    if not thread or not checkpoint_id:
        return None
    return EngineCheckpoint(engine=ENGINE, thread=str(thread), checkpoint_id=str(checkpoint_id))
