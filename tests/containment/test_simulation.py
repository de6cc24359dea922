"""Many runs at once, and something goes wrong: what is contained, and what is spared. Laws of the whole, over seeds."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from containment.floor import TOOLS, Floor, Turn, Worker, a_floor, healthy
from rescind.containment.incident import list_incidents
from rescind.errors import CallDenied, FanOutBlocked, RunHalted
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.switch.probes import ACTOR as BREAKER

QUICK, SLOW = range(20), range(20, 80)

# --- a rogue run among healthy ones ---

RECORDS_MAX, REPEATS_MAX, WRITES_MAX = 12, 4, 60

POLICY = f"""
policy:
  detect:
    blast_radius: {{records_per_run: {RECORDS_MAX}, records_per_minute: 1000}}
    behaviour: {{repeats_max: {REPEATS_MAX}, mutations_max: {WRITES_MAX}}}
    policy_violation: {{tenant_arguments: [customer]}}
    cross_system_inconsistency: {{failures_min: 5}}  # tools that fail at one call in fifty are the weather here
  respond:
    - {{signal: blast_radius, then: [deny, read_only on %(where)s, incident]}}
    - {{signal: behaviour, then: [deny, read_only on %(where)s, incident]}}
    - {{signal: policy_violation, then: [deny, read_only on %(where)s, incident]}}
"""
WHERES = ("run", "tree", "agent@version", "tenant", "workflow")

AGENTS = ("billing@1", "billing@2", "mail@1")


def touches_many(worker: Worker) -> None:
    """Every write goes to another record."""
    worker.write(worker.floor.random.choice(TOOLS), f"customer-{worker.calls}", 0)


def repeats(worker: Worker) -> None:
    """The same call, over and over."""
    worker.write("mail.send", "customer-1", 0)


def crosses(worker: Worker) -> None:
    """Works for its own tenant, until it takes another's record for its own."""
    if worker.calls < 10:
        healthy(worker)
    else:
        worker.write("erp.update", f"{worker.run.run_id}-0", worker.calls, tenant="globex")


def writes_on(worker: Worker) -> None:
    """Few records, and no end."""
    worker.write(worker.floor.random.choice(TOOLS), f"{worker.run.run_id}-{worker.calls % 3}", worker.calls)


ROGUES: dict[Turn, int] = {touches_many: RECORDS_MAX, repeats: REPEATS_MAX, crosses: 10, writes_on: WRITES_MAX}
"""How it goes wrong, and after how many calls at the latest the next one is refused."""


def among_healthy_ones(floor: Floor) -> Worker:
    rogue = floor.random.choice(list(ROGUES))
    for agent in AGENTS:
        for tenant in ("acme", "globex"):
            for workflow in ("dunning", "billing"):
                floor.open(agent, tenant=tenant, workflow=workflow)
    return floor.open("billing@2", tenant="acme", workflow="billing", turn=rogue)


def check_rogue(seed: int, folder: Path) -> None:
    where = WHERES[seed % len(WHERES)]
    with a_floor(seed, folder, POLICY % {"where": where}) as floor:
        rogue = among_healthy_ones(floor)
        spared = [worker for worker in floor.workers if worker is not rogue]
        while not floor.standing():
            assert rogue.calls < ROGUES[rogue.turn] + 2, "it goes on and on"
            floor.turns(1, [*spared, *[rogue] * 5])  # it is in a hurry
            if not floor.standing():
                assert not any(worker.refused for worker in spared)
        floor.turns(300)

        assert len(rogue.records) <= RECORDS_MAX
        assert rogue.turn is not touches_many or len(rogue.records) + sum(rogue.failed.values()) == RECORDS_MAX
        assert not [record for _, record in rogue.records if not record.startswith((rogue.run.run_id, "customer"))]
        held = floor.standing()
        assert {order.measure for order in held} == {Measure.LEVEL}
        assert len(held) == 1, [(order.what, order.reason) for order in held]
        assert rogue.level() is Level.READ_ONLY
        for worker in spared:
            if not worker.is_within(held):
                assert not worker.refused, f"{worker.run.info} is another, and lost a write"
                assert sum(worker.done.values()) + sum(worker.failed.values()) > 0
            else:
                assert where not in ("run", "tree"), "only the one was to be held"
        assert len(list_incidents(floor.guard.journal)) == 1


