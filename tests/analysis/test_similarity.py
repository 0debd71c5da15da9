"""Similarity of attention maps: known pairs, direct computation, samples of rows, and layers that share."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_contract import built, inputs
from videovit.analysis import similarity
from videovit.analysis.similarity import MapSimilarity, row_cosines, sharing_candidates
from videovit.models.layers.maps import observe_attention


def random_map(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1)


def test_equal_maps_are_alike_and_disjoint_ones_are_not() -> None:
    map_BMNL = random_map(2, 3, 5, 6)
    cosine, correlation = row_cosines(map_BMNL, map_BMNL)
    torch.testing.assert_close(cosine, torch.ones(2, 3, 5))
    torch.testing.assert_close(correlation, torch.ones(2, 3, 5))
    cosine, correlation = row_cosines(torch.eye(4)[None, None], torch.eye(4).flip(0)[None, None])
    assert cosine.abs().max() == 0 and (correlation < 0).all()


def test_uniform_maps_have_a_cosine_of_one_and_no_correlation() -> None:
    uniform = torch.full((1, 1, 2, 7), 1 / 7)
    cosine, correlation = row_cosines(uniform, uniform)
    torch.testing.assert_close(cosine, torch.ones(1, 1, 2))
    assert correlation.abs().max() == 0
    assert row_cosines(uniform, random_map(1, 1, 2, 7))[1].abs().max() == 0


def test_values_equal_those_of_pytorch() -> None:
    first, second = random_map(2, 3, 5, 6), random_map(2, 3, 5, 6, seed=1)
    cosine, correlation = row_cosines(first, second)
    torch.testing.assert_close(cosine, torch.cosine_similarity(first, second, dim=-1))
    centered = [one - one.mean(-1, keepdim=True) for one in (first, second)]
    torch.testing.assert_close(correlation, torch.cosine_similarity(*centered, dim=-1), atol=1e-5, rtol=1e-4)


def test_all_pairs_of_equal_size_over_batches_and_ranks() -> None:
    maps = {layer: random_map(4, 2, 5, 5 if layer < 3 else 3, seed=layer) for layer in range(4)}
    ranks = [MapSimilarity(), MapSimilarity()]
    for rank, clips in zip(ranks, (slice(0, 1), slice(1, 4)), strict=True):
        for layer, map_BMNL in maps.items():
            rank.update(layer, 0, map_BMNL[clips, :, :2], 5)
            rank.update(layer, 2, map_BMNL[clips, :, 2:], 5)
        rank.end_batch()
    joined = MapSimilarity().merge(ranks)
    assert joined.num_layers == 4
    pairs = joined.pairs()
    assert pairs.keys() == {(0, 1), (0, 2), (1, 2)}
    for (one, two), like in pairs.items():
        expected = torch.cosine_similarity(maps[one], maps[two], dim=-1).mean().item()
        assert like.cosine == pytest.approx(expected, abs=1e-6)


def test_evenly_spaced_rows_are_compared_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "MAX_ROWS", 4)
    maps = [random_map(1, 1, 11, 5, seed=seed) for seed in range(2)]
    found = MapSimilarity()
    for layer, map_BMNL in enumerate(maps):
        for start, stop in ((0, 1), (1, 5), (5, 11)):
            found.update(layer, start, map_BMNL[:, :, start:stop], 11)
    found.end_batch()
    expected = torch.cosine_similarity(maps[0][:, :, ::3], maps[1][:, :, ::3], dim=-1).mean().item()
    assert found.pairs()[0, 1].cosine == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "sharing"), [("PSViT", (0, 1)), ("MViT with shared maps", (2, 3))])
def test_layers_that_share_a_map_are_equal_and_no_candidates(name: str, sharing: tuple[int, int]) -> None:
    model, x = built(name), inputs(name)
    sizes = [one.num_cls + one.queries_BN3.shape[1] for one in model.attention_tokens(x)]
    found = MapSimilarity()
    observe_attention(model, x, lambda layer, query, part: found.update(layer, query, part, sizes[layer]))
    found.end_batch()
    pairs = found.pairs()
    assert pairs[sharing].cosine == pytest.approx(1.0, abs=1e-6)
    candidates = sharing_candidates(pairs)
    assert sharing[1] not in [layer for layer, _ in candidates]
    cosines = [like.cosine for _, like in candidates]
    assert cosines == sorted(cosines, reverse=True) and all(cosine < similarity.SAME for cosine in cosines)
