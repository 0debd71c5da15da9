"""URLs of folders: what they must name, and what is refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.videos import write_list
from videovit import cli
from videovit.config import ConfigError, load_config


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("az://container/k400", "az:// cannot be read, nor through adlfs; expected s3://, gs://, hf://"),
        ("gcs://bucket/k400", r"gcs:// cannot be read; .*DATA\.PATH_PREFIX gs://bucket/k400"),
        ("S3://bucket", r"S3:// cannot be read; .*DATA\.PATH_PREFIX s3://bucket"),
        ("shards:file:///data/k400", r"file:// cannot be read; .*DATA\.PATH_PREFIX shards:/data/k400"),
        ("s3://", "names no bucket"),
        ("gs:///k400", "names no bucket"),
        ("shards:hf://datasets/me", "names no repository"),
        ("hf://buckets/me/set", "names no repository"),
        ("https://", "names no host"),
        ("https:///k400", "names no host"),
        ("https://[::1/k400", "is not a valid URL"),
        ("https://host:port/k400", "is not a valid URL"),
        ("https://host/k400?list=1", "a folder has no query"),
        ("https://host/k400#top", "a folder has no query and no fragment"),
    ],
)
def test_url_that_cannot_be_a_folder_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("Demo/MVIT_TINY", ["DATA.PATH_PREFIX", url])


def test_urls_on_command_lines_are_refused_with_a_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_list(tmp_path / "list.csv", [("a.mp4", 0)])
    videos, output = f"{tmp_path}/list.csv", f"{tmp_path}/out"
    for words, message in (
        (
            ["pack", videos, "--prefix", "gs://bucket", "--output", output],
            "gs://bucket: remote videos cannot be packed",
        ),
        (["probe", videos, "--prefix", "az://bucket"], "az://bucket: az:// cannot be read, nor through adlfs"),
        (["probe", "gs://bucket/a.mp4"], "gs://bucket/a.mp4: a URL; remote videos are read from a list of their paths"),
    ):
        assert cli.main(words) == 1 and message in capsys.readouterr().err
