"""What a run may do at all: which actions, on whose data, on which targets, for how much. Found before the call.

    policy_violation:
      actions: ["invoice.*", "customer.read"]    # what any run may call
      tenant_arguments: [customer.tenant]        # arguments that name a tenant, beside the target's own
      only:                                      # what narrows that for some runs
        - {agent: billing-agent, writes: ["invoice.status.*"], targets: ["erp/invoice/*"],
           amounts: {amount: {call_max: 500, run_max: 2000}}}

Each entry that is about a run must allow its call: a further entry only ever takes away.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo, Target
from rescind.triggers.amounts import add, limit_of, sum_of, values_at
from rescind.triggers.bounds import about_run, check_number, check_texts, is_news, shown
from rescind.triggers.detector import ENDS, together
from rescind.triggers.facts import Call, End
from rescind.triggers.patterns import names_matching, targets_matching

AMOUNT_LIMIT_MAX = 1e15
_NO_SUM = Decimal(0)
ENTRIES_MAX = 100


class AmountLimit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds on one argument that is an amount. Signs are left out: -500 moves as much as 500.

    Attributes:
        call_max: The most that one call may have; None for any.
        run_max: The most that the calls of one run may have together; None for any.
        actions: Patterns of the actions that must have this argument: one that leaves it out, or keeps it out of the
            record, is over the limit. None: every action that has such an argument, and no other.
    """

    call_max: float | None = None
    run_max: float | None = None
    actions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("call_max", "run_max"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, AMOUNT_LIMIT_MAX)
        if self.call_max is None and self.run_max is None:
            raise ValueError("an amount without call_max and run_max limits nothing; set one of them")
        if self.actions is not None:
            check_texts("actions", self.actions)


class AllowedFor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What some runs may do.

    Attributes:
        agent: Pattern of the agent, with or without its version.
        workflow: Pattern of the workflow.
        actions: Patterns of actions, reads and writes, that may be called; None for any.
        writes: Patterns of actions that may write; None for any.
        targets: Patterns `SYSTEM/KIND/ID` of what writes may touch; None for anything. A write that names no target is
            then outside.
        amounts: By the argument's name; a dot leads into it, and through a list to each element: `payments.amount`.
    """

    agent: str = "*"
    workflow: str = "*"
    actions: tuple[str, ...] | None = None
    writes: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    amounts: dict[str, AmountLimit] = {}

    def __post_init__(self) -> None:
        check_texts("agent", (self.agent,))
        check_texts("workflow", (self.workflow,))
        for name in ("actions", "writes", "targets"):
            if getattr(self, name) is not None:
                check_texts(name, getattr(self, name))
        check_texts("amounts", tuple(self.amounts), most=ENTRIES_MAX)


class AllowedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs may do.

    Attributes:
        tenant_boundary: Whether a run of one tenant may touch no other tenant's data.
        tenant_arguments: Names of arguments that name a tenant; one that names another than the run's, or none at all
            (None), is outside.
        actions, writes, targets, amounts: For all runs; as in `AllowedFor`.
        only: What narrows that for some runs.
    """

    tenant_boundary: bool = True
    tenant_arguments: tuple[str, ...] = ()
    actions: tuple[str, ...] | None = None
    writes: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    amounts: dict[str, AmountLimit] = {}
    only: tuple[AllowedFor, ...] = ()

    def __post_init__(self) -> None:
        check_texts("tenant_arguments", self.tenant_arguments, most=ENTRIES_MAX)
        if len(self.only) > ENTRIES_MAX:
            raise ValueError(f"only has {len(self.only)} entries; at most {ENTRIES_MAX} are asked at each call")
        self.for_all  # noqa: B018  # it checks its fields

    @property
    def for_all(self) -> AllowedFor:
        """What holds for all runs."""
        return AllowedFor(actions=self.actions, writes=self.writes, targets=self.targets, amounts=self.amounts)


