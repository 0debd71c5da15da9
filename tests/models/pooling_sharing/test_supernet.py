"""The PSViT supernet: its paths are stand-alone models, drawn equally often and alike everywhere."""

from collections import Counter

import numpy as np
import pytest
import torch

from videovit.models import attention_maps
from videovit.models.macs import count_macs, count_params
from videovit.models.pooling_sharing.model import PSViT
from videovit.models.pooling_sharing.plan import PlanError, PsvitShape, draw_plan, legal_stages, pad_plan, plan_cost
from videovit.models.pooling_sharing.supernet import PSViTSupernet

SHAPE = PsvitShape((16, 32, 48), (2, 4, 4), image_size=36, patch_size=4, num_classes=5)
PATHS = ["BSB---|-B-S--|B-SS-B", "B-----|BBBBBB|--BSSS"]


def supernet(**changes):
    torch.manual_seed(0)
    return PSViTSupernet(**{"shape": SHAPE, "plan": "BSB|BS|B", **changes})


@pytest.mark.parametrize("sharing_owns", [True, False])
@pytest.mark.parametrize("path", PATHS)
def test_path_equals_the_model_of_the_same_plan_with_the_same_weights(path, sharing_owns):
    model = supernet(sharing_owns=sharing_owns).eval()
    model.set_plan(path)
    alone = PSViT(shape=SHAPE, plan=path).eval()
    alone.load_state_dict(model.weights_along_path())
    images = torch.randn(3, 3, 1, 36, 36)
    torch.testing.assert_close(model(images), alone(images), rtol=0, atol=0)
    for ours, theirs in zip(attention_maps(model, images), attention_maps(alone, images), strict=True):
        assert torch.equal(ours, theirs)
    assert count_macs(model, (1, 3, 1, 36, 36)) == plan_cost(SHAPE, path).macs
    assert count_params(alone) == plan_cost(SHAPE, path).params


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


def test_sharing_cells_cost_weights_only_where_they_own_them():
    basic, sharing = 12 * 16**2 + 13 * 16, 10 * 16**2 + 11 * 16
    flat = PsvitShape((16,), (2,), image_size=36, patch_size=4, num_classes=5)
    sizes = [count_params(supernet(shape=flat, plan="B", num_cells=3, sharing_owns=own)) for own in (True, False)]
    assert sizes[0] - sizes[1] == 3 * sharing
    assert sizes[1] == plan_cost(flat, "BBB").params == plan_cost(flat, "B").params + 2 * basic


def test_paths_are_a_function_of_seed_epoch_and_step():
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


def test_all_legal_plans_are_drawn_equally_often():
    rng = np.random.default_rng(0)
    drawn = Counter(stage for _ in range(3000) for stage in draw_plan(rng, 2, 2).split("|"))
    assert set(drawn) == set(legal_stages(2)) == {"BB", "BS", "B-", "-B"}
    assert all(abs(count - 1500) < 150 for count in drawn.values())  # 4.5 standard deviations


def test_plans_become_cells():
    assert pad_plan("B S-B|B", 2, 4) == "BSB-|B---"
    with pytest.raises(PlanError, match="5 layers does not fit into 4 cells"):
        pad_plan("B|BBBBB", 2, 4)
    with pytest.raises(PlanError, match="stage 2"):
        supernet().set_plan("B-----|-S----|B-----")
    with pytest.raises(PlanError, match="head masks"):
        supernet(shape=PsvitShape((16,), (2,), shared_heads=("10",)), plan="B", sharing_owns=False)
