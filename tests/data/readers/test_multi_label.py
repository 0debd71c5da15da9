"""Several classes per video: labels of clips, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.videos import read_barcodes, write_video
from videovit.config import load_config
from videovit.data.catalog import build_spec
from videovit.data.dataset import ActionsShown, ClipDataset, FixedCrops, seconds_of
from videovit.data.decode import DecodeOptions
from videovit.data.records import Action, Sample, collate
from videovit.data.sampling import EvenSpans, StridedClips
from videovit.errors import UserError

SAMPLE = Sample("a.mp4", actions=(Action(0, 0.0, 1.0), Action(2, 1.0, 2.0), Action(2, 5.0, 5.0), Action(4, 1.5, 9.0)))


@pytest.mark.parametrize(
    ("frames", "classes"),
    [
        ([0, 5, 9], [0]),  # at 10 fps, 0 to 1.0 s, where class 2 starts
        ([0, 5, 10], [0, 2]),
        ([10, 14], [2]),
        ([10, 15], [2, 4]),
        ([30, 49], [4]),
        ([30, 50], [2, 4]),  # an action of zero length
        ([95, 99], []),
    ],
)
def test_actions_shown_overlapping_clip(frames: list[int], classes: list[int]) -> None:
    target = ActionsShown(5)(SAMPLE, *seconds_of(np.array(frames), 10.0))
    assert target.nonzero()[:, 0].tolist() == classes and target.dtype == torch.float32
    whole = ActionsShown(5, whole_video=True)(SAMPLE, *seconds_of(np.array(frames), 10.0))
    assert whole.tolist() == [1, 0, 1, 0, 1]


def test_multi_label_batches(numbered: Callable[..., Path]) -> None:
    samples = [Sample(str(numbered("length_40.mp4", num_frames=40)), actions=(Action(k, 0.0, 9.0),)) for k in (1, 0)]
    plan = EvenSpans(4, 4, 30.0, num_clips=2)
    dataset = ClipDataset(samples, plan=plan, crops=FixedCrops(lambda frames: [frames], ActionsShown(3)))
    batch = collate([dataset[0, 0], dataset[0, 1]])
    assert batch.labels.tolist() == [[0, 1, 0]] * 2 + [[1, 0, 0]] * 2
    assert [piece.labels.shape for piece in batch.split(3)] == [(3, 3), (1, 3)]


@pytest.mark.parametrize("timeout_s", [0.0, 20.0])
def test_actions_shown_variable_fps(tmp_path: Path, timeout_s: float) -> None:
    """12.5 fps for 4 seconds, then 25: the second half of the time has most of the frames."""
    times = [2 * number for number in range(50)] + list(range(100, 200))
    movie = write_video(tmp_path / "a.mp4", num_frames=150, fps=25, pts=times)
    actions = (Action(0, 0.0, 3.99), Action(1, 4.0, 8.0))
    dataset = ClipDataset(
        [Sample(str(movie), actions=actions)],
        plan=StridedClips(2, 1, 25.0, num_clips=75),
        crops=FixedCrops(lambda frames: [frames], ActionsShown(2)),
        backend="pyav",
        decoding=DecodeOptions(timeout_s=timeout_s),
    )
    for clip in dataset[0, 0].clips:
        first, last = read_barcodes(clip.frames_THWC)
        assert clip.label.tolist() == [float(first < 50), float(last >= 50)], first


def test_build_spec_multi_label_mismatch_raises() -> None:
    opts = ["DATA.MULTI_LABEL", "True", "MODEL.LOSS_FUNC", "bce_logit", "MODEL.HEAD_ACT", "sigmoid"]
    with pytest.raises(UserError, match=r"TEST.DATASET: videos of 'kinetics' have one class.*MULTI_LABEL False"):
        build_spec(load_config(opts=opts), "val")
