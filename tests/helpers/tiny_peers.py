"""Other projects' MViTs in the size of this project's tiny models, for tests of the converter."""

from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from torchvision.models.video import mvit as torchvision_mvit

from tests.helpers.mvit_variants import TINY
from videovit.models import expand

PTV_TINY = {
    "spatial_size": 32,
    "temporal_size": 8,
    "depth": 4,
    "patch_embed_dim": 16,
    "embed_dim_mul": TINY["dim_mul"],
    "atten_head_mul": TINY["head_mul"],
    "pool_q_stride_size": TINY["pool_q_stride"],
    "pool_kv_stride_adaptive": TINY["pool_kv_stride_adaptive"],
    "pool_kvq_kernel": TINY["pool_kvq_kernel"],
    "head_num_classes": 5,
}


def torchvision_tiny(schedule, v2):
    """torchvision's MViT with the blocks of one of this project's tiny models."""
    blocks = [
        torchvision_mvit.MSBlockConfig(
            num_heads=s.num_heads,
            input_channels=s.dim,
            output_channels=s.dim_out,
            kernel_q=list(s.kernel_q) if s.pools_q else [],
            kernel_kv=list(s.kernel_kv) if s.pools_kv else [],
            stride_q=list(s.stride_q) if s.pools_q else [],
            stride_kv=list(s.stride_kv) if s.pools_kv else [],
        )
        for s in expand(**schedule)
    ]
    return torchvision_mvit.MViT(
        spatial_size=(32, 32),
        temporal_size=8,
        block_setting=blocks,
        residual_pool=v2,
        residual_with_cls_embed=False,
        rel_pos_embed=v2,
        proj_after_attn=v2,
        num_classes=5,
    )


def timm_tiny(cls_token=False):
    """timm's MViTv2 with few and narrow blocks."""
    cfg = MultiScaleVitCfg(depths=(1, 2, 1), embed_dim=16, stride_q=((1, 1), (2, 2), (2, 2)), use_cls_token=cls_token)
    return MultiScaleVit(cfg, img_size=32, num_classes=5, drop_path_rate=0.0)
