"""One file of SlowFast of each family, small: a step of training, a validation, and a test.

Of masked pre-training: a step, a validation, and the fine-tuning of its encoder.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers.ava_data import write_ava
from tests.helpers.releases import picture
from tests.helpers.runs import stats, write_data
from tests.helpers.slowfast_table import as_yaml, slowfast_files
from tests.models.convert.test_caffe2 import blobs_of
from videovit.config import load_config
from videovit.engine.launch import run
from videovit.models import build_model

SMALL = (
    "NUM_GPUS 0 NUM_SHARDS 1 DATA_LOADER.NUM_WORKERS 0 LOG_MODEL_INFO False LOG_PERIOD 1 DATA.DECODE_TIMEOUT_S 0 "
    "TRAIN.BATCH_SIZE 4 TEST.BATCH_SIZE 4 TRAIN.MAX_STEPS 1 TRAIN.ENABLE True TEST.ENABLE True "
    "DATA.NUM_FRAMES 8 DATA.SAMPLING_RATE 1 DATA.TRAIN_CROP_SIZE 32 DATA.TEST_CROP_SIZE 32 "
    "DATA.TRAIN_JITTER_SCALES [32,40] RESNET.WIDTH_PER_GROUP 8 BN.NUM_BATCHES_PRECISE 1 "
)
VIDEOS = (
    "DATA.PATH_TO_DATA_DIR {data} TRAIN.DATASET kinetics TEST.DATASET kinetics MODEL.NUM_CLASSES 3 "
    "TEST.NUM_ENSEMBLE_VIEWS 1 TEST.NUM_SPATIAL_CROPS 1 TEST.NUM_TEMPORAL_CLIPS [] TRAIN.CHECKPOINT_FILE_PATH ''"
)
THIN = "MVIT.EMBED_DIM 8 AUG.NUM_SAMPLE 1"
THIN_VIT = "MVIT.EMBED_DIM 16 MVIT.NUM_HEADS 2 MVIT.DEPTH 2"
IMAGES = "TRAIN.DATASET imagenet TEST.DATASET imagenet DATA.NUM_FRAMES 1 DATA.PATH_TO_DATA_DIR {data}/images"
NO_LEARNING = "SOLVER.BASE_LR 0 SOLVER.COSINE_END_LR 0 SOLVER.WARMUP_EPOCHS 0 TRAIN.EVAL_PERIOD 0 TEST.ENABLE False"
FILES = {
    "Kinetics/C2D_NLN_8x8_R50": "NONLOCAL.LOCATION [[[]],[[1]],[[]],[[]]]",
    "Kinetics/pytorchvideo/SLOWFAST_8x8_R50": "",
    "SSv2/SLOWFAST_16x8_R50": "",
    "contrastive_ssl/finetune_ucf_Slow_R50_syn8": "",
    "masked_ssl/k400_MVITv2_S_16x4_FT": THIN,
    "masked_ssl/k400_VIT_B_16x4_FT": f"{THIN_VIT} AUG.NUM_SAMPLE 1",
    "masked_ssl/in1k_VIT_B_MaskFeat_FT": f"{THIN_VIT} {IMAGES}",
    "Kinetics/MVITv2_S_16x4": THIN,
}
MAE = f"{THIN_VIT} MASK.PRETRAIN_DEPTH [1] MASK.DECODER_DEPTH 1 MASK.DECODER_EMBED_DIM 16"
PRETRAINING = {
    "masked_ssl/k400_VIT_B_16x4_MAE_PT": (MAE, "masked_ssl/k400_VIT_B_16x4_FT"),
    "masked_ssl/in1k_VIT_B_MaskFeat_PT": (
        f"{THIN_VIT} {IMAGES} MASK.PRETRAIN_DEPTH [1]",
        "masked_ssl/in1k_VIT_B_MaskFeat_FT",
    ),
    "masked_ssl/k400_MVITv2_S_16x4_MaskFeat_PT": ("MVIT.EMBED_DIM 8", "masked_ssl/k400_MVITv2_S_16x4_FT"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos in lists, and images in folders of classes."""
    folder = write_data(tmp_path_factory.mktemp("data"), num_train=4, num_test=2)
    images = folder / "images"
    for split, label, number in (("train", 0, 2), ("train", 1, 1), ("train", 2, 1), ("val", 0, 1), ("val", 1, 1)):
        (images / split / str(label)).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(picture(label, i, size=(48, 48))).save(images / split / str(label) / f"{i}.JPEG")
    return folder


