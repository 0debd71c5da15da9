"""Rules across keys: what each forbids, and the changes that mend it.

A rule is a function of the config that yields `Broken`. It belongs to the file of its subject and to `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from videovit.config.rules import clips, detectors, labels, machines, masked, networks, objects, training
from videovit.config.rules.broken import Broken, Change, changed
from videovit.config.schema import Config

__all__ = ["RULES", "Broken", "changed", "check"]

RULES: tuple[Callable[[Config], Iterator[Broken]], ...] = (
    machines.tildes,
    machines.credentials,
    machines.urls,
    machines.processes,
    machines.engines,
    machines.sharding,
    machines.batches,
    labels.data_sets,
    labels.num_classes,
    labels.multi_label,
    labels.boxes,
    labels.loss,
    labels.class_weights,
    labels.sampler,
    labels.best_measure,
    objects.detectors,
    objects.masks,
    objects.objects,
    objects.scales,
    clips.whole_videos,
    clips.channels,
    clips.crops,
    clips.short_sides,
    clips.orders,
    networks.architecture,
    networks.patches,
    networks.blocks,
    detectors.strides,
    detectors.windows,
    masked.alone,
    masked.hidden,
    masked.visible,
    masked.moments,
    training.average,
    training.validation,
    training.learning_rate,
    training.warmup,
    training.teacher,
    training.search,
)


def check(cfg: Config) -> list[Broken]:
    """All rules that `cfg` breaks, with advice that can be followed.

    A change that breaks further rules is completed by what these advise; one that cannot be completed is left out.
    """
    found = _broken(cfg)
    complete = []
    for broken in found:
        others = {other.keys for other in found if other is not broken}
        advice = (_completed(cfg, change, others) for change in broken.advice)
        complete.append(broken.advising(*(change for change in advice if change is not None)))
    return complete


def _broken(cfg: Config) -> list[Broken]:
    return [broken for rule in RULES for broken in rule(cfg)]


def _completed(cfg: Config, change: Change, known: set[tuple[str, ...]]) -> Change | None:
    """`change` with all that it requires of other keys.

    Args:
        cfg: the config to mend.
        change: what one rule advises.
        known: the keys of the other broken rules, which have advice of their own.

    Returns:
        The whole change; None if no set of changes keeps all rules.
    """
    new = next((broken for broken in _broken(changed(cfg, change)) if broken.keys not in known), None)
    if new is None:
        return change
    for more in new.advice:
        adds = not more.keys() <= change.keys()
        if adds and all(change.get(key, value) == value for key, value in more.items()):
            whole = _completed(cfg, {**change, **more}, known)
            if whole is not None:
                return whole
    return None
