"""What FFmpeg may open for a listed video: this file, and no other one that it refers to."""

from __future__ import annotations

import av

# Playlists, scripts and descriptions of streams, which name other files or addresses; and tty, which draws any text.
REFUSED = frozenset(
    "avisynth concat dash hls imf lavfi mpjpeg rtp rtsp sap sdp smoothstreaming tty vapoursynth vobsub".split()
) | {"webm_dash_manifest"}

ONE_FILE = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(sorted(av.formats_available - REFUSED)),
    # A file named frame%d.jpg is one image, not a sequence.
    "pattern_type": "none",
}
"""Options of `av.open`."""