class AllowedDetector:
    """Finds calls that are outside of what their run may do."""

    def __init__(self, config: AllowedConfig) -> None:
        """A detector with these limits."""
        self.config = config
        self._fences = tuple(_Fence(entry) for entry in (config.for_all, *config.only))
        self.tenant_paths = tuple(tuple(name.split(".")) for name in config.tenant_arguments)
        # All runs of one agent and workflow share a tuple of fences.
        self._fences_of = lru_cache(256)(self._fences_about)

    def watch(self, run: RunInfo) -> "AllowedWatch | None":
        """Begin to watch a run; None if nothing is forbidden to it."""
        fences = self._fences_of(run.agent_name, run.agent, run.workflow)
        bounded = bool(run.tenant) and self.config.tenant_boundary
        return AllowedWatch(self, run, fences, bounded) if fences or bounded else None

    def _fences_about(self, agent_name: str, agent: str, workflow: str) -> "tuple[_Fence, ...]":
        return tuple(
            fence
            for fence in self._fences
            if fence.limits and (fence.agent(agent_name) or fence.agent(agent)) and fence.workflow(workflow)
        )


class AllowedWatch:
    """One run, and what it has moved so far."""

    __slots__ = ("_bounded", "_detector", "_fences", "_lock", "_run", "_said", "_sums")

    skips = ENDS

    def __init__(self, detector: AllowedDetector, run: RunInfo, fences: "tuple[_Fence, ...]", bounded: bool) -> None:
        """Nothing has been asked for yet."""
        self._detector, self._run, self._fences, self._bounded = detector, run, fences, bounded
        self._said: dict[int, float] | None = None
        self._sums: dict[_Amount, Decimal] | None = None
        # Only where sums are limited: two calls at the same time must not both have the last of it. A signal's handler
        # may come by here in the middle of it.
        self._lock = threading.RLock() if any(fence.sums for fence in fences) else None

    def asked(self, call: Call) -> Finding | None:
        """Whether the call is outside of what the run may do.

        Its amounts count for the run whatever else is found: only the policy knows whether it is refused.
        """
        found: dict[str, Finding] = {}  # the first of each rule
        other = self._other_tenant(call) if self._bounded else None
        if other is not None:
            found[other.rule] = other
        for fence in self._fences:
            outside = self._outside(fence, call)
            if outside is not None:
                found.setdefault(outside.rule, outside)
            for amount in fence.amounts:
                for over in self._over(amount, call):
                    found.setdefault(over.rule, over)
        return together(tuple(found.values())) if found else None

    def ended(self, end: End) -> Finding | None:
        """Nothing: all of it can be seen before."""

    def _other_tenant(self, call: Call) -> Finding | None:
        own = self._run.tenant
        if call.tenant and call.tenant != own:
            return self._found_tenant(call, call.tenant)
        for path in self._detector.tenant_paths:
            for named in values_at(call.arguments, path):
                if named != own and (type(named) is not int or str(named) != own):
                    return self._found_tenant(call, named)
        return None

    def _outside(self, fence: "_Fence", call: Call) -> Finding | None:
        if fence.actions is not None and not fence.actions(call.action):
            return self._found("action", call, f"{shown(call.action)} is not among the actions it may call")
        return self._write_outside(fence, call) if call.writes else None

    def _write_outside(self, fence: "_Fence", call: Call) -> Finding | None:
        if fence.writes is not None and not fence.writes(call.action):
            return self._found("action", call, f"{shown(call.action)} is not among the actions it may write with")
        if fence.targets is None:
            return None
        if call.target is None:
            return self._found("target", call, f"{shown(call.action)} names no target, and may write only to some")
        if not fence.targets(call.target):
            return self._found("target", call, f"{shown(call.action)} on {shown(call.target)}, where it may not write")
        return None

    def _over(self, amount: "_Amount", call: Call) -> Iterator[Finding]:
        required = amount.required is not None and amount.required(call.action)
        if amount.required is not None and not required:
            return
        if amount.is_plainly_within(call.arguments):
            return
        values = values_at(call.arguments, amount.path)
        if not values:
            if required:
                yield self._found("amount", call, f"{shown(call.action)} gives no {amount.name}")
            return
        value = sum_of(values)
        if value is None:
            detail = f"{shown(call.action)}: {amount.name} cannot be read as an amount"
            yield self._found("amount", call, detail, amount.name)
            return
        if amount.call_max is not None and value > amount.call_max:
            detail = f"{shown(call.action)}: {amount.name} is {value:f}, {amount.call_max:f} is the limit of a call"
            yield self._found("amount", call, detail, amount.name, value)
        over = self._over_in_run(amount, value, call) if amount.run_max is not None else None
        if over is not None:
            yield over

    def _over_in_run(self, amount: "_Amount", value: Decimal, call: Call) -> Finding | None:
        assert amount.run_max is not None
        assert self._lock is not None
        with self._lock:
            if self._sums is None:
                self._sums = {}
            sums = self._sums
            before = sums.get(amount, _NO_SUM)
            total = add(before, value)
            while total <= amount.run_max:
                latest = sums.get(amount, _NO_SUM)
                if latest is before:
                    sums[amount] = total  # nothing is called in between, so that no handler can come by there
                    return None
                # A handler that came by meanwhile has had of it too. We begin again, once for each such handler.
                before, total = latest, add(latest, value)
        detail = f"{shown(call.action)}: {amount.name} would be {total:f} in this run, {amount.run_max:f} is the limit"
        return self._found("amount_per_run", call, detail, amount.name, total)

    def _found_tenant(self, call: Call, named: object) -> Finding:
        own = shown(self._run.tenant)
        detail = f"{shown(call.action)} on data of tenant {shown(named)}, in a run of tenant {own}"
        return self._found("tenant", call, detail)

    def _found(self, rule: str, call: Call, detail: str, argument: str = "", value: Decimal | None = None) -> Finding:
        said = self._said = self._said or {}
        facts: dict[str, Any] = {"action": shown(call.action)}
        if argument:
            facts["argument"] = argument
        if value is not None:
            facts["amount"] = str(value)
        return Finding(
            kind=SignalKind.POLICY_VIOLATION,
            rule=rule,
            severity=Severity.CRITICAL if rule == "tenant" else Severity.HIGH if call.writes else Severity.WARNING,
            scope=about_run(self._run.run_id),
            detail=detail,
            facts=facts,
            again=not is_news(said, (rule, call.action, argument), float(value or 1)),
        )


