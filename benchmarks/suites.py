"""How fast suites are read: a million pairs in one Parquet file, and many small files in a folder.

    python benchmarks/suites.py                      a million pairs; 87 languages of three files each, made here
    python benchmarks/suites.py --folder NAME:DIR    a suite of your own, as load_suite takes it

Measured on one busy core: a million pairs take 13 s of processor time and 0.6 GiB; the 87 languages of MultiBLiMP that
have at least 30 pairs a task (237 files, 21,865 pairs) take 0.9 s. The limits are 30 s and 3 GB, and 5 s."""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import pandas as pd

from taskspace.tasks.catalogue import load_suite


def million(file: Path, pairs: int = 10**6) -> str:
    "Write so many pairs of 100 tasks."
    number = pd.Series(range(pairs)).astype(str)
    columns = {"task": "t" + (pd.Series(range(pairs)) % 100).astype(str), "phenomenon": "p", "pair": number}
    good = "The cat number " + number + " sleeps on the mat near the door."
    pd.DataFrame({**columns, "good": good, "bad": good.str.replace("sleeps", "sleep")}).to_parquet(file)
    return str(file)


def many(folder: Path, languages: int = 87, pairs: int = 90) -> str:
    "Write a folder of so many languages with three files each."
    for k in range(languages):
        (folder / f"l{k:02}").mkdir(parents=True)
        for point in ("SV-#", "SV-P", "SV-G"):
            good = [f"Предложение {k} {point} {i} подходит." for i in range(pairs)]
            frame = pd.DataFrame({"sen": good, "wrong_sen": [g.replace("подходит", "подходят") for g in good]})
            frame.assign(phenomenon=point, lang=f"l{k:02}").to_csv(folder / f"l{k:02}" / f"{point}.tsv", sep="\t")
    return f"multiblimp:{folder}"


def measure(name: str) -> None:
    "Read a suite, and print what that took."
    wall, cpu = time.perf_counter(), time.process_time()
    suite = load_suite(name)
    spent = f"{time.perf_counter() - wall:.1f} s, {time.process_time() - cpu:.1f} s of processor time"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{suite}: {spent}, {memory:.2f} GiB at most so far", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="a suite to read, e.g. multiblimp:DIR")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if chosen.folder:
            measure(chosen.folder)
        else:
            measure(many(Path(place) / "languages"))
            measure(million(Path(place) / "million.parquet"))
