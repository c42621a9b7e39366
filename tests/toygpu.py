"""What a worker process does that only says which GPU it was given; without torch, so that it starts quickly."""

import os


def meet(barrier):
    "Wait for the other workers, so that none does two jobs; then who this one is and what it sees."
    barrier.wait(timeout=120)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")
