"""The folder of checkpoints is tried before training starts."""

import os
from pathlib import Path

import pytest

from tests.helpers.runs import Make
from videovit.engine import launch
from videovit.engine.checkpoints.folder import check_folder
from videovit.errors import UserError


def test_link_to_nothing(make: Make, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(tmp_path / "unmounted" / "disk")
    with pytest.raises(UserError, match=r"checkpoints: cannot be used: No such file"):
        launch.run(make(tmp_path, "TEST.ENABLE False"))
    assert not (tmp_path / "stats.jsonl").exists()  # nothing was trained


def test_file(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match="cannot be used: Not a directory; expected"):
        check_folder(tmp_path)


@pytest.mark.parametrize("mode", [0o300, 0o500])
def test_not_listable_or_not_writable(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir(mode=mode)
    child = os.fork()
    if not child:  # permissions do not bind root
        code = 1
        try:
            tmp_path.chmod(0o755)
            os.chown(folder, 65534, 65534)
            for parent in [tmp_path, *tmp_path.parents]:
                if parent.stat().st_uid == os.getuid() and len(parent.parts) > 2:
                    parent.chmod(0o755)
            os.setgid(65534)
            os.setuid(65534)
            check_folder(tmp_path)
        except UserError as error:
            code = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_absent_or_usable(tmp_path: Path) -> None:
    check_folder(tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    check_folder(tmp_path)
