"""The active share: exact products, the planted share, honest intervals, the same figure by every way to compute it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from taskspace.probing import differentials
from taskspace.probing.differentials import collect_differentials, Fold, Moments
from taskspace.probing.gradient import distribution, gradient_probe, participation_table, WITHOUT
from taskspace.probing.participation import active_share, block_moments
from taskspace.runs.formats import frame_to_spaces, from_bytes, spaces_to_frame, to_bytes
from taskspace.toy import toy_lm, toy_suite
from taskspace.tuning.ftgd import FTGD


def world(active: float, noise: float, blocks: int, size: int, seed: int, common: float = 0.0) -> torch.Tensor:
    """Blocks of a sparse normal signal. `noise` is the squared norm of the mean's noise over that of the signal. A part
    of it, `common`, lies in few directions, as the noise of words does."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(size)
    signal[: round(active * size)] = rng.normal(size=round(active * size))
    spread = np.sqrt(noise * active * blocks)
    noise_of_blocks = np.sqrt(1 - common) * rng.normal(size=(blocks, size))
    if common:
        directions = rng.normal(size=(20, size)) / np.sqrt(20)
        noise_of_blocks += np.sqrt(common) * rng.normal(size=(blocks, 20)) @ directions
    return torch.from_numpy(signal + spread * noise_of_blocks)


def found(blocks: torch.Tensor):
    return active_share(*block_moments(blocks), blocks.shape[1])


@pytest.mark.parametrize("blocks", [4, 5, 7])
def test_products_are_those_of_a_naive_loop(blocks, monkeypatch):
    monkeypatch.setattr("taskspace.probing.participation._PIECE", 3)
    x = torch.randn(blocks, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram, fourth = block_moments(x)

    def naive(kept):
        return sum(float(torch.stack([x[b] for b in four]).prod(0).sum()) for four in combinations(kept, 4))

    everything = list(range(blocks))
    expected = [naive(everything), *(naive([b for b in everything if b != out]) for out in everything)]
    assert np.allclose(fourth, expected, atol=1e-12) and np.allclose(gram, x @ x.T)


@pytest.mark.parametrize("active", [0.02, 0.1, 0.3])
def test_the_planted_share_is_found_at_a_signal_to_noise_of_a_half(active):
    share = found(world(active, 2.0, 5, 1_500_000, seed=0)).share
    assert abs(share / active - 1) < 0.05  # worst of 8 worlds, of which these are 3: 0.027


def test_intervals_cover_the_planted_share():
    held, told = 0, 0
    for seed in range(200):
        it = found(world(0.1, 1.0, 5, 5000, seed, common=0.5))
        told += np.isfinite(it.low)
        held += it.low <= 0.1 <= it.high
        assert not np.isfinite(it.low) or it.low <= it.share <= it.high
    assert told > 150 and held / told >= 0.93  # measured: 0.984, of 191 worlds


def test_noise_alone_has_no_share():
    told = [np.isfinite(found(torch.randn(5, 5000, dtype=torch.float64)).share) for _ in range(100)]
    assert sum(told) == 0


def every_way(memory: int, width):
    lm, suite = toy_lm(), toy_suite()
    return participation_table(collect_differentials(lm, suite, FTGD(), blocks=5, memory=memory, width=width))


def test_folded_tensors_and_those_in_a_file_give_the_same_shares():
    whole = every_way(2 << 30, None)
    for folded in (every_way(2 << 30, 101), every_way(1000, 101)):  # held in memory, then in a file
        assert folded[["task", "part", "size"]].equals(whole[["task", "part", "size"]])
        assert np.allclose(folded.iloc[:, 3:], whole.iloc[:, 3:], rtol=1e-9, equal_nan=True)
    assert whole.share.notna().any()


def test_parts_have_their_own_shares_and_fewer_blocks_have_none():
    lm, suite = toy_lm(), toy_suite()
    spaces = gradient_probe(lm, suite, blocks=5)
    sizes = spaces.participation.drop_duplicates("part").set_index("part")["size"]
    assert sizes["all"] == lm.n_parameters == sizes[WITHOUT] + sizes["embedding"]
    assert sizes[WITHOUT] == sizes[["attention", "mlp", "norm"]].sum()
    table = spaces.distribution
    whole = spaces.participation.query("part == 'all'").set_index("task")
    assert table.active_share.equals(whole.share.rename("active_share").reindex(table.index))
    few = distribution(collect_differentials(lm, suite, blocks=3))
    assert few.active_share.isna().all() and few.effective_share.notna().all()


def test_a_stored_result_keeps_the_shares():
    spaces = gradient_probe(toy_lm(), toy_suite(), blocks=5)
    again = frame_to_spaces(from_bytes(to_bytes(spaces_to_frame(spaces), {}))[0])
    for name in ("participation", "distribution"):
        old, new = getattr(spaces, name), getattr(again, name)
        assert list(old.columns) == list(new.columns) and list(old.index) == list(new.index)
        numbers = old.select_dtypes("number").columns
        assert np.allclose(old[numbers], new[numbers].astype(float), rtol=1e-9, equal_nan=True)


def test_moments_of_blocks_in_a_file_are_read_in_pieces(monkeypatch):
    "Against whole blocks in memory, with tensors that are no multiple of a piece."
    monkeypatch.setattr(differentials, "_HELD", 7)
    fold = Fold({"folded": 100, "whole": 5}, width=11)
    rng = torch.Generator().manual_seed(0)
    blocks = {n: torch.randn(5, size, generator=rng) for n, size in fold.sizes.items()}
    in_file = Moments(2, 5, fold, memory=0)
    for task in (1, 1):  # the second time replaces the first
        for block in range(5):
            in_file.hold(block, "folded", blocks["folded"][block])
        in_file.sum_up(task, blocks)
    assert in_file.file is not None and not in_file.grams[0].any()
    for k, whole in enumerate(blocks.values()):
        gram, fourth = block_moments(whole)
        assert np.allclose(in_file.grams[1, k], gram, rtol=1e-12) and np.allclose(in_file.fourths[1, k], fourth)
