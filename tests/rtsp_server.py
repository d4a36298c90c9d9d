"""A real RTSP server for the tests: GStreamer's, run with Debian's own Python.

    /usr/bin/python3 tests/rtsp_server.py PORT [USER PASSWORD]

``/h264``, ``/h265`` and ``/mjpeg`` show a moving test picture of 320x240 at 10 frames per second; all want the
credentials if such are given. Prints ``ready`` once it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=10/1"
STREAMS = {
    "/h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 config-interval=1",
    "/h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph265pay name=pay0 config-interval=1",
    "/mjpeg": "jpegenc quality=80 ! rtpjpegpay name=pay0",
}


def main() -> None:
    port, *credentials = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    auth = GstRtspServer.RTSPAuth()
    if credentials:
        token = GstRtspServer.RTSPToken()
        token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(*credentials), token)
        server.set_auth(auth)
    for path, encoder in STREAMS.items():
        factory = GstRtspServer.RTSPMediaFactory(shared=True)
        factory.set_launch(f"( {PICTURE} ! {encoder} )")
        if credentials:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(path, factory)
    if server.attach(None) == 0:
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


main()
