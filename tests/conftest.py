"""Shared by all tests: one torch thread, no network, no progress bars."""

import os
import socket
from collections.abc import Callable
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
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    "Makes what is in a folder once for all processes that test: `once(name, make)` gives the folder."
    from taskspace.files import locked

    base = tmp_path_factory.getbasetemp()

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        with locked(folder.with_name(f"{name}.lock")):
            if not folder.with_name(f"{name}.made").exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                folder.with_name(f"{name}.made").touch()
        return folder

    return made


@pytest.fixture(scope="session")
def tiny(once) -> Path:
    "A folder with `run`, a finished run of two tiny untrained models, and `report`, its report."
    from taskspace.report.site import render_report
    from taskspace.runs.execute import run_study
    from toysite import tiny_study

    def make(folder: Path) -> None:
        run = run_study(tiny_study(folder / "models"), folder / "run", workers=0, progress=False)
        render_report(run, folder / "report", progress=False)

    return once("tiny", make)


@pytest.fixture(scope="session")
def hostile(once) -> Path:
    "The report of a run whose names are markup, code and parts of JavaScript, in a folder with braces in its name."
    from taskspace.report.site import render_report
    from taskspace.runs.execute import run_study
    from toysite import hostile_study

    def make(folder: Path) -> None:
        run = run_study(hostile_study(folder / "models"), folder / "run", workers=0, progress=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TASKSPACE_SECRET", "s3cr3t")
            render_report(run, folder / "report", progress=False)

    return once("hostile {model}", make) / "report"
