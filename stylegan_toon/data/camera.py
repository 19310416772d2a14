"""A camera: always its newest picture."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import ToonError, short
from .video import av_module

# How FFmpeg calls cameras, and the first one, by operating system. Windows has no number for it, only names.
_CAMERAS = {"linux": ("v4l2", "/dev/video0"), "darwin": ("avfoundation", "0"), "win32": ("dshow", "")}


class Camera:
    """Reads a camera in a thread and keeps its newest picture; older ones that nobody asked for are dropped.

    ::

        with Camera() as camera:
            while (image := camera.newest()) is not None:
                ...

    Args:
        source: the device, such as ``/dev/video1``, ``1`` (macOS) or ``video=Integrated Camera`` (Windows); None = the
            first one. With ``kind`` "file" the path of a film, which is read as fast as it can be.
        kind: FFmpeg's name of the device's kind; None = that of the operating system.
        size: width and height in pixels that the camera is asked for; None = its own.
        rate: frames a second that it is asked for; None = its own.

    Raises:
        ToonError: there is no such camera, it may not be used, or the package av is missing.
    """

    def __init__(
        self,
        source: str | None = None,
        *,
        kind: str | None = None,
        size: tuple[int, int] | None = (640, 480),
        rate: int | None = None,
    ) -> None:
        system = next((name for name in _CAMERAS if sys.platform.startswith(name)), "linux")
        kind, source = kind or _CAMERAS[system][0], source or _CAMERAS[system][1]
        if not source:
            raise ToonError("Say which camera: video=NAME, as the settings of Windows call it.")
        av, options = av_module(), {}
        if kind != "file":
            options = {"video_size": "{}x{}".format(*size)} if size else {}
            options |= {"framerate": str(rate)} if rate else {}
        try:
            self._container = av.open(source, format=None if kind == "file" else kind, options=options)
        except (OSError, ValueError) as error:  # av's errors are of these kinds
            reason = short(getattr(error, "strerror", None) or error)
            raise ToonError(f"The camera {source} cannot be opened ({reason}): give another one.") from error
        if not self._container.streams.video:
            self._container.close()
            raise ToonError(f"{source} gives no pictures: give a camera.")
        self._changed = threading.Condition()
        self._frame: Any = None
        self._ended = self._stopping = False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for frame in self._container.decode(video=0):
                with self._changed:
                    if self._stopping:
                        return
                    self._frame = frame
                    self._changed.notify_all()
        except (OSError, ValueError):  # unplugged
            pass
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def newest(self, timeout: float = 5.0) -> Image.Image | None:
        """The newest picture, RGB, that was not given before; waits for one. None when the camera has ended.

        Raises:
            ToonError: no picture came for ``timeout`` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._frame is not None or self._ended, timeout):
                raise ToonError(f"The camera has given no picture for {timeout:g} seconds: plug it in again.")
            frame, self._frame = self._frame, None
        if frame is None:
            return None
        pixels = frame.to_ndarray(format="rgb24")
        return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4)))

    def close(self) -> None:
        """Stop reading and let the camera go."""
        with self._changed:
            self._stopping = True
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._container.close()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()
