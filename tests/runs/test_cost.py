"What a study takes: formulas against measured jobs, and the estimate before a run."

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toylm
from taskspace.cli import main
from taskspace.errors import TaskspaceError
from taskspace.models.loading import load_lm
from taskspace.pretraining.builtin import builtin_model, builtin_tokenizer
from taskspace.runs.cost import fit_rates, job_cost, measured_costs, Shape, time_terms, with_estimates, Work
from taskspace.runs.estimate import checkpoint_shape, estimate_study, folder_shape, gguf_shape
from taskspace.runs.execute import run_study
from taskspace.runs.jobs import Plan
from taskspace.runs.study import Study


def said(capsys, *args):
    "Exit status, and what the command printed."
    with pytest.raises(SystemExit) as e:
        main([str(a) for a in args])
    return e.value.code, capsys.readouterr()


# -- formulas
def test_formulas_are_within_a_fifth_of_measured_time_and_memory():
    "Measured worst: 19.6 % of jobs over 0.2 s, 21.3 % of all others, 5.5 % of memory."
    found = with_estimates(measured_costs())
    assert found["name"].nunique() == 5 and found["parameters"].max() > 2.5e8
    off = {what: (found[f"estimated_{what}"] / found[what] - 1).abs() for what in ("seconds", "megabytes")}
    assert off["seconds"][found["seconds"] > 0.2].max() < 0.20
    assert ((found["probe"] == "gradient") & (found["name"] == "270m")).sum() >= 3
    assert off["seconds"].max() < 0.25
    assert off["megabytes"].max() < 0.10


def test_rates_are_found_again_where_the_truth_is_known():
    measured = measured_costs()
    true = fit_rates(measured)
    made = with_estimates(measured, true)
    again = fit_rates(made.assign(seconds=made["estimated_seconds"], megabytes=made["estimated_megabytes"]))
    far = Shape(10**9, 50_000, 2048, 16), Work(67, 100, 50, 20, 12)
    for probe in true.seconds:
        assert np.allclose(job_cost(probe, *far, again), job_cost(probe, *far, true), rtol=1e-3), probe


def test_memory_of_gradients_grows_with_the_square_of_the_tasks():
    "A thousand tasks of nano took 3.6 GB with 2 GB allowed for differentials, of which 0.6 GB were used."
    shape, rates = Shape(29_184, 267, 32, 2), fit_rates(measured_costs())
    one, ten = (job_cost("gradient", shape, Work(n, 5, 5, 18, 12), rates).memory for n in (100, 1000))
    assert 3e9 < ten < 5e9 and one < 1e9


def test_a_transfer_job_costs_more_with_each_number():
    shape, work = Shape(10**6, 1000, 100, 4), Work(10, 20, 20, 16, 8)
    base = job_cost("transfer", shape, work, fit_rates(measured_costs())).seconds
    for more in (work._replace(tasks=20), work._replace(pairs=40), work._replace(steps=20)):
        assert job_cost("transfer", shape, more, fit_rates(measured_costs())).seconds > base
    assert time_terms("transfer", shape, work._replace(reference=100)).products > time_terms("transfer", shape, work)[0]


@pytest.mark.parametrize("probe", ["gradient", "predicted", "transfer"])
def test_without_embeddings_a_probe_costs_less(probe):
    shape, work = Shape(270_000_000, 262_144, 640, 18, tied=True), Work(67, 50, 20, 16, 8)
    rates = fit_rates(measured_costs())
    whole, without = (job_cost(probe, shape, work._replace(embeddings=e), rates) for e in (True, False))
    assert without.seconds < 0.95 * whole.seconds  # transfer saves least: .93
    terms = time_terms("gradient", shape, work._replace(embeddings=False))
    passes = 2 * 67 * 50 * (3 * shape.body * 16 + 2 * shape.head * 8)
    assert passes < terms.products < 1.1 * passes + 2 * (67 * 5) ** 2 * 2e6


# -- the size of a model
@pytest.mark.parametrize("scale", ["nano", "micro", "mini", "masked"])
def test_a_saved_model_is_as_large_as_the_loaded_one(scale, tmp_path):
    builtin_model(scale).save_pretrained(tmp_path)
    builtin_tokenizer(scale).save_pretrained(tmp_path)
    lm, shape = load_lm(tmp_path), folder_shape(tmp_path)
    c = lm.model.config
    wanted = (lm.n_parameters, c.vocab_size, c.hidden_size, c.num_hidden_layers)
    assert (shape.parameters, shape.vocabulary, shape.width, shape.layers) == wanted


def test_a_folder_without_a_model_has_no_size(tmp_path):
    assert folder_shape(tmp_path) is None
    (tmp_path / "config.json").write_text('{"vocab_size": 5}')
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    assert folder_shape(tmp_path) is None


