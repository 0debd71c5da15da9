"""The PSViT supernet: its paths equal stand-alone models, and are drawn uniformly and reproducibly."""

from collections import Counter

import numpy as np
import pytest
import torch

from videovit.errors import UserError
from videovit.models.macs import count_macs, count_params
from videovit.models.pooling_sharing.model import PSViT
from videovit.models.pooling_sharing.plan import PoolingSharingShape, draw_plan, legal_stages, pad_plan, plan_cost
from videovit.models.pooling_sharing.supernet import PSViTSupernet

SHAPE = PoolingSharingShape((16, 32, 48), (2, 4, 4), image_size=36, patch_size=4, num_classes=5)
PATHS = ["BSB---|-B-S--|B-SS-B", "B-----|BBBBBB|--BSSS"]


def supernet(**changes):
    torch.manual_seed(0)
    return PSViTSupernet(**{"shape": SHAPE, "plan": "BSB|BS|B", **changes})


def weights_along_path(model: PSViTSupernet) -> dict[str, torch.Tensor]:
    """The weights of the path by the names of a `PSViT` of the same plan."""
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("basic.", "sharing."))}
    layers = [layer for stage in model.path_layers() for layer in stage]
    for number, (kind, block) in enumerate(layers):
        for name, tensor in block.state_dict().items():
            # A sharing layer on a basic cell's weights leaves its queries and keys unused.
            if kind == "B" or model.sharing is not None or ".qk." not in name:
                state[f"blocks.{number}.{name}"] = tensor
    return state


@pytest.mark.parametrize("sharing_owns", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_path_equals_the_model_of_its_plan(path, sharing_owns):
    model = supernet(sharing_owns=sharing_owns).eval()
    model.set_plan(path)
    alone = PSViT(shape=SHAPE, plan=path).eval()
    alone.load_state_dict(weights_along_path(model))
    images = torch.randn(3, 3, 1, 36, 36)
    torch.testing.assert_close(model(images), alone(images), rtol=0, atol=0)
    for ours, theirs in zip(model.attention_maps(images), alone.attention_maps(images), strict=True):
        assert torch.equal(ours, theirs)
    assert count_macs(model, (1, 3, 1, 36, 36)) == plan_cost(SHAPE, path).macs
    assert count_params(alone) == plan_cost(SHAPE, path).params


@pytest.mark.parametrize("sharing_owns", [True, False])
def test_features_are_those_of_the_path(sharing_owns):
    model = supernet(sharing_owns=sharing_owns).eval()
    model.set_plan(PATHS[1])
    alone = PSViT(shape=SHAPE, plan=PATHS[1]).eval()
    alone.load_state_dict(weights_along_path(model))
    images = torch.randn(3, 3, 36, 36)
    assert torch.equal(model.forward_features(images).tokens_BNC, alone.forward_features(images).tokens_BNC)
    for ours, theirs in zip(model.forward_stages(images), alone.forward_stages(images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sharing_owns", [True, False])
def test_layers_are_cells_whatever_the_path(sharing_owns):
    model = supernet(sharing_owns=sharing_owns)
    before = model.layers_of_parameters()
    model.draw_path(0, 0, 0)
    assert model.layers_of_parameters() == before
    assert model.num_layers == 18
    assert before["pools.0.conv.weight"] == before["basic.1.0.attn.qk.weight"] == 7
    if sharing_owns:
        assert before["sharing.2.5.attn.v.weight"] == before["basic.2.5.attn.v.weight"] == 18


def test_only_the_path_gets_gradients():
    model = supernet()
    model.set_plan(PATHS[0])
    model(torch.randn(2, 3, 1, 36, 36)).sum().backward()
    touched = {
        name.rsplit(".attn.")[0] for name, p in model.named_parameters() if p.grad is not None and ".attn." in name
    }
    assert touched == {
        *("basic.0.0", "sharing.0.1", "basic.0.2", "basic.1.1", "sharing.1.3"),
        *("basic.2.0", "sharing.2.2", "sharing.2.3", "basic.2.5"),
    }


def test_sharing_cells_add_weights_only_if_they_own_them():
    basic, sharing = 12 * 16**2 + 13 * 16, 10 * 16**2 + 11 * 16
    flat = PoolingSharingShape((16,), (2,), image_size=36, patch_size=4, num_classes=5)
    sizes = [count_params(supernet(shape=flat, plan="B", num_cells=3, sharing_owns=own)) for own in (True, False)]
    assert sizes[0] - sizes[1] == 3 * sharing
    assert sizes[1] == plan_cost(flat, "BBB").params == plan_cost(flat, "B").params + 2 * basic


def test_paths_depend_on_seed_epoch_and_step_alone():
    model = supernet()
    state = torch.get_rng_state()

    def path(*position):
        model.draw_path(*position)
        return model.path

    paths = {position: path(*position) for position in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]}
    assert len(set(paths.values())) == 4
    assert all(path(*position) == drawn for position, drawn in paths.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.eval().path == model.plan == "BSB---|BS----|B-----"


def test_legal_plans_are_drawn_uniformly():
    rng = np.random.default_rng(0)
    drawn = Counter(stage for _ in range(3000) for stage in draw_plan(rng, 2, 2).split("|"))
    assert set(drawn) == set(legal_stages(2)) == {"BB", "BS", "B-", "-B"}
    assert all(abs(count - 1500) < 150 for count in drawn.values())  # 4.5 standard deviations


def test_plans_that_do_not_fit_are_refused():
    assert pad_plan("B S-B|B", 2, 4) == "BSB-|B---"
    with pytest.raises(UserError, match="5 layers does not fit into 4 cells"):
        pad_plan("B|BBBBB", 2, 4)
    with pytest.raises(UserError, match="stage 2"):
        supernet().set_plan("B-----|-S----|B-----")
    with pytest.raises(UserError, match="head masks"):
        supernet(shape=PoolingSharingShape((16,), (2,), shared_heads=("10",)), plan="B", sharing_owns=False)
