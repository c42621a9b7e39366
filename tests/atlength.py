"""Which cases of a test every run takes, and which `make soak` alone."""

from collections.abc import Iterable

import pytest


def at_length(cases: Iterable) -> list:
    "The first case for every run, the others for `make soak`."
    first, *others = cases
    return [first, *(pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.soak) for c in others)]
