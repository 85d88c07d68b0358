"""Workers of this machine: one that dies or hangs costs its own call alone, and none outlives its driver."""

import os
import subprocess
import sys
import time

import pytest
from tests import tuning_functions as functions

from batchwright.core.errors import InputError
from batchwright.tuning import WorkerLostError, local_executor
from batchwright.tuning.local import check_picklable


def test_a_worker_that_dies_is_told_of_one_call_and_replaced():
    with local_executor(1) as executor:
        first = executor.submit(functions.double, 1)
        lost = executor.submit(functions.die, 2)
        last = executor.submit(functions.double, 3)
        assert first.result() == 2
        with pytest.raises(WorkerLostError, match="killed by SIGKILL"):
            lost.result()
        assert last.result() == 6


def test_a_call_over_its_time_costs_its_worker_and_no_other_call():
    with local_executor(1, limit_s=200.0) as executor:
        assert executor.submit(functions.double, 1).result() == 2
        executor.limit_s = 0.3
        slow = executor.submit(functions.sleep, 60.0)
        with pytest.raises(TimeoutError, match="took longer than"):
            slow.result()
        executor.limit_s = 200.0
        assert executor.submit(functions.double, 2).result() == 4


def test_a_shut_down_executor_ends_what_runs():
    executor = local_executor(1)
    assert executor.submit(functions.double, 1).result() == 2
    running = executor.submit(functions.sleep, 60.0)
    time.sleep(0.2)
    start = time.monotonic()
    executor.shutdown(wait=True, cancel_futures=True)
    assert time.monotonic() - start < 20
    with pytest.raises(WorkerLostError):
        running.result()


def test_what_cannot_travel_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"objective must be picklable.*'file.py:make_task'"):
        check_picklable(lambda values: 0.0, "objective")
    check_picklable(functions.bowl, "objective")


def test_a_killed_driver_takes_its_workers_with_it():
    code = (
        "import os, signal, sys\n"
        "from batchwright.tuning import local_executor\n"
        "if __name__ == '__main__':\n"
        "    executor = local_executor(1)\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    import time\n"
        "    executor.submit(time.sleep, 300)\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200)
    worker = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        # It is this process's to bury where the system hands orphans to it.
        time.sleep(0.1)
    pytest.fail("the worker lives on")
