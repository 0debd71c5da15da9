"""Entropy and distance of attention: closed forms, direct computation, streaming, and every family of models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.models.test_contract import CASES, CONVOLUTIONAL, built, inputs
from videovit.analysis.attention import AttentionStatistics, attention_distance, distances, entropy
from videovit.models.contract import AttentionModel, AttentionTokens, centers
from videovit.models.layers.maps import observe_attention

GRID = (2, 3, 4)
WITH_MAPS = [name for name in CASES if not name.startswith(CONVOLUTIONAL)]


def random_map(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).mul(2).softmax(-1)


def mean_difference(n: int) -> float:
    """Mean of |i - j| / n over all pairs of n places."""
    return (n * n - 1) / (3 * n) / n


def test_uniform_attention_has_entropy_log_n_and_the_mean_distance() -> None:
    positions = centers(GRID)
    N = positions.shape[1]
    uniform = torch.full((2, 3, N, N), 1 / N)
    torch.testing.assert_close(entropy(uniform), torch.full((3,), math.log(N)))
    t, y, x = map(mean_difference, GRID)
    found = attention_distance(uniform, distances(positions, positions))
    torch.testing.assert_close(found, torch.tensor([y + x, t, t + y + x])[:, None].expand(3, 3))


def test_identity_attention_has_zero_entropy_and_distance() -> None:
    positions = centers(GRID)
    identity = torch.eye(positions.shape[1]).expand(2, 3, -1, -1)
    assert entropy(identity).abs().max() == 0
    for norm in ("l1", "l2"):
        assert attention_distance(identity, distances(positions, positions, norm)).abs().max() == 0


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_statistics_equal_loops_over_queries_and_keys(norm: str) -> None:
    """With one class token, pooled keys, and positions that differ from clip to clip."""
    B, M, num_cls = 2, 3, 1
    queries = centers(GRID) + torch.rand(B, 1, 3) / 10
    keys = centers((1, 2, 2)).expand(B, -1, -1)
    N, L = queries.shape[1], keys.shape[1]
    map_BMNL = random_map(B, M, num_cls + N, num_cls + L)
    statistics = AttentionStatistics(norm)
    statistics.update(0, 0, map_BMNL, AttentionTokens(num_cls, queries, keys))
    (found,) = statistics.layers()
    entropy_M, distance_KM, cls_M = torch.zeros(M), torch.zeros(3, M), torch.zeros(M)
    for b in range(B):
        for m in range(M):
            for i in range(N):
                row = map_BMNL[b, m, num_cls + i]
                cls_M[m] += row[0] / (B * N)
                a = row[1:] / row[1:].sum()
                for j in range(L):
                    t, y, x = (queries[b, i] - keys[b, j]).abs().tolist()
                    space = y + x if norm == "l1" else math.hypot(y, x)
                    joint = space + t if norm == "l1" else math.sqrt(t * t + y * y + x * x)
                    entropy_M[m] -= a[j] * a[j].log() / (B * N)
                    distance_KM[:, m] += a[j] * torch.tensor([space, t, joint]) / (B * N)
    torch.testing.assert_close(found.entropy_M.float(), entropy_M)
    torch.testing.assert_close(found.distance_KM.float(), distance_KM)
    torch.testing.assert_close(found.cls_share_M.float(), cls_M)
    assert (found.num_queries, found.num_keys) == (N, L)
    assert found.uniform_entropy == pytest.approx(math.log(L))


def test_streaming_equals_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over batches, parts of maps, chunks of rows and ranks."""
    positions = centers(GRID)
    tokens = AttentionTokens(1, positions, positions)
    N = positions.shape[1] + 1
    map_BMNL = random_map(5, 2, N, N)
    whole = AttentionStatistics()
    whole.update(0, 0, map_BMNL, tokens)
    monkeypatch.setattr("videovit.analysis.attention._CHUNK", 7 * N)
    ranks = [AttentionStatistics(), AttentionStatistics()]
    for rank, clips in zip(ranks, (map_BMNL[:2], map_BMNL[2:]), strict=True):
        for clip in clips.split(2):
            rank.update(0, 0, clip[:, :, :1], tokens)  # the class token alone, as in MViT
            rank.update(0, 1, clip[:, :, 1:9], tokens)
            rank.update(0, 9, clip[:, :, 9:], tokens)
    (expected,), (found,) = whole.layers(), AttentionStatistics().merge(ranks).layers()
    assert (found.num_queries, found.num_keys) == (expected.num_queries, expected.num_keys)
    for name in ("entropy_M", "distance_KM", "cls_share_M", "uniform_K"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-6, rtol=1e-6)


