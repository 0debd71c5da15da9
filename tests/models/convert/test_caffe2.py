"""Caffe2's weights: arrays under its names load, and a pickle with anything else is refused without being run."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.mvit_variants import clip, perturb
from videovit.config import load_config
from videovit.models import CheckpointError, build_model, load_pretrained
from videovit.models.contract import VideoModel
from videovit.models.convert.read import read_file

TWO = "RESNET.NUM_BLOCK_TEMP_KERNEL [[3,3],[4,4],[6,6],[3,3]] MODEL.ARCH slowfast MODEL.MODEL_NAME SlowFast"
NETWORKS = {
    "slow": "MODEL.ARCH slow MODEL.MODEL_NAME ResNet NONLOCAL.LOCATION [[[]],[[1,3]],[[]],[[]]] RESNET.DEPTH 50",
    "slowfast": f"{TWO} RESNET.DEPTH 50",
    "x3d": "MODEL.ARCH x3d MODEL.MODEL_NAME X3D RESNET.TRANS_FUNC x3d_transform X3D.DIM_C5 32 X3D.BN_LIN5 True",
}
NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def built(name: str) -> VideoModel:
    common = "MODEL.NUM_CLASSES 5 MODEL.DROPOUT_RATE 0.0 DATA.NUM_FRAMES 8 DATA.TRAIN_CROP_SIZE 32 "
    return build_model(load_config(opts=f"{common} RESNET.WIDTH_PER_GROUP 8 {NETWORKS[name]}".split()))


def blob(name: str) -> str:
    """Caffe2's name of a tensor, from SlowFast's."""
    path, _, last = name.rpartition(".")
    for pattern, new in (
        (r"s1\.pathway(\d)_stem\.conv(_xy)?", r"\1conv1\2"),
        (r"s1\.pathway(\d)_stem\.bn", r"\1res_conv1_bn"),
        (r"s1_fuse\.(bn|conv_f2s)", r"1pool1_subsample_\1"),
        (r"s(\d)_fuse\.(bn|conv_f2s)", r"1res\1_3_branch2c_bn_subsample_\2"),
        (r"s(\d)\.pathway(\d)_res(\d+)\.branch1(_bn)?", r"\2res\1_\3_branch1\4"),
        (r"s(\d)\.pathway(\d)_res(\d+)\.branch2\.se\.fc(\d)", r"\2res\1_\3_branch2b_bn_fc\4"),
        (r"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])(_bn)?", r"\2res\1_\3_branch2\4\5"),
        (r"s(\d)\.pathway0_nonlocal(\d+)\.(?:conv_)?(\w+)", r"0nonlocal_conv\1_\2_\3"),
        (r"head\.projection", "0pred"),
        (r"head\.((?:conv|lin)_5(?:_bn)?)", r"0\1"),
    ):
        if match := re.fullmatch(pattern, path):
            path = match.expand(new).removesuffix("_conv_f2s")
            break
    else:
        raise AssertionError(name)
    pathway, path = path[0], path[1:]
    is_norm = path.endswith("_bn") and "fc" not in path
    return ("t_" if pathway == "1" else "") + f"{path}_{NORM[last] if is_norm else last[0]}"


def blobs_of(model: VideoModel) -> dict[str, Any]:
    state = {n: t.numpy() for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    linear = re.compile(r"\.fc[12]\.weight|(conv|lin)_5\.weight")
    named = {blob(n): a.reshape(a.shape[:2]) if linear.search(n) else a for n, a in state.items()}
    return {**named, "pred_w_momentum": np.zeros(3, np.float32), "lr": np.ones(1, np.float32), "model_iter": np.ones(1)}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_has_the_logits_of_its_arrays(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, model, path = built(name), built(name), tmp_path / "weights.pkl"
    perturb(source)
    path.write_bytes(pickle.dumps({"blobs": blobs_of(source), "note": "text"}, protocol=2))
    report = load_pretrained(model, path)
    assert report.source == "caffe2" and not (report.skipped or report.resized)
    assert all(n.endswith("num_batches_tracked") for n in report.missing)
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        expected = source.eval()(x)
        assert torch.equal(model.eval()(x), expected) and expected.std() > 0


def test_names_of_published_files() -> None:
    """As PySlowFast's converter translates them."""
    from videovit.models.convert.caffe2 import from_caffe2

    names = {
        "t_res4_5_branch2c_bn_subsample_bn_riv": "s4_fuse.bn.running_var",
        "t_pool1_subsample_w": "s1_fuse.conv_f2s.weight",
        "res4_4_branch2c_bn_b": "s4.pathway0_res4.branch2.c_bn.bias",
        "t_res_conv1_bn_rm": "s1.pathway1_stem.bn.running_mean",
        "nonlocal_conv3_1_theta_w": "s3.pathway0_nonlocal1.conv_theta.weight",
        "nonlocal_conv4_5_bn_s": "s4.pathway0_nonlocal5.bn.weight",
        "pred_b": "head.projection.bias",
        "something_w": "something_w",
    }
    assert list(from_caffe2({name: torch.zeros(1) for name in names})) == list(names.values())


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def _array(kind: str, shape: tuple[int, ...], data: Any) -> Any:
    """An array as Python 2 pickles it, or not quite."""

    class Array:
        def __reduce__(self) -> Any:
            rebuild = np.zeros(1).__reduce__()[0]
            return rebuild, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(kind), False, data)

    return Array()


