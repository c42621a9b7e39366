"""Which cases of a test every run takes, and which `make soak` alone."""

from collections.abc import Iterable, Sequence
from itertools import product

import pytest


def at_length(cases: Iterable) -> list:
    "The first case for every run, the others for `make soak`."
    first, *others = cases
    return [first, *(pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.soak) for c in others)]


def covering(*axes: Iterable) -> list:
    "All combinations: for every run as many as bring in each value of each axis, the others for `make soak`."
    values: Sequence[list] = [list(axis) for axis in axes]
    chosen = [tuple(k % len(axis) for axis in values) for k in range(max(map(len, values)))]
    return [
        pytest.param(
            *(axis[k] for axis, k in zip(values, place, strict=True)),
            marks=() if place in chosen else pytest.mark.soak,
        )
        for place in product(*(range(len(axis)) for axis in values))
    ]