def test_a_gguf_file_says_how_large_its_model_is(tmp_path):
    gguf = pytest.importorskip("gguf", reason="GGUF needs taskspace[gguf]")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(3)
    for name, shape in (("token_embd.weight", (50, 8)), ("blk.0.attn_q.weight", (8, 8)), ("output_norm.weight", (8,))):
        writer.add_tensor(name, np.zeros(shape, dtype=np.float16))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    assert gguf_shape(tmp_path / "m.gguf") == Shape(50 * 8 + 8 * 8 + 8, 50, 8, 3, tied=True, bytes=4)
    study = Study(models=[{"name": str(tmp_path), "kwargs": {"gguf_file": "m.gguf"}}])
    assert checkpoint_shape(Plan(study).checkpoints[0]) == gguf_shape(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(b"not one")
    assert gguf_shape(tmp_path / "m.gguf") is None and gguf_shape(tmp_path / "none.gguf") is None


# -- the estimate
@pytest.fixture(scope="module")
def study():
    return Study(
        models=["builtin:nano"],
        select=["reflexive_gender_court", "determiner_noun_court", "reflexive_gender_town"],
        controls=["shuffled"],
        train_pairs=8,
        eval_pairs=8,
        score_pairs=8,
        ftgd={"steps": 2},
    )


@pytest.mark.slow
def test_an_estimate_counts_what_is_done_and_what_is_left(study, tmp_path):
    new = estimate_study(study, tmp_path / "run", workers=3)
    assert not (tmp_path / "run").exists()
    jobs = dict(zip(new.table["probe"], new.table["jobs"], strict=True))
    assert jobs == {"score": 1, "gradient": 1, "transfer": 3, "transfer shuffled": 3}
    assert new.left.sum() == 8 and new.seconds > 0 and 1e8 < new.memory < 2e9
    first = study.model_copy(update={"controls": ()})
    run_study(first, tmp_path / "run", workers=0, progress=False)
    before = sorted(p.name for p in (tmp_path / "run").rglob("*"))
    half = estimate_study(study, tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == before
    assert dict(zip(half.table["probe"], half.left, strict=True)) == dict.fromkeys(jobs, 0) | {"transfer shuffled": 3}
    real = sum(p.stat().st_size for p in (tmp_path / "run" / "results").rglob("*.parquet"))
    done = half.table.assign(all=half.table["bytes"] * half.table["done"])["all"].sum()
    assert real / 2 < done < 2 * real


def test_finished_jobs_correct_the_estimate(study, tmp_path):
    "The log says that each job took a thousand seconds."
    run = run_study(study.model_copy(update={"controls": ()}), tmp_path / "run", workers=0, progress=False)
    lines = [json.loads(line) for line in run.store.log_path.read_text().splitlines()]
    run.store.log_path.write_text("".join(json.dumps({**line, "seconds": 1000.0}) + "\n" for line in lines))
    found = estimate_study(study, tmp_path / "run", workers=2)
    transfer = found.table.set_index("probe")["seconds"]
    assert 500 < transfer["transfer"] <= transfer["transfer shuffled"] < 2000
    assert "corrected by 5 finished jobs" in str(found) and "50 min" in str(found)


def test_a_model_without_files_here_has_no_estimate(tmp_path):
    study = toylm.study(tmp_path, 1)
    assert checkpoint_shape(Plan(study).checkpoints[0]) is None
    text = str(estimate_study(study, tmp_path / "run", workers=1))
    assert (
        "have no estimate: their model is not on this machine, or its files do not tell its size" in text
        and "?" in text
    )


def test_a_probe_without_a_formula_is_named(study, tmp_path):
    "The model is there; it would be wrong to say that it is not."
    more = study.model_copy(update={"probes": ("score", "interchange"), "controls": ()})
    text = str(estimate_study(more, tmp_path / "run", workers=1))
    assert "have no estimate: there is no formula for interchange" in text and "this machine" not in text


def test_dry_run_prints_the_estimate_and_writes_nothing(study, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    code, out = said(capsys, "run", tmp_path / "study.yaml", "--out", tmp_path / "run", "--dry-run", "--workers", 2)
    assert code == 0 and "8 jobs, 0 done, 8 to do" in out.out and "with 2 processes" in out.out
    assert os.listdir(tmp_path) == ["study.yaml"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    code, out = said(capsys, "run", tmp_path / "study.yaml", "--out", tmp_path / "mine", "--dry-run")
    assert code == 2 and "holds something other than a run" in out.err


def test_an_estimate_refuses_what_a_run_refuses(tmp_path):
    with pytest.raises(TaskspaceError, match="has no task .no_such_task."):
        estimate_study(Study(models=["builtin:nano"], select=["no_such_task"]), tmp_path / "run")


def benchmark(name, *args):
    "Run a script of the benchmarks with one thread, and give what it prints."
    script = Path(__file__).parents[2] / "benchmarks" / name
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is reset through /proc")
def test_the_benchmark_of_cost_measures_a_small_model(tmp_path):
    said = benchmark("cost.py", "--quick", "--only", "nano", "--out", tmp_path / "c.csv")
    assert "exponents of time" in said and len((tmp_path / "c.csv").read_text().splitlines()) == 25


@pytest.mark.soak
def test_the_benchmark_for_gpus_runs_on_a_processor(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"good": "the king sleeps", "bad": "the king sleep", "task": "a"}\n' * 2)
    where = ("--pairs", tmp_path / "pairs.jsonl", "--out", tmp_path / "gpu.csv")
    said = benchmark("gpu.py", "--quick", "--device", "cpu", "--no-peer", *where)
    table = (tmp_path / "gpu.csv").read_text()
    for what in ("score built-in", "score file", "gradient probe", "predicted transfer", "transfer", "pre-training"):
        assert what in table, what
    assert "bfloat16 beside float32: margins: rank agreement 0.9" in said and "tokens a second" in said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmark measures in a fork")
def test_the_status_of_many_finished_jobs_takes_a_moment():
    "50,000 jobs; a million takes twenty times as long. Measured: 0.6 s on a busy machine, 300 MB."
    said = benchmark("runs.py", "--scale", "status", "--size", 0.05)
    seconds, megabytes = re.search(r"([\d.]+) s CPU\n[\d,]+ jobs done; peak (\d+) MB", said).groups()
    assert float(seconds) < 3 and int(megabytes) < 600
