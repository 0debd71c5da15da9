"""Models of ImageNet on images that are made to mislead them: ImageNet-A, ImageNet-R, the Backgrounds Challenge.

B images, S their side, K classes.

Source: Hendrycks et al. (arXiv 1907.07174; ImageNet-R: arXiv 2006.16241), Xiao et al. (arXiv 2006.09994).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from videovit.data.build import build_dataset
from videovit.data.dataset import ClipDataset
from videovit.data.readers.robustness_sets import (
    BACKGROUNDS,
    IN9,
    has_masks,
    in9_of_imagenet,
    read_class_ids,
    read_foregrounds,
    read_mask,
    read_subset,
    read_variation,
    variations_in,
)
from videovit.data.records import Sample
from videovit.engine import distributed
from videovit.engine.evaluation.evaluator import ScoreSink
from videovit.engine.evaluation.inference import Inference, Pass, evaluate_split, stoppable
from videovit.engine.evaluation.view_ensemble import TopK
from videovit.engine.problem import Problem
from videovit.engine.run_context import Run
from videovit.engine.tasks.analyze import spread
from videovit.errors import UserError

ONE_THOUSAND = 1000
GAP = "BG-gap"
CHALLENGE = "Backgrounds Challenge"


@dataclass(frozen=True)
class SetResult:
    """A number of a set of images.

    Attributes:
        name: of the row.
        percent: accuracy; of the BG-gap, points.
        num_images: that it is the mean of.
        note: how it was measured.
    """

    name: str
    percent: float
    num_images: int
    note: str = ""


def check_sets(problem: Problem) -> None:
    """Check that the sets of `ROBUSTNESS.*` can be read, and that the model has their classes.

    Raises:
        UserError: a folder cannot be used, or the model is of clips or other classes.
    """
    section, spec = problem.cfg.ROBUSTNESS, problem.test.spec
    named = {key: getattr(section, key) for key in ("IMAGENET_A", "IMAGENET_R", "BACKGROUNDS")}
    for key, folder in named.items():
        if folder and not spec.images:
            raise UserError(
                "images for models of ImageNet, but this model takes clips",
                where=f"ROBUSTNESS.{key}",
                hint="Leave it empty",
            )
    for folder in (section.IMAGENET_A, section.IMAGENET_R):
        if folder:
            read_subset(folder, _ids(problem))
    if section.BACKGROUNDS:
        _in9_scores(problem.cfg.MODEL.NUM_CLASSES)
        for variation in variations_in(section.BACKGROUNDS):
            read_variation(section.BACKGROUNDS, variation)


def evaluate_sets(problem: Problem, run: Run, inference: Inference) -> list[SetResult]:
    """Accuracy on the sets whose folders are given; a collective call.

    Raises:
        UserError: see `check_sets`; or images cannot be read.
    """
    section = problem.cfg.ROBUSTNESS
    found = []
    for name, folder in (("ImageNet-A", section.IMAGENET_A), ("ImageNet-R", section.IMAGENET_R)):
        if folder:
            samples, classes = read_subset(folder, _ids(problem))
            columns = torch.tensor(classes)
            percent, number = _accuracy(
                problem,
                run,
                inference,
                samples,
                len(classes),
                lambda logits_BK, columns=columns: logits_BK[:, columns.to(logits_BK.device)],  # type: ignore[misc]
                name,
            )
            note = f"{name}: the best of its {len(classes)} classes only."
            found.append(SetResult(name, percent, number, note))
    return found + (_backgrounds(problem, run, inference) if section.BACKGROUNDS else [])


def _ids(problem: Problem) -> list[str]:
    cfg = problem.cfg
    return read_class_ids(cfg.ROBUSTNESS.CLASS_IDS_FILE, cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES)


def _accuracy(
    problem: Problem,
    run: Run,
    inference: Inference,
    samples: list[Sample],
    num_classes: int,
    scores: Callable[[Tensor], Tensor],
    name: str,
) -> tuple[float, int]:
    """Top-1 in percent, and the number of images that were read."""
    evaluator = TopK(num_videos=len(samples), num_views=1, num_classes=num_classes, views="1 view")
    loader = problem.test.loader(run, samples=samples)
    passes = [Pass([ScoreSink(evaluator, scores)])]
    skipped = evaluate_split(inference, loader, passes, run, name=name, log_period=problem.cfg.LOG_PERIOD)
    result = evaluator.gather().result(skipped=skipped)
    return result["top1_acc"], int(result["num_videos"])


# ------------------------------------------------------------------------------------------------------- backgrounds


def _in9_scores(num_classes: int) -> Callable[[Tensor], Tensor]:
    """Logits (B, K) -> 1 for the predicted class of ImageNet-9, (B, 10); the last column is of no such class.

    The best of all 1,000 classes counts, so that most of them are always wrong.

    Raises:
        UserError: the model has neither the classes of ImageNet nor nine.
    """
    if num_classes not in (ONE_THOUSAND, len(IN9)):
        raise UserError(
            "the Backgrounds Challenge is for models of ImageNet or of its nine classes",
            where="MODEL.NUM_CLASSES",
            found=num_classes,
            expected=f"{ONE_THOUSAND} or {len(IN9)}",
        )
    table_K = in9_of_imagenet() if num_classes == ONE_THOUSAND else torch.arange(len(IN9))

    def scores(logits_BK: Tensor) -> Tensor:
        return F.one_hot(table_K.to(logits_BK.device)[logits_BK.argmax(dim=1)], len(IN9) + 1).float()

    return scores


def _backgrounds(problem: Problem, run: Run, inference: Inference) -> list[SetResult]:
    cfg = problem.cfg
    folder, scores = cfg.ROBUSTNESS.BACKGROUNDS, _in9_scores(cfg.MODEL.NUM_CLASSES)
    # Whole images as they are stored, or scaled to the model's size.
    whole = Problem(replace(cfg, DATA=replace(cfg.DATA, IN_VAL_CROP_RATIO=1.0)))
    found: dict[str, SetResult] = {}
    variations = variations_in(folder)
    for variation in variations:
        samples = read_variation(folder, variation)
        percent, number = _accuracy(whole, run, inference, samples, len(IN9) + 1, scores, variation)
        found[variation] = SetResult(f"ImageNet-9 {variation}", percent, number)
    if "mixed_same" in found and "mixed_rand" in found:
        gap = found["mixed_same"].percent - found["mixed_rand"].percent
        note = f"{GAP}: accuracy on mixed_same minus that on mixed_rand, in points; lower is better."
        found[GAP] = SetResult(GAP, gap, found["mixed_same"].num_images, note)
    if {"original", BACKGROUNDS} <= set(variations) and has_masks(folder):
        found[CHALLENGE] = _challenge(whole, run, inference, scores)
    return list(found.values())


class Challenger:
    """Looks for a background that misleads a model about an object.

    Args:
        inference: the model.
        scores: logits -> scores of the classes.
        backgrounds_NSSC: uint8 (N, S, S, 3).

    Attributes:
        num_fooled: how often each background has misled the model so far.
        num_passes: pictures that the model has seen.
    """

    def __init__(self, inference: Inference, scores: Callable[[Tensor], Tensor], backgrounds_NSSC: Tensor) -> None:
        self._inference, self._scores, self._backgrounds_NSSC = inference, scores, backgrounds_NSSC
        self.num_fooled = torch.zeros(len(backgrounds_NSSC), dtype=torch.int64)
        self.num_passes = 0

    def is_vulnerable(self, image_SSC: Tensor, mask_SS: Tensor, label: int) -> bool:
        """Whether the object is misclassified in front of any background.

        Backgrounds that have misled most often come first, and the search ends with the first batch that does: the
        answer is the same in any order.
        """
        order_N = self.num_fooled.argsort(descending=True, stable=True)
        for chosen in torch.split(order_N, self._inference.clips_per_step):
            pictures_BSSC = torch.where(mask_SS[:, :, None], image_SSC, self._backgrounds_NSSC[chosen])
            with self._inference.mode():
                x_B3TSS = self._inference.prepared(pictures_BSSC[:, None])
                logits_BK = self._inference.model(x_B3TSS)
                wrong_B = (self._scores(logits_BK).argmax(dim=1) != label).cpu()
            self.num_passes += len(chosen)
            if wrong_B.any():
                self.num_fooled[chosen] += wrong_B
                return True
        return False


def _challenge(problem: Problem, run: Run, inference: Inference, scores: Callable[[Tensor], Tensor]) -> SetResult:
    """Percent of the objects that no background misleads the model about."""
    cfg = problem.cfg
    folder, side = cfg.ROBUSTNESS.BACKGROUNDS, cfg.DATA.TEST_CROP_SIZE
    foregrounds = spread(read_foregrounds(folder), cfg.ROBUSTNESS.CHALLENGE_IMAGES)
    mine = foregrounds[run.rank :: run.world_size]
    objects = _images(problem, [Sample(one.image, one.label) for one in mine])
    behind = _images(problem, read_variation(folder, BACKGROUNDS))
    backgrounds_NSSC = torch.stack([_image(behind, i) for i in range(len(behind))])
    challenger = Challenger(inference, scores, backgrounds_NSSC)
    progress = run.progress("challenge", len(mine), log_period=cfg.LOG_PERIOD)
    num_vulnerable = 0
    for i, one in progress.over(stoppable(mine, len(mine))):
        mask_SS = read_mask(one.mask, side)
        num_vulnerable += challenger.is_vulnerable(_image(objects, i), mask_SS, one.label)
        progress.count(1)
    parts = distributed.gather((num_vulnerable, challenger.num_passes))
    vulnerable, passes = (sum(part[k] for part in parts) for k in (0, 1))
    note = (
        f"{CHALLENGE}: percent of {len(foregrounds):,} objects that are classified correctly in front of each of "
        f"{len(backgrounds_NSSC):,} backgrounds; {passes:,} pictures were needed. Chance is 11.1 %."
    )
    return SetResult(CHALLENGE, 100.0 - 100.0 * vulnerable / len(foregrounds), len(foregrounds), note)


def _images(problem: Problem, samples: list[Sample]) -> ClipDataset:
    return build_dataset(problem.cfg, "test", samples, problem.test.spec)


def _image(dataset: ClipDataset, i: int) -> Tensor:
    """Image i, uint8 (S, S, 3).

    Raises:
        UserError: it cannot be read.
    """
    item = dataset[0, i]
    if not item.clips:
        failure = item.failures[0]
        raise UserError(f"cannot be read: {failure.reason}", where=failure.path)
    return item.clips[0].frames_THWC[0]
