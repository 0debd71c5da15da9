"""Inputs of training that are checked before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.runs import write_config
from tests.helpers.videos import write_list
from videovit.config import Config, load_config
from videovit.data.records import AnnotationError
from videovit.engine.problem import Problem
from videovit.engine.tasks.train import check_inputs


def config(folder: Path, *opts: object) -> Config:
    return load_config(write_config(folder), ["DATA.PATH_TO_DATA_DIR", str(folder), *map(str, opts)])


@pytest.mark.parametrize("tested", [True, False])
@pytest.mark.parametrize("content", ['{"a": 0, "b": 1}', '["a", "b", "c", "d"]'])
def test_classes_file_of_other_number_stops_training(tested: bool, content: str, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_list(tmp_path / f"{split}.csv", [("a.mp4", 0), ("a.mp4", 1)])
    (tmp_path / "a.mp4").touch()
    prefix = ("DATA.PATH_PREFIX", tmp_path, "TEST.ENABLE", tested)
    check_inputs(Problem(config(tmp_path, *prefix)))
    (tmp_path / "classes.json").write_text(content)
    number = content.count('"') // 2
    with pytest.raises(AnnotationError, match=f"classes.json: {number} class names, but MODEL.NUM_CLASSES is 3"):
        check_inputs(Problem(config(tmp_path, *prefix)))
    check_inputs(Problem(config(tmp_path, *prefix, "MODEL.NUM_CLASSES", number)))
