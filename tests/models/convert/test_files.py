"""Weight files: what is read, what is refused and with which message; exports round-trip exactly."""

import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers

from tests.helpers.mvit_variants import TINY, TINY_V2, clip, perturb, tiny, tiny_v2
from tests.helpers.tiny_peers import PTV_TINY, torchvision_tiny
from videovit.config import load_config
from videovit.models import CheckpointError, build_model, expand, export_state_dict, load_pretrained
from videovit.models.convert import config_hints, pool_norm_eps, save_safetensors
from videovit.models.mvit.block_specs import share_maps
from videovit.models.mvit.model import MViT


def logits_of(model, x):
    """Logits in evaluation, without gradients."""
    with torch.no_grad():
        return model.eval()(x)


def assert_same(model, source):
    """Assert that all tensors are bitwise equal."""
    theirs = source.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("legacy", [False, True])
def test_pyth_container_loads(tmp_path, legacy):
    source, model, path = perturb(tiny()), tiny(), tmp_path / "checkpoint_epoch_00200.pyth"
    content = {"epoch": 199, "model_state": source.state_dict(), "optimizer_state": {"state": {}}, "cfg": "MVIT: {}"}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    load_pretrained(model, path)
    assert_same(model, source)


def test_missing_file_error_lists_the_folder(tmp_path):
    torch.save({}, tmp_path / "other.pyth")
    with pytest.raises(CheckpointError, match=r"no such weight file; in that folder: other\.pyth"):
        load_pretrained(tiny(), tmp_path / "mine.pyth")


def test_what_is_no_file_is_named(tmp_path):
    for name, target in (("loop", "loop.pyth"), ("gone", "missing"), ("device", "/dev/zero")):
        (tmp_path / f"{name}.pyth").symlink_to(target)
    os.mkfifo(tmp_path / "pipe.pyth")
    for name, what in {
        "loop.pyth": "a link that leads to nothing",
        "gone.pyth": "a link that leads to nothing",
        "device.pyth": "a pipe or a device",
        "pipe.pyth": "a pipe or a device",
        "n" * 10_000: "no such weight file",
        "f" * 10_000 + "/a.pyth": "no such weight file",
    }.items():
        with pytest.raises(CheckpointError, match=f"{name}: {what}"):
            load_pretrained(tiny(), tmp_path / name)


