"""Shared by all tests: one torch thread, no network, no progress bars."""

import os
import socket
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

torch.set_num_threads(1)

LOCAL = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()}
asked: list[str] = []  # hosts of elsewhere that a test wanted to reach
_addresses = socket.getaddrinfo


def _local_addresses(host, *args, **kwargs):
    "Addresses of this machine only: a library that retries makes a test slow, and its result depends on the network."
    name = host.decode() if isinstance(host, bytes) else host
    if name in LOCAL:
        return _addresses(host, *args, **kwargs)
    asked.append(name)
    raise socket.gaierror(socket.EAI_NONAME, f"tests have no network: {name}")


socket.getaddrinfo = _local_addresses


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    "A test that asks for a host of elsewhere fails."
    asked.clear()
    yield
    if asked:
        pytest.fail(f"asks the network for {', '.join(sorted(set(asked)))}; say what the library shall find instead")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with `run`, a finished run of two tiny untrained models, and `report`, its report.
    It is made once for all processes that test."""
    from taskspace.files import locked
    from taskspace.report.site import render_report
    from taskspace.runs.execute import run_study
    from toysite import tiny_study

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    with locked(f"{folder}.lock"):
        if not (folder / "report" / "index.html").exists():
            run = run_study(tiny_study(folder / "models"), folder / "run", workers=0, progress=False)
            render_report(run, folder / "report", progress=False)
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Path:
    """The report of a run whose names are markup, code and parts of JavaScript, in a folder with braces in its name.
    It is made once for all processes that test."""
    from taskspace.files import locked
    from taskspace.report.site import render_report
    from taskspace.runs.execute import run_study
    from toysite import hostile_study

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "hostile {model}"
    with locked(folder.with_name("hostile.lock")):
        if not (folder / "report" / "index.html").exists():
            run = run_study(hostile_study(folder / "models"), folder / "run", workers=0, progress=False)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TASKSPACE_SECRET", "s3cr3t")
                render_report(run, folder / "report", progress=False)
    return folder / "report"