def revoked_lease(run: RunInfo, action: str, *, order_ids: Iterable[str] = ()) -> Finding:
    """What the gate has found: a run whose lease was revoked goes on asking for calls.

    Args:
        run: The run.
        action: The call that it asked for.
        order_ids: The orders that revoke its lease.
    """
    return Finding(
        kind=SignalKind.POLICY_VIOLATION,
        rule="revoked_lease",
        severity=Severity.CRITICAL,
        scope=about_run(run.run_id),
        detail=f"{shown(action)} was asked for under a lease that has been revoked",
        facts={"action": shown(action), "order_ids": [shown(order_id) for order_id in order_ids][:10]},
    )


class _Amount:
    """An amount's limit, ready to be asked. Compared by identity: two entries that limit one argument count apart."""

    __slots__ = ("_plain_max", "call_max", "name", "path", "required", "run_max")

    def __init__(self, name: str, limit: AmountLimit) -> None:
        self.name, self.path = name, tuple(name.split("."))
        self.call_max = None if limit.call_max is None else limit_of(limit.call_max)
        self.run_max = None if limit.run_max is None else limit_of(limit.run_max)
        self.required: Callable[[str], bool] | None = None if limit.actions is None else names_matching(limit.actions)
        # What most calls have: one number, and no sum to keep. It is compared as it is.
        self._plain_max = limit.call_max if limit.run_max is None and len(self.path) == 1 else None

    def is_plainly_within(self, arguments: Mapping[str, Any]) -> bool:
        """Whether it is a number within its limit, and nothing else has to be known. False tells nothing."""
        if self._plain_max is None:
            return False
        value = arguments.get(self.name)
        return (type(value) is int or type(value) is float) and -self._plain_max <= value <= self._plain_max


class _Fence:
    """One entry, ready to be asked."""

    __slots__ = ("actions", "agent", "amounts", "limits", "sums", "targets", "workflow", "writes")

    def __init__(self, entry: AllowedFor) -> None:
        self.agent, self.workflow = names_matching((entry.agent,)), names_matching((entry.workflow,))
        self.actions = None if entry.actions is None else names_matching(entry.actions)
        self.writes = None if entry.writes is None else names_matching(entry.writes)
        self.targets: Callable[[Target], bool] | None = (
            None if entry.targets is None else targets_matching(entry.targets)
        )
        self.amounts = tuple(_Amount(name, limit) for name, limit in entry.amounts.items())
        self.sums = any(amount.run_max is not None for amount in self.amounts)
        self.limits = (self.actions, self.writes, self.targets) != (None, None, None) or bool(self.amounts)
