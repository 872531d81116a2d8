"""FFmpeg's containers by PyAV: the one place that opens them, for reading and for writing.

Files that are written are mp4: H.264 in yuv420p, which every player takes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.files import part_path
from tempomask.frames import Frame, Size
from tempomask.limits import check_limit, limits

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

# What is opened: containers that hold all of a video themselves, audio to tell it apart, and images
# that are called a video. Not on the list is what names other files, and what draws text.
_DEMUXERS = (
    "apng,apv,asf,av1,avi,avs2,avs3,cavsvideo,cine,dhav,dirac,dnxhd,dv,evc,flic,flv,gif,gxf,h261,"
    "h263,h264,hevc,ivf,live_flv,lmlm4,m4v,matroska,mjpeg,mjpeg_2000,mlv,moflex,mov,mpeg,mpegts,"
    "mpegvideo,mpjpeg,mxf,nsv,nut,nuv,obu,ogg,pva,r3d,rm,ser,smjpeg,swf,ty,vc1,vc1test,vvc,webm,"
    "wtv,yuv4mpegpipe,aac,ac3,aiff,amr,ape,au,caf,dts,eac3,flac,mp3,wav,wv,w64,bmp_pipe,gif_pipe,"
    "j2k_pipe,jpeg_pipe,jpegxl_anim,jpegxl_pipe,pam_pipe,pgm_pipe,png_pipe,ppm_pipe,tiff_pipe,"
    "webp,webp_pipe"
)
_PLAYLISTS = ",hls,dash,concat,sdp"
_STREAMING = ",rtp,rtsp,sap"
# How a playlist begins, to say what it is when it is refused.
_PLAYLIST_MARKS = (b"#EXTM3U", b"ffconcat", b"<MPD", b"v=0", b"<?xml")
# The schemes of a URL that is opened, and what FFmpeg needs below them.
SCHEMES = ["http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp"]
_BELOW = ["httpproxy", "tls", "rtmpt", "rtmpts", "crypto"]

# Units of time of a video whose rate varies, in seconds: those of MPEG.
CLOCK = Fraction(1, 90_000)

# For sources without a clock: the rate of DAVIS and of cinema.
DEFAULT_FPS = 24.0

# The encoders PyAV may be built with, best first, and what makes them fast at good quality.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libopenh264": {"b": "6M"},
    "mpeg4": {"q": "4"},
}


def open_container(
    source: str | Path,
    name: str,
    *,
    demuxer: str | None = None,
    options: dict[str, str] | None = None,
) -> InputContainer:
    """A container opened for reading: a file, which may be called anything, or a URL.

    A file is read with FFmpeg's protocol for files alone, a URL with those of networks alone.

    Args:
        source: A path to a file, or a URL; with a demuxer what FFmpeg calls the device.
        name: Of the source, for messages.
        demuxer: FFmpeg's name of a capture device; None for files and URLs.
        options: Of FFmpeg.

    Raises:
        InputError: When FFmpeg finds nothing in it that it knows and that is allowed.
    """
    import av

    local = isinstance(source, Path)
    options = dict(options or {})
    if demuxer is None:
        formats = _DEMUXERS + (_PLAYLISTS if limits().playlists else "")
        options["format_whitelist"] = formats if local else formats + _STREAMING
        protocols = ["file", "crypto"] if local else [*SCHEMES, *_BELOW]
        options["protocol_whitelist"] = ",".join(protocols)
    try:
        # Bytes that are not text in a title must not stop the reading of the images.
        return av.open(
            f"file:{os.path.abspath(source)}" if local else source,
            format=demuxer,
            options=options,
            metadata_errors="replace",
            timeout=None if local or demuxer else (10.0, 10.0),
        )
    except av_errors() as error:
        reason = error_text(error)
    if local and _is_playlist(source) and not limits().playlists:
        raise InputError(
            f"{name} is a playlist, which names other files; to follow it, if it is to be trusted,"
            " give --allow-playlists"
        )
    if local:
        raise InputError(
            f"cannot read {name} as a video ({reason}); the file is not a video, or was cut short"
            " before it was finished"
        )
    raise InputError(
        f"cannot open {name} ({reason}); check that it is there, and not in use, and give"
        " --allow-playlists if it is a playlist"
    )


def _is_playlist(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \n\r\t").startswith(_PLAYLIST_MARKS)
    except OSError:
        return False


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The best video stream; InputError if there is none. Cover images of music do not count."""
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        found = f" (only {' and '.join(kinds)})" if kinds else ""
        raise InputError(f"{name} holds no video{found}; give a video file")
    best = container.streams.best("video")
    stream: Any = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise InputError(f"{name} has a video that this FFmpeg cannot decode; convert it to H.264")
    check_limit("pixels", stream.width * stream.height, f"{name}: a frame")
    # The size may change later on; the decoder knows the limit too.
    stream.codec_context.options = {"max_pixels": str(limits().pixels)}
    return stream


def frame_rate(stream: VideoStream) -> float | None:
    """Frames per second, on average where they vary; None if the stream does not say."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else None


def pixel_aspect(stream: VideoStream, image: Frame) -> Fraction:
    """Width over height of a pixel of the upright image, as it is shown; 1 if nothing is said."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    turned = image.shape[:2] == (stream.width, stream.height) and stream.width != stream.height
    return 1 / aspect if turned and aspect > 0 else max(aspect, Fraction(1, 100))


