"""Opening a video in this process: find its bytes, then let a decoder read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from videovit.data.decode.located import IsFolderError, Located, locate
from videovit.data.decode.protocol import DecodeOptions, Video
from videovit.data.decode.shards import is_in_shards, locate_member

Opener = Callable[[str, DecodeOptions], Video]


def find_bytes(path: str, options: DecodeOptions, backend: str) -> Located:
    """A video on this machine, with the place of its bytes; what has a place already is returned as it is.

    Args:
        path: a file, or a member of shards.
        options: the folder that it must be in.
        backend: the decoder, for messages.

    Raises:
        DecodeError: there is no such file or member, or it cannot be read. An IsFolderError if it is a folder.
    """
    return locate_member(path, options, backend) if is_in_shards(path) else locate(path, options, backend)


def open_here(path: str, backend: str, backends: Mapping[str, Opener], options: DecodeOptions) -> Video:
    """Open a video without a time limit.

    Args:
        path: a file, a folder of images, or a member of shards.
        backend: name of the decoder. Folders are read by `frames`, whatever the name.
        backends: all decoders.
        options: options of the decoder.

    Raises:
        DecodeError: see `open_video`.
    """
    try:
        path = find_bytes(path, options, backend)
    except IsFolderError:
        # A data set may mix videos and folders of frames.
        backend = "frames"
    return backends[backend](path, options)
