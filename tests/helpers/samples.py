"""The samples of a config, without the data set around them."""

from collections.abc import Sequence

from videovit.config import Config
from videovit.data.build import Split, build_spec
from videovit.data.records import Sample


def read_samples(cfg: Config, split: Split) -> Sequence[Sample]:
    """The videos of a split, as a run reads them."""
    return build_spec(cfg, split).read(cfg, split)