def test_arrays_of_python_2_and_of_other_byte_orders(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "pred_w": _array("<f4", (2, 3), values.tobytes().decode("latin1")),
        "pred_b": _array(">f4", (2, 3), values.astype(">f4").tobytes()),
        "conv1_w": np.asfortranarray(values),
    }
    path = tmp_path / "old.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    state = read_file(path)["model_state"]
    assert all(np.array_equal(tensor.numpy(), values) for tensor in state.values()) and len(state) == 3


def test_hostile_pickles_are_refused_and_run_nothing(tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "hostile.pkl"
    text = f"open({str(witness)!r}, 'w')"
    four = b"\0" * 4
    contents: list[Any] = [
        {"blobs": {"pred_w": _Call(eval, text)}},
        {"blobs": _Call(exec, text)},
        {"blobs": {"pred_w": _Call(getattr, "a", "upper")}},
        {"blobs": {"pred_w": _Call(np.load, str(path))}},
        {"blobs": {"pred_w": np.array([None])}},
        {"blobs": {"pred_w": np.array(["text"])}},
        {"blobs": {"pred_w": _array("<f4", (2**40,), four)}},
        {"blobs": {"pred_w": _array("<f4", (-1,), four)}},
        {"blobs": {"pred_w": _array("<f4", (1, "1"), four)}},
        {"blobs": {"pred_w": [1, 2, 3]}},
        {"blobs": {1: np.zeros(1, np.float32)}},
        {"weights": {"pred_w": np.zeros(1, np.float32)}},
        [1, 2],
    ]
    data = [pickle.dumps(content, protocol=2) for content in contents]
    whole = pickle.dumps({"blobs": {"pred_w": np.zeros(1, np.float32)}}, protocol=2)
    data += [
        whole[:-20],
        b"\x80\x02c__builtin__\neval\nq\0.",
        b"\x80\x02cnumpy\ndtype\n}U\x08__init__K\x01sb.",  # state for a class
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in memory with a large number
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number longer than the file
        b"\x80\x02\x82\x01.",  # a registered object
        b"cposix\nsystem\n(S'touch x'\ntR.",  # protocol 0
        b"",
    ]
    for number, content in enumerate(data):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not one of Caffe2's weights"):
            read_file(path)
        assert not witness.exists(), number


def test_pytorch_file_named_pkl_is_read(tmp_path: Path) -> None:
    torch.save({"model_state": {"head.projection.bias": torch.ones(2)}}, tmp_path / "SLOWFAST.pkl")
    assert torch.equal(read_file(tmp_path / "SLOWFAST.pkl")["model_state"]["head.projection.bias"], torch.ones(2))


def test_network_of_a_contrastive_model_is_found(tmp_path: Path) -> None:
    """PySlowFast's BYOL and MoCo: the network, one that follows it, queues; the projection is no classifier."""
    source, model = built("slow"), built("slow")
    perturb(source)
    state = {f"backbone.{n}": t for n, t in source.state_dict().items() if not n.startswith("head.")}
    state |= {n.replace("backbone.", "backbone_hist."): t + 1 for n, t in state.items() if t.is_floating_point()}
    state |= {
        "backbone.head.projection.0.weight": torch.ones(7, 256),
        "queue_x": torch.ones(3, 4),
        "ptr": torch.ones(1),
    }
    torch.save({"model_state": state}, tmp_path / "byol.pyth")
    report = load_pretrained(model, tmp_path / "byol.pyth")
    assert report.missing == ["head.projection.weight", "head.projection.bias"]
    name = "s4.pathway0_res1.branch2.b.weight"
    assert torch.equal(model.state_dict()[name], source.state_dict()[name])