def run_small(name: str, folder: Path, options: str) -> None:
    path = folder / "file.yaml"
    path.write_text(as_yaml(slowfast_files()[name]))
    words = [word.replace("''", "") for word in f"{SMALL} {options} OUTPUT_DIR {folder}".split()]
    run(load_config(path, words))


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
@pytest.mark.parametrize("name", FILES)
def test_file_trains_and_tests(name: str, data: Path, tmp_path: Path) -> None:
    run_small(name, tmp_path, f"{VIDEOS} {FILES[name]}".format(data=data))
    (step,) = stats(tmp_path, "train_iter")
    assert step["grad_norm"] > 0
    assert stats(tmp_path, "val_epoch")[0]["num_videos"] == stats(tmp_path, "test_final")[0]["num_videos"] == 2


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
@pytest.mark.parametrize("name", PRETRAINING)
def test_pre_training_file_trains_and_its_encoder_is_fine_tuned(name: str, data: Path, tmp_path: Path) -> None:
    options, fine_tuning = PRETRAINING[name]
    (pretrained := tmp_path / "pretrained").mkdir()
    (tuned := tmp_path / "tuned").mkdir()
    run_small(name, pretrained, f"{VIDEOS} {options} TEST.ENABLE False".format(data=data))
    (step,) = stats(pretrained, "train_iter")
    assert step["grad_norm"] > 0 and 0 < stats(pretrained, "val_epoch")[0]["loss"] < 2

    with_weights = f"{VIDEOS} {FILES[fine_tuning]} {NO_LEARNING}".replace("''", str(pretrained))
    run_small(fine_tuning, tuned, with_weights.format(data=data))
    before, after = (
        torch.load(folder / "checkpoints/checkpoint_epoch_00001.pyth", weights_only=True)["model_state"]
        for folder in (pretrained, tuned)
    )
    not_taken = {n for n, t in after.items() if not torch.equal(t, before.get(f"encoder.{n}", torch.empty(0)))}
    # The last block of fine-tuning pools, so its tables are shorter; MaskFeat has a norm of its own.
    rest = {"norm.weight", "norm.bias", "blocks.15.attn.rel_pos_h", "blocks.15.attn.rel_pos_w"}
    assert {name for name in not_taken if not name.startswith("head.")} <= rest


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_detector_of_ava_trains_and_tests(tmp_path: Path) -> None:
    config = write_ava(tmp_path / "ava")
    keys = load_config(config).AVA
    options = " ".join(
        f"AVA.{name} {value if isinstance(value, str) else '[' + ','.join(map(str, value)) + ']'}"
        for name, value in vars(keys).items()
        if isinstance(value, str | tuple) and value
    )
    run_small("AVA/SLOWFAST_32x2_R50_SHORT", tmp_path, f"{options} DATA.TARGET_FPS 10 MODEL.NUM_CLASSES 4")
    assert stats(tmp_path, "train_iter")[0]["grad_norm"] > 0
    assert stats(tmp_path, "test_final")[0]["num_boxes"] == 36


@pytest.mark.filterwarnings("ignore::videovit.config.ConfigWarning")
def test_linear_probe_of_caffe2_weights_trains_the_classifier_alone(data: Path, tmp_path: Path) -> None:
    """MODEL.DETACH_FINAL_FC; weights and statistics of all other layers stay those of the file."""
    name = "contrastive_ssl/linear_k400_Slow_8x8_R50_syn0"
    options = VIDEOS.format(data=data)
    path = tmp_path / "file.yaml"
    path.write_text(as_yaml(slowfast_files()[name]))
    torch.manual_seed(3)
    source = build_model(load_config(path, f"{SMALL} {options}".replace("''", "none").split()))
    (tmp_path / "slow.pkl").write_bytes(pickle.dumps({"blobs": blobs_of(source)}, protocol=2))
    options = options.replace("CHECKPOINT_FILE_PATH ''", f"CHECKPOINT_FILE_PATH {tmp_path / 'slow.pkl'}")
    run_small(name, tmp_path, f"{options} TRAIN.CHECKPOINT_TYPE caffe2 SOLVER.WARMUP_EPOCHS 0")
    (checkpoint,) = (tmp_path / "checkpoints").glob("*00001.pyth")
    trained = torch.load(checkpoint, weights_only=True)["model_state"]
    changed = {n for n, t in source.state_dict().items() if not torch.equal(t, trained[n])}
    assert changed == {"head.projection.weight", "head.projection.bias"}
