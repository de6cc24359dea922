"""The table: how a program is ended."""

import itertools

import pytest

from rescind.switch.supervisor.machine import Action, Fact, State, next_state


def walk(*facts: Fact) -> tuple[State, list[Action]]:
    state, actions = State.RUNNING, list[Action]()
    for fact in facts:
        state, action = next_state(state, fact)
        actions.append(action)
    return state, actions


@pytest.mark.parametrize(("state", "fact"), list(itertools.product(State, Fact)))
def test_only_nothing_left_ends_and_it_ends_from_everywhere(state: State, fact: Fact) -> None:
    after, _ = next_state(state, fact)
    assert (after is State.ENDED) == (state is State.ENDED or fact is Fact.NOTHING_LEFT)


def test_an_unwanted_program_is_asked_once_and_killed_when_waiting_is_useless() -> None:
    state, actions = walk(Fact.UNWANTED, Fact.UNWANTED, Fact.LEADER_LEFT, Fact.USELESS_TO_WAIT)
    assert state is State.KILLING
    assert actions == [Action.ASK, Action.NOTHING, Action.NOTHING, Action.KILL]


def test_killing_goes_on_until_nothing_is_left() -> None:
    state, actions = walk(Fact.UNWANTED, Fact.USELESS_TO_WAIT, Fact.STILL_THERE, Fact.STILL_THERE, Fact.NOTHING_LEFT)
    assert state is State.ENDED
    assert actions == [Action.ASK, Action.KILL, Action.KILL, Action.KILL, Action.NOTHING]


def test_what_a_program_leaves_behind_is_asked_and_killed_like_itself() -> None:
    assert walk(Fact.LEADER_LEFT, Fact.USELESS_TO_WAIT) == (State.KILLING, [Action.ASK, Action.KILL])


def test_nobody_who_is_only_running_is_ever_killed() -> None:
    assert walk(Fact.STILL_THERE, Fact.USELESS_TO_WAIT) == (State.RUNNING, [Action.NOTHING, Action.NOTHING])