def test_folder_of_a_run_error_lists_its_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / "checkpoint_epoch_00010.pyth")
    wanted = r"a folder, expected a weight file; in that folder: checkpoints/checkpoint_epoch_00010\.pyth"
    with pytest.raises(CheckpointError, match=wanted):
        load_pretrained(tiny(), tmp_path)


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "cut.pyth"
    torch.save({"model_state": tiny().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.pyth: not a readable weight file"):
        load_pretrained(tiny(), path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_flipped_bytes_raise_checkpoint_errors_only(tmp_path, legacy):
    path, rng = tmp_path / "flipped.pyth", np.random.default_rng(0)
    content = {"model_state": torch.nn.Linear(4, 4).state_dict()}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    good = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    refused = 0
    for _ in range(300):
        damaged = good.copy()
        damaged[rng.integers(len(good), size=3)] = rng.integers(256, size=3)
        path.write_bytes(damaged.tobytes())
        try:
            load_pretrained(torch.nn.Linear(4, 4), path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def zero_page(path, inside):
    """Overwrite a page of a file with zeros, which a lost write of a disk leaves behind, in the middle of `inside`."""
    data = bytearray(path.read_bytes())
    start = data.index(inside) + len(inside) // 2
    data[start : start + 512] = bytes(512)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("suffix", [".pyth", ".safetensors"])
def test_page_of_zeros_in_the_weights_is_refused(tmp_path, suffix):
    source, path = torch.nn.Linear(64, 64), tmp_path / f"weights{suffix}"
    if suffix == ".pyth":
        torch.save({"model_state": source.state_dict()}, path)
    else:
        save_safetensors(source.state_dict(), path, model=source)
    load_pretrained(torch.nn.Linear(64, 64), path)
    zero_page(path, source.weight.detach().numpy().tobytes())
    with pytest.raises(CheckpointError, match=r"weights\.\w+: damaged: .*checksum"):
        load_pretrained(torch.nn.Linear(64, 64), path)


def test_files_without_checksums_load(tmp_path):
    source, path = torch.nn.Linear(64, 64), tmp_path / "weights.pyth"
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(source.state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(computes)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "weights.safetensors")
    for file in (path, tmp_path / "weights.safetensors"):
        model = torch.nn.Linear(64, 64)
        load_pretrained(model, file)
        assert_same(model, source)


def test_empty_and_foreign_content_is_refused(tmp_path):
    path = tmp_path / "empty.pyth"
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"empty.pyth: not a readable weight file: empty or cut off \(0 bytes\)"):
        load_pretrained(tiny(), path)
    path.write_bytes(b"hello")  # a letter of it is an instruction of pickles
    with pytest.raises(CheckpointError, match=r"empty.pyth: not a weight file of PyTorch \(5 bytes\)"):
        load_pretrained(tiny(), path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="expected a dict of tensors, found list"):
        load_pretrained(tiny(), path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="no tensors in it.*found the keys epoch"):
        load_pretrained(tiny(), path)


@pytest.mark.parametrize("name", ["model.pkl", "model.pyth"])
def test_caffe2_pickles_are_refused_unread(tmp_path, name):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / name
    path.write_bytes(pickle.dumps({"blobs": Bomb()}, protocol=2))
    with pytest.raises(CheckpointError, match="Caffe2"):
        load_pretrained(tiny(), path)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(CheckpointError, match="Caffe2"):
        load_pretrained(tiny(), {"blobs": {"conv1_w": np.zeros(3)}})


def test_objects_and_numpy_numbers_are_refused_with_advice(tmp_path):
    path = tmp_path / "old.pyth"
    torch.save({"model_state": tiny().state_dict(), "epoch": np.int64(3)}, path)
    with pytest.raises(CheckpointError, match="numpy numbers.*save the weights alone once"):
        load_pretrained(tiny(), path)
    torch.save({"model_state": tiny().state_dict(), "cfg": TypeOfItsOwn()}, path)
    with pytest.raises(CheckpointError, match="objects other than tensors"):
        load_pretrained(tiny(), path)


class TypeOfItsOwn:
    """A class that the safe reader does not know, like that of a pickled config."""


def test_safetensors_round_trip(tmp_path):
    source, model, path = perturb(tiny(pool_norm_eps=1e-5)), tiny(), tmp_path / "weights.safetensors"
    save_safetensors(export_state_dict(source, "pytorchvideo"), path, model=source)
    report = load_pretrained(model, path)
    assert_same(model, source)
    assert report.pool_norm_eps == pool_norm_eps(model) == 1e-5
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]
    assert sorted(safetensors.torch.load_file(path)) == sorted(export_state_dict(source, "pytorchvideo"))
    path.write_bytes(b"not this")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_pretrained(model, path)
    with pytest.raises(CheckpointError, match="could not be written"):
        save_safetensors({}, tmp_path / "no_such_folder" / "weights.safetensors")


@pytest.mark.parametrize("layout", ["pyslowfast", "torchvision", "pytorchvideo"])
@pytest.mark.parametrize("build", [tiny, tiny_v2])
def test_round_trips_are_exact(layout, build):
    source, model = perturb(build()), build()
    if build is tiny_v2 and layout == "pytorchvideo":
        with pytest.raises(CheckpointError, match="no place for relative positions"):
            export_state_dict(source, layout)
        return
    report = load_pretrained(model, export_state_dict(source, layout))
    assert report.source == layout
    assert len(report.loaded) == len(model.state_dict())
    assert_same(model, source)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_export_loads_in_torchvision(version):
    model = perturb(tiny() if version == "v1" else tiny_v2())
    peer = torchvision_tiny(TINY, False) if version == "v1" else torchvision_tiny(TINY_V2, True)
    peer.load_state_dict(export_state_dict(model, "torchvision"))
    x = clip(2, 3, 8, 32, 32)
    torch.testing.assert_close(logits_of(peer, x), logits_of(model, x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("separate", [False, True])
def test_export_loads_in_pytorchvideo(separate):
    model = perturb(tiny(separate_qkv=separate, pool_norm_eps=1e-5))
    peer = create_multiscale_vision_transformers(**PTV_TINY)
    peer.load_state_dict(export_state_dict(model, "pytorchvideo"))
    x = clip(2, 3, 8, 32, 32)
    torch.testing.assert_close(logits_of(peer, x), logits_of(model, x), atol=1e-5, rtol=0)


def test_export_of_images_to_pyslowfast_has_a_4d_stem():
    patch = {"patch_kernel": (1, 7, 7), "patch_stride": (1, 4, 4), "patch_padding": (0, 3, 3)}
    model = tiny(blocks=expand(**{**TINY, "pool_kvq_kernel": [1, 3, 3]}), clip_size=(1, 32, 32), **patch)
    state = export_state_dict(model)
    assert state["patch_embed.proj.weight"].shape == (16, 3, 7, 7)
    assert state["blocks.0.attn.pool_k.weight"].shape == (16, 1, 1, 3, 3)


def test_exports_without_a_place_are_refused():
    with pytest.raises(CheckpointError, match="known: pyslowfast, torchvision, pytorchvideo"):
        export_state_dict(tiny(), "timm")
    with pytest.raises(CheckpointError, match="no place for a joint position table"):
        export_state_dict(tiny(sep_pos_embed=False), "torchvision")
    with pytest.raises(CheckpointError, match="always has a class token"):
        export_state_dict(tiny(cls_token=False), "torchvision")
    for layout in ("torchvision", "pytorchvideo"):
        with pytest.raises(CheckpointError, match=f"{layout} classifies the class token"):
            export_state_dict(tiny(mean_pooling=True), layout)
    shared = share_maps(expand(**{**TINY, "depth": 2, "dim_mul": [], "head_mul": [], "pool_q_stride": []}), [1])
    for layout in ("pyslowfast", "torchvision", "pytorchvideo"):
        with pytest.raises(CheckpointError, match=r"share no attention between blocks, .* \(blocks\.1\)"):
            export_state_dict(tiny(blocks=shared), layout)
    with pytest.raises(CheckpointError, match="no residual pooling"):
        export_state_dict(tiny(residual_pooling=True), "pytorchvideo")
    with pytest.raises(CheckpointError, match="Linear is not an MViT"):
        export_state_dict(torch.nn.Linear(1, 1))


def as_opts(hints):
    """Hints as KEY VALUE arguments."""
    return [part for key, value in hints.items() for part in (key, str(value))]


@pytest.mark.parametrize(
    "config",
    [
        "Kinetics/MVIT_B_16x4_CONV",
        "Kinetics/MVIT_B_16x4_CONV_2021",
        "Kinetics/MVIT_B_32x3_CONV",
        "Kinetics/MVITv2_S_16x4",
        "Kinetics/MVITv2_B_32x3",
        "ImageNet/MVIT_B_16_CONV",
        "ImageNet/MVITv2_T",
    ],
)
def test_hints_rebuild_the_model(config, request):
    """The hints of a state dict, with size and strides of the input, give the same model."""
    cfg = load_config(request.config.rootpath / "configs" / f"{config}.yaml")
    with torch.device("meta"):
        model = build_model(cfg)
    hints = config_hints(model.state_dict())
    padding = "[3, 3]" if hints["MVIT.PATCH_2D"] else "[1, 3, 3]"
    stride = "[4, 4]" if hints["MVIT.PATCH_2D"] else "[2, 4, 4]"
    size = ["DATA.NUM_FRAMES", str(cfg.DATA.NUM_FRAMES), "DATA.TRAIN_CROP_SIZE", str(cfg.DATA.TRAIN_CROP_SIZE)]
    size += ["MVIT.PATCH_STRIDE", stride, "MVIT.PATCH_PADDING", padding]
    with torch.device("meta"):
        again = build_model(load_config(None, as_opts(hints) + size))
    assert isinstance(again, MViT)
    assert again.specs == model.specs
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}


def test_hints_for_other_weights_are_empty():
    assert config_hints({"weight": torch.zeros(1)}) == {}


def test_hints_without_pooling_weights_omit_pooling():
    hints = config_hints(tiny(pool_mode="max").state_dict())
    assert "MVIT.POOL_Q_STRIDE" not in hints
    assert hints["MVIT.DIM_MUL"] == [[1, 2.0], [3, 2.0]]
