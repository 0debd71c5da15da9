"""Batch norms of parts of a batch and of several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from tests.helpers.runs import run_group
from videovit.config import load_config
from videovit.errors import UserError
from videovit.models import build_model, load_pretrained
from videovit.models.layers.batch_norm import SplitBatchNorm3d, SyncedBatchNorm3d


def test_parts_are_normalized_by_themselves_and_evaluated_together() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, 2, 3, 3) * torch.arange(1.0, 7).view(6, 1, 1, 1, 1)
    norm, parts = SplitBatchNorm3d(4, 2), [nn.BatchNorm3d(4), nn.BatchNorm3d(4)]
    nn.init.normal_(norm.weight)
    for part in parts:
        part.weight = norm.weight
    y = norm(x)
    for i, part in enumerate(parts):
        torch.testing.assert_close(y[i::2], part(x[i::2]))
    means, variances = (torch.stack([getattr(part, f"running_{name}") for part in parts]) for name in ("mean", "var"))
    torch.testing.assert_close(norm.running_mean, means.mean(dim=0))
    torch.testing.assert_close(norm.running_var, (variances + (means - means.mean(dim=0)) ** 2).mean(dim=0))
    whole = nn.BatchNorm3d(4).eval()
    assert set(norm.state_dict()) == set(whole.state_dict())
    whole.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm.eval()(x), whole(x))
    again = SplitBatchNorm3d(4, 2)
    again.load_state_dict(whole.state_dict())
    assert torch.equal(again.part_mean, whole.running_mean.expand(2, 4))
    with pytest.raises(UserError, match=r"BN\.NUM_SPLITS: a batch of 5 clips cannot be divided into 2 parts"):
        norm.train()(x[:5])


def test_processes_share_statistics_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 4, 4) * 3 + 1
    dy = torch.randn(x.shape)
    whole = nn.BatchNorm3d(3)
    leaf = x.clone().requires_grad_()
    y = whole(leaf)
    y.backward(dy)

    def member(rank: int, folder: Path) -> None:
        norm = SyncedBatchNorm3d(3, 0)
        mine = x[2 * rank : 2 * rank + 2].clone().requires_grad_()
        out = norm(mine)
        out.backward(dy[2 * rank : 2 * rank + 2])
        torch.save([out.detach(), mine.grad, norm.running_mean, norm.running_var], folder / f"{rank}.pt")
        alone = SyncedBatchNorm3d(3, 1)(mine)
        torch.testing.assert_close(alone, nn.BatchNorm3d(3)(mine))
        dist.barrier()

    run_group(member, 2, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.testing.assert_close(torch.cat([one[0], two[0]]), y)
    torch.testing.assert_close(torch.cat([one[1], two[1]]), leaf.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one[2], whole.running_mean)
    # PyTorch's running variance is that of a sample, these are of the batch itself, as PySlowFast's.
    n = x.numel() / 3
    torch.testing.assert_close(one[3], 0.9 + 0.1 * (whole.running_var - 0.9) / 0.1 * (n - 1) / n)
    assert torch.equal(one[2], two[2]) and torch.equal(one[3], two[3])


def test_kind_of_norm_follows_the_config_and_keeps_names() -> None:
    common = (
        "MODEL.ARCH slow MODEL.MODEL_NAME ResNet RESNET.WIDTH_PER_GROUP 8 MODEL.NUM_CLASSES 3 DATA.TRAIN_CROP_SIZE 32"
    )

    def built(options: str) -> nn.Module:
        return build_model(load_config(opts=f"{common} {options}".split()))

    plain = built("RESNET.DEPTH 18 RESNET.TRANS_FUNC basic_transform")
    for options, kind in (
        ("BN.NORM_TYPE sub_batchnorm BN.NUM_SPLITS 2", SplitBatchNorm3d),
        ("BN.NORM_TYPE sync_batchnorm BN.NUM_SYNC_DEVICES 4", SyncedBatchNorm3d),
    ):
        model = built(f"RESNET.DEPTH 18 RESNET.TRANS_FUNC basic_transform {options}")
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
        assert {type(m) for m in norms} == {kind}
        assert not load_pretrained(model, plain.state_dict()).missing
        x = torch.randn(2, 3, 8, 32, 32)
        torch.testing.assert_close(model.eval()(x), plain.eval()(x))
