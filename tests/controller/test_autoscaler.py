from dataclasses import replace

import pytest
from modelyard.controller.autoscaler import History, decide
from modelyard.controller.types import Demand

SCALING = {"minReplicas": 0, "maxReplicas": 4, "targetConcurrency": 8, "scaleDownDelay": "60s"}
HEARD = 1000.0
LONG_AFTER = 2000.0


def history(*peaks, heard=HEARD):
    told = History(heard)
    for time, load in peaks:
        told = told.add(time, load, 60.0)
    return told


@pytest.mark.parametrize(
    ("current", "ready", "demand", "to"),
    [
        (0, 0, Demand(queued=1), 1),  # a held request wakes it
        (0, 0, Demand(), None),
        (1, 1, Demand(in_flight=8), None),
        (1, 1, Demand(in_flight=9), 2),
        (1, 1, Demand(in_flight=8, queued=17), 4),  # in one step
        (1, 1, Demand(queued=1000), 4),  # never above the most
        (3, 1, Demand(in_flight=8, queued=12), None),  # replicas that start count
        (3, 3, Demand(), 0),
        (3, 3, Demand(in_flight=1), 1),
        (3, 2, Demand(), None),  # never while one loads
        (7, 7, Demand(), 4),  # the bounds hold at once
    ],
)
def test_the_number_follows_the_demand(make_model, current, ready, demand, to):
    decision = decide(make_model(scaling=SCALING), current, ready, demand, history(), LONG_AFTER)
    assert (decision.to if decision else None) == to


def test_a_scale_down_waits_for_the_highest_demand_of_the_delay_to_pass(make_model):
    model = make_model(scaling=SCALING)
    told = history((1900.0, 20), (1950.0, 9), (1951.0, 0))
    assert decide(model, 3, 3, Demand(), told, 1955.0) is None
    assert decide(model, 3, 3, Demand(), told, 1965.0).to == 2
    assert decide(model, 3, 3, Demand(), told, 2012.0).to == 0


@pytest.mark.parametrize("heard", [None, LONG_AFTER - 59.0])
def test_what_was_not_heard_for_the_whole_delay_scales_nothing_down(make_model, heard):
    assert decide(make_model(scaling=SCALING), 3, 3, Demand(), History(heard), LONG_AFTER) is None
    assert decide(make_model(scaling=SCALING), 1, 1, Demand(queued=9), History(heard), LONG_AFTER).to == 2


def test_a_replica_that_cannot_start_is_not_waited_for(make_model):
    assert decide(make_model(scaling=SCALING), 2, 1, Demand(), history(), LONG_AFTER, failed_replicas=1).to == 0


def test_another_autoscaler_is_left_alone(make_model):
    assert decide(make_model(scaling={"mode": "External"}), 1, 1, Demand(queued=99), history(), LONG_AFTER) is None


def test_a_decision_is_explained(make_model):
    decision = decide(make_model(scaling=SCALING), 0, 0, Demand(in_flight=2, queued=7), history(), 0.0)
    assert (decision.time, decision.from_) == ("1970-01-01T00:00:00Z", 0)
    assert decision.why == "2 in flight and 7 queued, 8 per replica, at most 4"


def test_the_history_stays_small_and_forgets():
    told = History()
    for second in range(10_000):
        told = told.add(float(second), second % 7, 60.0)
    assert len(told.peaks) <= 8
    assert told.peak(9_990.0) == 6
    assert replace(told, peaks=()).peak(0.0) == 0