def upright(frame: VideoFrame) -> Frame:
    """The decoded frame as RGB, uint8 (H, W, 3), turned and mirrored as its metadata says."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    matrix = _display_matrix(frame)
    if matrix is None:
        return image
    (a, b), (c, d) = matrix
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), y downwards.
    if abs(b) > abs(a):
        image = image.transpose(1, 0, 2)
        a, d = c, b
    image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)


def _display_matrix(frame: VideoFrame) -> NDArray[np.float64] | None:
    """The 2 x 2 part of the display matrix (ISO/IEC 14496-12, 8.3.2); None without one."""
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know some newer kinds of side data
        angle = np.deg2rad(frame.rotation)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if data is None:
        return None
    matrix = np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    return matrix if matrix.any() else None


def size_changed(name: str, position: int, size: tuple[int, int], image: Frame) -> InputError:
    """The error for a frame that is not as large as the first."""
    height, width = image.shape[:2]
    return InputError(
        f"{name}: frame {position} has {width} x {height} pixels, the first has {size[1]} x"
        f" {size[0]}; bring all frames to one size, for instance with `ffmpeg -i FILE -vf"
        f" scale={size[1]}:{size[0]} same.mp4`"
    )


def av_errors() -> tuple[type[Exception], ...]:
    """What reading and decoding may raise; not all of FFmpeg's errors are OSError or ValueError."""
    from av.error import FFmpegError

    return FFmpegError, OSError, ValueError


def error_text(error: BaseException) -> str:
    """What went wrong in FFmpeg's words, without error numbers and paths."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


class _Sink(FileIO):
    """A file for FFmpeg to write to. Writing seems to succeed always: a failure is kept as `error`.

    FFmpeg's own writing ends in a segmentation fault where the disk becomes full at a bad moment.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data)
        try:
            while rest and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return len(data)

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def open_mp4(part: Path) -> tuple[_Sink, OutputContainer]:
    """An mp4 to be written as a part, its index first; with the file, to look for errors."""
    import av

    part.unlink(missing_ok=True)  # a link there would lead the writing elsewhere
    sink = _Sink(os.path.abspath(part), "w+")
    sink.name = "video.mp4"  # what PyAV calls it; no name of a file that is not text in UTF-8
    # The part's name does not end in .mp4, so the format is named. To move the index to the front,
    # what is written is read once more.
    return sink, av.open(
        sink,
        "w",
        format="mp4",
        options={"movflags": "+faststart"},
        io_open=lambda *_: FileIO(part),
    )


class VideoWriter:
    """Write RGB frames, uint8 (H, W, 3), to an mp4. Use as a context manager, or call `close`.

    The file gets its name when it is closed and is whole then, however few frames it holds; with
    none it is not made. Odd sizes are padded by a row or column of the edge. The index comes first,
    so that a browser starts to play at once.

    Args:
        path: Of the file.
        size: (H, W) of the frames.
        fps: Frames per second; None for 24.
        aspect: Width over height of a pixel as it is shown.
    """

    def __init__(
        self, path: str | Path, size: Size, fps: float | None = None, aspect: Fraction | int = 1
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.num_frames = 0
        self._aspect = Fraction(aspect)
        # Seconds of the first frame and units of the clock of the last, where times are given.
        self._begin, self._last = 0.0, -1
        self._fps = Fraction(fps or DEFAULT_FPS).limit_denominator(100_000)
        self._part = part_path(self.path)
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: Frame, seconds: float | None = None) -> None:
        """Append one frame; InputError if it has another size.

        seconds: Its time on any clock, of all frames or of none; the next by the rate if not given.
        """
        import av

        if frame.shape != (*self.size, 3):
            raise InputError(
                f"frame of shape {frame.shape} in a video of {self.size[1]} x {self.size[0]}"
                " pixels; all frames must be of one size"
            )
        height, width = self.size
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        # Players take images without a note on colour as BT.709.
        image = image.reformat(format="yuv420p", dst_colorspace="ITU709")
        if seconds is None:
            image.pts, image.time_base = self.num_frames, 1 / self._fps
        else:
            self._begin = seconds if not self.num_frames else self._begin
            self._last = max(self._last + 1, round((seconds - self._begin) / CLOCK))
            image.pts, image.time_base = self._last, CLOCK
        self._encode(image, seconds is not None)
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._container is None:
            return
        try:
            self._encode(None)
            self._container.close()
            self._file.close()
            self._file.check()
            os.replace(self._part, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Throw away what has not been closed."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(*av_errors()):  # of an encoder that never began
                container.close()
            self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encode(self, image: VideoFrame | None, timed: bool = False) -> None:
        """Encode a frame, or with None what the encoder still holds. timed: frames have times."""
        from av.error import FFmpegError

        container, stream = self._opened(timed)
        try:
            container.mux(stream.encode(image))
        except FFmpegError as error:
            raise InputError(
                f"cannot encode a video of {self.size[1]} x {self.size[0]} pixels"
                f" ({error_text(error)}); leave the overlay out"
            ) from None
        self._file.check()

    def _opened(self, timed: bool) -> tuple[Any, Any]:
        """The container and its stream, opened with the first frame."""
        import av

        if self._container is not None:
            return self._container, self._stream
        name = next((name for name in _ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise InputError("this PyAV has no H.264 or MPEG-4 encoder; install the wheel of av")
        self._file, self._container = open_mp4(self._part)
        stream = self._container.add_stream(name, rate=self._fps, options=dict(_ENCODERS[name]))
        height, width = self.size
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = CLOCK if timed else 1 / self._fps
        stream.sample_aspect_ratio = context.sample_aspect_ratio = self._aspect
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 to 235
        self._stream = stream
        return self._container, stream
