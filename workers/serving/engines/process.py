"""What torch and vLLM read from the environment of their process while they are imported."""

from __future__ import annotations

import os
import sys

#: The model's thread shares the interpreter with the event loop and with Kafka's and the registry's clients. Each of its many calls a step waits up to this
#: long to get it back while one of them computes: with Python's own 5 ms a look at the registry stands in the way of everybody's answer.
SWITCH_INTERVAL_S = 0.0005


def prepare_process(threads: int) -> None:
    """Call before anything imports torch: later the number of threads is fixed. What the deployment set already stays.

    Two OpenMP threads on two busy cores wait for each other at every kernel: on a shared machine one is the fastest.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for name, value in {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in our process (workers.serving.engines.vllm_engine)
        "VLLM_CONFIGURE_LOGGING": "0",  # our process formats its own log
        "VLLM_NO_USAGE_STATS": "1",
    }.items():
        os.environ.setdefault(name, value)
