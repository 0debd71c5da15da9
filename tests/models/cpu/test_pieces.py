"""Each piece of fast inference against the same thing written plainly."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videovit.models.cpu import cache, transformer
from videovit.models.cpu.cache import Cache, held, hold_for_block
from videovit.models.cpu.linear import FastLinear, fast_linear
from videovit.models.layers import scaled_dot_product as attention


def noise(*size, seed=0, dtype=torch.float32):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain_attention(q, k, v, scale):
    scores = torch.einsum("bnmd,blmd->bmnl", q, k) * scale
    return torch.einsum("bmnl,blmd->bnmd", scores.softmax(-1), v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attend", [attention.attend, transformer.fast_attend, transformer.attend_by_head])
@pytest.mark.parametrize("grad", [True, False])
def test_attention_routes_agree(attend, dtype, grad, monkeypatch):
    if grad and attend is transformer.attend_by_head:
        pytest.skip("for inference alone")
    monkeypatch.setattr(transformer, "_CHUNK_SCORES", 2500)  # two chunks of 75 queries
    monkeypatch.setattr(transformer, "_FEW_SCORES", 0)
    q, k, v = (noise(2, n, 3, d, seed=n).to(dtype).requires_grad_(grad) for n, d in ((150, 16), (40, 16), (41, 12)))
    v = v[:, :40]
    expected = plain_attention(q.float(), k.float(), v.float(), 0.3)
    with torch.set_grad_enabled(grad):
        got = attend(q, k, v, 0.3)
    tolerance = 2e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=0)
    if grad and dtype == torch.float32:
        dy = noise(*expected.shape)
        torch.testing.assert_close(
            torch.autograd.grad(got, (q, k), dy), torch.autograd.grad(expected, (q, k), dy), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("works", [True, False])
def test_heads_are_computed_apart_if_that_is_faster(works, monkeypatch):
    monkeypatch.setattr(transformer, "onednn_beats_mkl", lambda: works)
    by_head = []
    monkeypatch.setattr(transformer, "attend_by_head", lambda q, *_: by_head.append(q.shape[1]))
    for num_q, num_k in ((400, 400), (1, 400), (100, 100)):
        q, k = noise(1, num_q, 2, 16), noise(1, num_k, 2, 16)
        with torch.no_grad():
            transformer.fast_attend(q, k, k, 0.3)
        transformer.fast_attend(q.requires_grad_(), k, k, 0.3)  # a gradient needs the ordinary route
    assert by_head == ([400] if works else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_packed_linear_equals_plain(dtype, gelu, bias):
    x, weight = noise(3, 5, 24).to(dtype), noise(32, 24, seed=1).to(dtype)
    b = noise(32, seed=2).to(dtype) if bias else None
    expected = F.linear(x.double(), weight.double(), None if b is None else b.double())
    expected = (F.gelu(expected) if gelu else expected).to(dtype)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.02}
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(fast_linear(x, weight, b, Cache(), "w", gelu=gelu), expected, **tolerance)


def fast_layer(dim, dim_out):
    layer = nn.Linear(dim, dim_out)
    layer.__class__, layer.kept = FastLinear, Cache()
    return layer


def test_a_fast_layer_has_gradients():
    layer, x = fast_layer(16, 8), noise(4, 16)
    with torch.no_grad():
        expected = F.gelu(layer(x))
    torch.testing.assert_close(layer(x, gelu=True), expected, atol=1e-5, rtol=1e-5)
    layer(x, gelu=True).sum().backward()
    assert layer.weight.grad.any() and layer.bias.grad.any()


def test_kept_tensors_are_made_once_and_not_copied():
    kept, weight, calls = Cache(), torch.nn.Parameter(torch.ones(3)), []

    def compute():
        calls.append(1)
        return weight * 2

    with torch.inference_mode():
        made = kept("twice", compute, size=1)
        assert kept("twice", compute, size=1) is made
        assert kept("twice", compute, size=2) is not made
    assert len(calls) == 2 and len(kept) == 1
    assert not made.is_inference() and not made.requires_grad
    assert len(copy.deepcopy(kept)) == len(pickle.loads(pickle.dumps(kept))) == 0


def test_large_weights_are_converted_once_per_block():
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no products in bf16, for which weights are converted")
    layer = fast_layer(1024, 512)
    x = noise(3, 1024)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        with hold_for_block():
            first, second = layer(x), layer(x)
            assert [(t.shape, t.dtype) for t in cache._HELD.tensors.values()] == [(layer.weight.shape, torch.bfloat16)]
            assert torch.equal(first, second)
        assert cache._HELD.tensors is None
        assert torch.equal(layer(x), first)  # outside of a block it is converted for this call
        assert cache._HELD.tensors is None
        assert all(t.numel() < layer.weight.numel() for _, t in layer.kept._kept.values())
    torch.testing.assert_close(first.float(), layer(x), atol=0.05, rtol=0.02)


def test_a_failing_block_holds_nothing_afterwards():
    with pytest.raises(RuntimeError), hold_for_block():
        held("key", lambda: torch.ones(1))
        raise RuntimeError
    assert cache._HELD.tensors is None


def test_threads_hold_tensors_of_their_own():
    kept, made = Cache(), torch.ones(1)

    def infer(thread):
        with torch.no_grad():
            for step in range(3000):
                assert kept((thread, step % 7), lambda: made) is made
                with hold_for_block():
                    own = torch.full((1,), float(thread))
                    assert held("same key", lambda own=own: own) is own

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(infer, range(4)))
    finally:
        sys.setswitchinterval(interval)
