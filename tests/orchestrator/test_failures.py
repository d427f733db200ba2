"""One line that says why: from what Ray, the kernel, torch and Python leave behind."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
import torch

from orchestrator.failures import essence, is_full_disk, reason_of
from orchestrator.trial.worker import describe
from tasks.api import InputError

# As Ray 2.60 words it.
MONITOR = """Task was killed due to the node running low on memory.
Memory on the node (IP: 10.0.0.1, ID: abc) where the lease (actor ID: d) was running was 28.00GB / 32.00GB (0.875), \
which exceeds the memory usage threshold of 0.85. Top 2 memory users:
PID\tMEM(GB)\tCOMMAND
4711\t20.00\tray::_Trainable
4712\t1.50\tray::_Trainable
"""
KERNEL = """The actor died unexpectedly before finishing this task. Worker exit type: SYSTEM_ERROR Worker exit detail:
Worker unexpectedly exits with a connection error code 2. There are some potential root causes. (1) The process is \
killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called."""


def test_the_memory_monitor_names_the_worker_and_the_node():
    assert reason_of(MONITOR, peak=10**9, pid=4711) == (
        "out of memory on the host: the worker's peak was 21.5 GB of a node with 30.1 of 34.4 GB in use"
    )


def test_of_a_worker_that_the_monitor_does_not_list_its_own_peak_is_told():
    assert "the worker's peak was 3.0 GB of a node" in reason_of(MONITOR, peak=3 * 10**9, pid=99)


def test_of_an_item_of_a_map_nobody_knows_the_peak():
    assert reason_of(MONITOR, peak=0, pid=None) == "out of memory on the host: a node with 30.1 of 34.4 GB in use"


def test_a_kill_without_a_word_is_not_called_out_of_memory():
    reason = reason_of(KERNEL, peak=2 * 10**9, pid=1)
    assert reason.startswith("its worker was killed, which held 2.0 GB when last heard of")
    assert "by hand, by the kernel" in reason


def test_the_essence_is_the_exception_or_the_first_line():
    assert essence("Traceback (most recent call last):\n  File x\nValueError: no") == "ValueError: no"
    assert essence("\nthe node is gone\nmore about it\n") == "the node is gone"
    assert essence(" \n") == "no reason was given"


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_full_disk_is_one_by_its_number(number, full):
    assert is_full_disk(OSError(number, "x")) is full


def test_out_of_memory_on_the_gpu_says_the_trials_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 78 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    assert describe(torch.OutOfMemoryError("CUDA out of memory")) == (
        "out of memory on the GPU: the trial's peak was 78.0 of 80.0 GiB"
    )


def test_other_errors_are_told_as_python_tells_them():
    assert describe(MemoryError()).startswith("out of memory on the host: the worker's peak was ")
    assert describe(InputError("this photo is no photo")) == "this photo is no photo"
    assert describe(KeyError("x")) == "KeyError: 'x'"
