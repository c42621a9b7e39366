"""Export all notebooks, write what packages hand on, and clean the notebooks; fail, and name the files, when that
changed anything."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent


def digests() -> dict[str, str]:
    "Path -> digest of all notebooks and exported modules."
    paths = [*TOP.glob("taskspace/**/*.py"), *TOP.glob("nbs/**/*.ipynb")]
    paths = [p for p in paths if ".ipynb_checkpoints" not in p.parts]
    return {str(p.relative_to(TOP)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def main() -> None:
    before = digests()
    for command in (["nbdev_export"], [sys.executable, "tools/packages.py"], ["nbdev_clean"]):
        subprocess.run(command, cwd=TOP, check=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    after = digests()
    moved = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    if moved:
        sys.exit("out of step with the notebooks, or not clean (they are now; commit them):\n" + "\n".join(moved))
    print(f"{len(after)} notebooks and modules are clean and in step")


if __name__ == "__main__":
    main()
