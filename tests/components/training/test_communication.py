"""What is waited for other ranks is counted once, and leaves the phase that it happened in. The clock is the test's."""

from types import SimpleNamespace

import pytest

from components.training import communication, telemetry


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now

    def goes_on(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for module in (communication, telemetry):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=made))
    communication.take()
    return made


@pytest.fixture
def backend(clock):
    """Like DeepSpeed's: one operation is made of another, one goes on beside the caller."""

    class Work:
        done = "not yet"

        def wait(self):
            clock.goes_on(4.0)
            return "waited"

    class Backend:
        def all_reduce(self, value):
            clock.goes_on(2.0)
            return value

        def reduce(self, value):
            return self.all_reduce(value)

        def all_gather(self, value):
            return Work()

        def size(self):
            clock.goes_on(8.0)

    made = Backend()
    communication.watch(made)
    communication.watch(made)  # of a second engine
    return made


def test_operations_are_counted_once_and_nothing_else(backend):
    assert backend.all_reduce(3) == 3
    assert communication.take() == 2.0
    backend.reduce(3)
    backend.size()
    assert communication.take() == 2.0
    assert communication.take() == 0.0


def test_waiting_for_a_promise_counts_too(backend):
    work = backend.all_gather(3)
    assert communication.take() == 0.0
    assert work.done == "not yet"
    assert work.wait() == "waited"
    assert communication.take() == 4.0


def test_an_operation_that_fails_is_counted_and_so_is_the_next(backend, clock):
    def fails():
        clock.goes_on(1.0)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        communication.timed(fails)()
    backend.all_reduce(1)
    assert communication.take() == 3.0


def test_it_is_a_phase_of_its_own(backend, clock):
    backend.all_reduce(1)  # before the step, which it is no part of
    measured = telemetry.Telemetry(0.0, 0.0)
    with measured.step():
        clock.goes_on(5.0)
        backend.all_reduce(1)
        measured.mark("backward")
    found = measured.metrics(10)
    assert (found["seconds/backward"], found["seconds/communication"], found["seconds/step"]) == (5.0, 2.0, 7.0)
