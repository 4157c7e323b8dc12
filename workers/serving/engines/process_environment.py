"""Environment variables and interpreter settings that torch and vLLM read while they are imported."""

from __future__ import annotations

import os
import sys

#: The model's thread shares the interpreter with the event loop and with the clients of Kafka and the registry. Each of its many calls a step waits up to
#: this long for the interpreter while another thread computes. With Python's default of 5 ms one poll of the registry delays every answer.
SWITCH_INTERVAL_S = 0.0005


def prepare_process(threads: int) -> None:
    """Call before torch is imported: later the number of threads is fixed. Keeps variables that are set already.

    Two OpenMP threads on two busy cores wait for each other at every kernel, so one thread is the fastest on a shared machine.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for name, value in {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process (workers.serving.engines.vllm_engine)
        "VLLM_CONFIGURE_LOGGING": "0",  # this process formats its own log
        "VLLM_NO_USAGE_STATS": "1",
    }.items():
        os.environ.setdefault(name, value)
