"""Build sdist and wheel, install the wheel in a clean environment, and run the demo from there in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TEMPLATES = {p.name for p in (TOP / "nbs" / "studies").glob("*.ipynb")}
ASSETS = {p.name for p in (TOP / "taskspace" / "assets").iterdir()}


def run(*command: str | Path, cwd: Path = TOP) -> str:
    "Run a command and give what it printed; say what it printed when it fails."
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE")) and k != "VIRTUAL_ENV"}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def complete(names: list[str], what: str) -> None:
    "Fail unless templates, assets and the type marker are among the files."
    held = {Path(n).name for n in names}
    missing = sorted(({"py.typed", "pairs.py"} | TEMPLATES | ASSETS) - held)
    if missing:
        sys.exit(f"the {what} lacks {', '.join(missing)}")


def main() -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="taskspace-package-") as tmp:
        work, dist = Path(tmp), Path(tmp) / "dist"
        # build from a copy of what git knows, as a stranger would have it
        files = run("git", "ls-files", "-z").split("\0")
        for name in filter(None, files):
            if not (TOP / name).is_file():
                continue
            (work / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TOP / name, work / "source" / name)
        run(sys.executable, "-m", "build", "--outdir", dist, cwd=work / "source")
        wheel, sdist = next(dist.glob("*.whl")), next(dist.glob("*.tar.gz"))
        complete(zipfile.ZipFile(wheel).namelist(), "wheel")
        with tarfile.open(sdist) as held:
            complete(held.getnames(), "sdist")
        env, empty = work / "env", work / "empty"
        empty.mkdir()
        run(sys.executable, "-m", "venv", env)
        run(env / "bin" / "pip", "install", "--quiet", "--no-compile", "--constraint", TOP / "constraints.txt", wheel)
        installed = time.monotonic()
        where = run(env / "bin" / "python", "-c", "import taskspace; print(taskspace.__file__)", cwd=empty).strip()
        if not where.startswith(str(env)):
            sys.exit(f"the clean environment imports taskspace from {where}")
        out = run(env / "bin" / "taskspace", "demo", "--quick", "--out", "report", cwd=empty)
        page = empty / out.strip().splitlines()[-1].removeprefix("Report: ")
        if not page.is_file():
            sys.exit(f"the demo printed no page that exists:\n{out}")
        print(
            f"sdist and wheel build and hold everything; installed in {installed - start:.0f} s, "
            f"quick demo in {time.monotonic() - installed:.0f} s"
        )


if __name__ == "__main__":
    main()