@pytest.mark.parametrize("seed", QUICK)
def test_a_rogue_run_is_contained_and_healthy_ones_lose_no_write(seed: int, tmp_path: Path) -> None:
    check_rogue(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_a_rogue_run_is_contained_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    check_rogue(seed, tmp_path)


# --- a coordinator that hands out bad work ---

CHILDREN_MAX = 6

COORDINATOR = f"""
policy:
  detect:
    blast_radius: {{children_per_run: {CHILDREN_MAX}, children_per_minute: 100}}
    behaviour: off
    rates: off
    policy_violation: {{amounts: {{value: {{call_max: 1000}}}}}}
  respond:
    - {{signal: blast_radius, then: [deny, isolate on tree]}}
    - {{signal: policy_violation, then: [deny, isolate on root]}}
"""


def routes(floor: Floor, router: Worker, *, with_aides: bool) -> list[Worker]:
    """It starts some workers, which start aides of their own."""
    workers = [floor.spawn(router, "worker@1") for _ in range(3)]
    return [*workers, *(floor.spawn(worker, "aide@1") for worker in workers if with_aides)]


def hands_out_too_much(floor: Floor, router: Worker) -> None:
    """A worker for each of many, and then more of them."""
    with pytest.raises((CallDenied, RunHalted)):
        for _ in range(CHILDREN_MAX + 1):
            floor.turn(floor.spawn(router, "worker@1"))


def hands_out_bad_work(floor: Floor, router: Worker) -> None:
    """What its workers are told is beyond what anybody may do. None of them has done it before."""
    below = [worker for worker in floor.workers if router.run.run_id in worker.run.info.ancestors]
    worker = floor.random.choice(below)
    assert not floor.write_as(worker, "shelf.put", "customer-1", 5_000)


def check_coordinator(seed: int, folder: Path) -> None:
    with a_floor(seed, folder, COORDINATOR, failed_ratio=0.0) as floor:
        families: dict[Worker, list[Worker]] = {}
        for _ in range(3):
            router = floor.open("router@1", workflow="intake")
            families[router] = routes(floor, router, with_aides=bool(seed % 3))
        alone = floor.open("worker@1", workflow="intake")
        floor.turns(100)
        bad = floor.random.choice(list(families))
        floor.random.choice([hands_out_too_much, hands_out_bad_work])(floor, bad)

        held = floor.standing()
        assert {order.measure for order in held} == {Measure.QUARANTINE, Measure.BLOCK_FAN_OUT}
        assert {str(order.scope) for order in held} == {f"tree:{bad.run.run_id}"}
        touched = len(floor.effects)
        for worker in [bad, *families[bad]]:
            assert not floor.write_as(worker, "shelf.put", "customer-2", 1)
            with pytest.raises((CallDenied, RunHalted)):
                floor.spawn(worker, "worker@1")
        with pytest.raises((CallDenied, RunHalted)):
            floor.open("worker@1", parent=bad.run.run_id)  # from another process, say
        assert len(floor.effects) == touched

        spared = [
            alone,
            *(each for router, below in families.items() if router is not bad for each in (router, *below)),
        ]
        floor.turns(150, spared)
        for router in families:
            if router is not bad:
                floor.turn(floor.spawn(router, "worker@1"))
        assert not any(worker.refused for worker in spared), "they have nothing to do with it"


@pytest.mark.parametrize("seed", range(5))
def test_where_only_the_fan_out_is_blocked_those_that_are_there_go_on(seed: int, tmp_path: Path) -> None:
    with a_floor(seed, tmp_path, COORDINATOR.replace("isolate", "block_fan_out"), failed_ratio=0.0) as floor:
        bad, other = (floor.open("router@1", workflow="intake") for _ in range(2))
        below = routes(floor, bad, with_aides=True)
        hands_out_bad_work(floor, bad)
        refused = floor.refused()

        for worker in (bad, *below):
            with pytest.raises(FanOutBlocked):
                floor.spawn(worker, "worker@1")
        with pytest.raises(FanOutBlocked):
            floor.open("worker@1", parent=bad.run.run_id)
        floor.turns(100)
        floor.turn(floor.spawn(other, "worker@1"))
        assert floor.refused() == refused


@pytest.mark.parametrize("seed", QUICK)
def test_a_coordinator_that_hands_out_bad_work_is_isolated_and_the_rest_goes_on(seed: int, tmp_path: Path) -> None:
    check_coordinator(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_a_coordinator_is_isolated_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    check_coordinator(seed, tmp_path)


# --- an outage of a tool ---

OUTAGE = """
policy:
  detect:
    behaviour: {steps_max: 100000, mutations_max: 100000}
    rates: {cooldown_seconds: 120, probes: 2}
    cross_system_inconsistency: {failures_min: %d}
"""


def at_work(seed: int, folder: Path) -> AbstractContextManager[Floor]:
    """A floor under the built-in policy; with tools that fail now and then, it takes more to be out of order."""
    weather = 0.02 if seed % 2 else 0.0
    return a_floor(seed, folder, OUTAGE % (5 if weather else 2), failed_ratio=weather)


def people(floor: Floor) -> None:
    for agent in AGENTS:
        for tenant in ("acme", "globex"):
            for workflow in ("dunning", "billing"):
                floor.open(agent, tenant=tenant, workflow=workflow)
    floor.turns(200)
    assert floor.standing() == ()


def check_outage(seed: int, folder: Path) -> None:
    with at_work(seed, folder) as floor:
        people(floor)
        down, at_random = floor.random.choice(TOOLS), floor.fails
        floor.fails = lambda run, action: action == down or at_random(run, action)
        floor.turns(600)

        opened = floor.guard.orders.history().orders
        assert opened, "nobody noticed"
        assert {order.measure for order in opened} == {Measure.TRIP}, [(order.what, order.reason) for order in opened]
        assert {order.scope.actions for order in opened} == {frozenset({down})}, "other tools go on"

        floor.fails = at_random
        for _ in range(40):
            if floor.standing():
                floor.turns(100)
        assert floor.standing() == (), "the breakers did not close"
        assert {lift.actor for lift in floor.lifts()} == {BREAKER}
        floor.clock.advance(61)  # those that met it first were held for a minute
        for worker in floor.workers:
            floor.fails = lambda *_: False
            assert floor.write_as(worker, down, f"{worker.run.run_id}-0", 1_000), "something is held that nothing lifts"


@pytest.mark.parametrize("seed", QUICK)
def test_an_outage_of_a_tool_contains_no_run_and_its_breakers_come_back_by_themselves(
    seed: int, tmp_path: Path
) -> None:
    check_outage(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_an_outage_contains_no_run_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    check_outage(seed, tmp_path)


def check_one_that_fails(seed: int, folder: Path) -> None:
    with a_floor(seed, folder, OUTAGE % 2, failed_ratio=0.0) as floor:
        people(floor)
        (broken, *others), bad, at_random = floor.workers, floor.random.choice(TOOLS), floor.fails
        floor.fails = lambda run, action: (run is broken.run and action == bad) or at_random(run, action)
        floor.turns(900)

        assert broken.level() is Level.READ_ONLY, "only this one fails where others succeed"
        for order in floor.guard.orders.history().orders:
            assert order.scope.covers(broken.run.info.subject, bad), order.what
            assert not any(order.scope.covers(each.run.info.subject) for each in others), order.what
        for worker in others:
            if worker.run.info.agent != broken.run.info.agent:
                assert not worker.refused, f"a breaker that is not its own holds {worker.run.info}"


@pytest.mark.parametrize("seed", QUICK)
def test_a_run_that_alone_fails_on_a_tool_is_contained_and_the_tool_goes_on_for_others(
    seed: int, tmp_path: Path
) -> None:
    check_one_that_fails(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_a_run_that_alone_fails_is_contained_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    check_one_that_fails(seed, tmp_path)


# --- what a person has lifted ---


@pytest.mark.parametrize("seed", QUICK)
def test_what_a_person_has_lifted_is_not_held_again_for_what_was_before(seed: int, tmp_path: Path) -> None:
    with a_floor(seed, tmp_path, POLICY % {"where": WHERES[seed % len(WHERES)]}, failed_ratio=0.0) as floor:
        people_and_one = [*(floor.open(agent) for agent in AGENTS), floor.open("mail@1", workflow="w")]
        rogue = people_and_one[-1]
        rogue.turn = touches_many
        while not floor.standing():
            floor.turns(1)
        (order,) = floor.standing()
        floor.lift_by_ann(order.order_id)

        known = min(record for _, record in rogue.records)
        assert floor.write_as(rogue, "mail.send", known, 1) or (("mail", known) not in rogue.records)
        rogue.turn = healthy_with_what_it_has
        floor.turns(60)

        assert floor.standing() == ()
        assert len(rogue.records) == RECORDS_MAX
        assert rogue.level() is Level.NORMAL


def healthy_with_what_it_has(worker: Worker) -> None:
    """Writes to what it has touched already."""
    system, record = worker.floor.random.choice(sorted(worker.records))
    action = next(action for action in TOOLS if action.startswith(system))
    assert worker.write(action, record, worker.calls + 1_000)


@pytest.mark.parametrize("seed", QUICK)
def test_a_breaker_that_a_person_has_reset_stays_closed_while_the_tool_is_well(seed: int, tmp_path: Path) -> None:
    with at_work(seed, tmp_path) as floor:
        people(floor)
        down, at_random = floor.random.choice(TOOLS), floor.fails
        floor.fails = lambda run, action: action == down or at_random(run, action)
        while not floor.standing():
            floor.turns(1)
        floor.fails = at_random
        floor.lift_by_ann(*(order.order_id for order in floor.standing()))
        refused = floor.refused()
        floor.turns(200)

        assert floor.standing() == ()
        held_for_a_while = floor.refused() - refused
        assert held_for_a_while <= 20, "but for those that met the outage first, everybody goes on"
