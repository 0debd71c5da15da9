"""A small RTSP server for tests: it plays an MPEG-TS file once, in RTP packets over the connection of its client.

Source: RFC 2326 (RTSP, sections 10 and 10.12 for interleaved data), RFC 3551 (RTP payload type 33, MPEG-TS).
"""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
PACKET = 7 * 188  # bytes: as many packets of MPEG-TS as fit into one of a network


@contextmanager
def serve_rtsp(video: Path, *, password: str = "") -> Iterator[str]:
    """Serve an MPEG-TS file; yields the URL.

    Args:
        video: the file.
        password: of the user `me`; empty to admit everybody.
    """
    content = video.read_bytes()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline().decode():
                headers: dict[str, str] = {}
                while header := self.rfile.readline().decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                method = line.split()[0]
                if password and "authorization" not in headers and method != "OPTIONS":
                    self.answer(headers, 'WWW-Authenticate: Basic realm="test"', status="401 Unauthorized")
                elif method == "DESCRIBE":
                    self.answer(headers, "Content-Type: application/sdp", body=SDP)
                elif method == "SETUP":
                    self.answer(headers, "Session: 1", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
                elif method == "PLAY":
                    self.answer(headers, "Session: 1")
                    self.play()
                    return
                else:
                    self.answer(headers, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

        def answer(self, request: dict[str, str], *headers: str, status: str = "200 OK", body: str = "") -> None:
            lines = [f"RTSP/1.0 {status}", f"CSeq: {request['cseq']}", *headers, f"Content-Length: {len(body)}"]
            self.wfile.write("\r\n".join([*lines, "", body]).encode())

        def play(self) -> None:
            for number, place in enumerate(range(0, len(content), PACKET)):
                payload = (
                    struct.pack(">BBHII", 0x80, 33, number % 2**16, 3000 * number, 1) + content[place : place + PACKET]
                )
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(payload)) + payload)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"rtsp://{'me:' + password + '@' if password else ''}127.0.0.1:{server.server_address[1]}/live"
    finally:
        server.shutdown()
        server.server_close()
