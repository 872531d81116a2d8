"""The audio of a video file, put beside the images of an overlay that was made of it."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.errors import InputError
from tempomask.files import part_path
from tempomask.io.containers import av_errors, error_text, open_container, open_mp4
from tempomask.io.video_file import VideoFile

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer, OutputContainer

    from tempomask.io.sources import Video

# What an mp4 holds as it is; everything else is encoded as AAC.
_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")


def source_of_audio(video: Video | None) -> VideoFile:
    """A video that has audio; InputError for any other source."""
    if not isinstance(video, VideoFile):
        raise InputError("audio comes from a video file, which this source is not; leave it out")
    with open_container(video.path, video.name) as container:
        if not container.streams.audio:
            raise InputError(f"{video.name} has no audio; leave it out")
    return video


def add_audio(path: Path, video: VideoFile, first: int, last: int) -> None:
    """Put what is heard during some frames of a video beside the images of an mp4.

    Args:
        path: Of the mp4, whose images begin with frame `first`. It is replaced in one step.
        video: With audio.
        first: Frame.
        last: Frame, included.

    Raises:
        InputError: For audio that cannot be read; the mp4 is as it was.
    """
    part, begin, end = part_path(path), video.seconds(first), video.seconds(last + 1)
    try:
        with (
            open_container(path, path.name) as images,
            open_container(video.path, video.name) as source,
        ):
            sink, output = open_mp4(part)
            with sink, output:
                shown = _copied(images, output)
                heard = _heard(source, output, begin, end)
                for packet in merge(shown, heard, key=_seconds):
                    output.mux(packet)
        sink.check()
        part.replace(path)
    except av_errors() as error:
        raise InputError(
            f"the audio of {video.name} cannot be used ({error_text(error)}); the overlay is"
            " without it"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _seconds(packet: Packet) -> float:
    time = packet.dts if packet.dts is not None else packet.pts
    return float((time or 0) * packet.time_base)


def _copied(images: InputContainer, output: OutputContainer) -> Iterator[Packet]:
    """The packets of an mp4's images, for a new file."""
    old = images.streams.video[0]
    new = output.add_stream_from_template(old)

    def packets() -> Iterator[Packet]:
        for packet in images.demux(old):
            if packet.size:
                packet.stream = new
                yield packet

    return packets()


def _heard(
    source: InputContainer, output: OutputContainer, begin: float, end: float
) -> Iterator[Packet]:
    """The audio from `begin` to before `end`, in seconds of the source; `begin` becomes 0."""
    best = source.streams.best("audio")
    old = next((each for each in source.streams.audio if each == best), source.streams.audio[0])
    if old.codec_context.name not in _COPIED:
        return _encoded(source, old, output, begin, end)
    new = output.add_stream_from_template(old)

    def packets() -> Iterator[Packet]:
        for packet in source.demux(old):
            if packet.pts is None or not packet.size:
                continue
            shift = round(begin / packet.time_base)
            if begin <= packet.pts * packet.time_base < end:
                packet.pts -= shift
                packet.dts = packet.pts
                packet.stream = new
                yield packet

    return packets()


def _encoded(
    source: InputContainer, old: AudioStream, output: OutputContainer, begin: float, end: float
) -> Iterator[Packet]:
    """The same as AAC; the encoder brings samples to its format by itself."""
    new = output.add_stream("aac", rate=old.codec_context.sample_rate)
    new.codec_context.layout = "mono" if old.codec_context.channels == 1 else "stereo"

    def packets() -> Iterator[Packet]:
        for frame in source.decode(old):
            pts, unit = frame.pts, frame.time_base or old.time_base
            if pts is not None and unit and begin <= pts * unit < end:
                frame.pts = pts - round(begin / unit)
                yield from new.encode(frame)
        yield from new.encode(None)

    return packets()