def test_a_row_that_attends_to_the_class_token_alone_counts_as_zero() -> None:
    positions = centers((1, 1, 2))
    map_BMNL = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])[None, None]
    statistics = AttentionStatistics()
    statistics.update(0, 0, map_BMNL, AttentionTokens(1, positions, positions))
    (found,) = statistics.layers()
    assert found.entropy_M.item() == 0 and found.distance_KM.abs().max() == 0 and found.cls_share_M.item() == 1


@pytest.mark.parametrize("name", WITH_MAPS)
def test_tokens_of_every_family_fit_its_maps(name: str) -> None:
    model, x = built(name), inputs(name)
    assert isinstance(model, AttentionModel)
    tokens, maps = model.attention_tokens(x), model.attention_maps(x)
    assert len(tokens) == len(maps)
    statistics = AttentionStatistics()
    observe_attention(model, x, lambda layer, query, part: statistics.update(layer, query, part, tokens[layer]))
    for here, map_BMNL, layer in zip(tokens, maps, statistics.layers(), strict=True):
        queries, keys = here.queries_BN3, here.keys_BL3
        assert map_BMNL.shape[2:] == (here.num_cls + queries.shape[1], here.num_cls + keys.shape[1])
        assert queries.shape[0] == keys.shape[0] and queries.shape[0] in (1, map_BMNL.shape[0])
        assert queries.min() > -0.1 and queries.max() < 1.1 and 0 < keys.mean() < 1
        weights = map_BMNL[:, :, here.num_cls :, here.num_cls :]
        weights = weights / weights.sum(-1, keepdim=True)
        torch.testing.assert_close(layer.entropy_M.float(), entropy(weights), atol=1e-4, rtol=1e-4)
        expected = attention_distance(weights, distances(queries, keys))
        torch.testing.assert_close(layer.distance_KM.float(), expected, atol=1e-4, rtol=1e-4)


def test_pooled_keys_are_at_the_centers_of_their_cells() -> None:
    model, x = built("MViT"), inputs("MViT")  # first block: stride 4 over an 8 x 8 grid; class token
    first = model.attention_tokens(x)[0]
    assert first.queries_BN3.shape[1] == 4 * 8 * 8 and first.keys_BL3.shape[1] == 4 * 2 * 2
    assert first.keys_BL3[0, :4, 1:].tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]
    assert first.queries_BN3[0, 0].tolist() == [1 / 8, 1 / 16, 1 / 16]


def test_tokens_of_sequence_pooling_are_at_the_patch_in_the_middle() -> None:
    """1d pooling of 1 class token and 16 patches, kernel 3: windows around elements 0, 2, 4, ... of the sequence."""
    model = built("PSViT", "PSVIT.CLS joint PSVIT.HEAD_INPUT mean")
    first, *_, last = model.attention_tokens(inputs("PSViT"))
    patches = centers((1, 4, 4))[0]
    assert torch.equal(first.queries_BN3[0], patches) and first.num_cls == last.num_cls == 1
    assert torch.equal(last.queries_BN3[0], patches[[1, 3, 5, 7, 9, 11, 13, 15]])


def test_tokens_of_a_ps_vit_are_at_its_sampling_points() -> None:
    model, x = built("PS_ViT"), inputs("PS_ViT")
    points_IBN3 = model.sampling_points(x)
    tokens = model.attention_tokens(x)
    sides = torch.tensor([x.shape[2], 8, 8])
    for i, here in enumerate([*tokens[:2], tokens[2]]):
        expected = (points_IBN3[min(i, 1)] + torch.tensor([0.5, 0, 0])) / sides
        torch.testing.assert_close(here.queries_BN3, expected)
    torch.testing.assert_close(tokens[0].queries_BN3[0], centers((8, 3, 3))[0])
