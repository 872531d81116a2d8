"""One open video: its project, its pages, and what happens when a page says something.

Everything here runs in the server's event loop, so that changes come one after the other; frames
are read and masks computed elsewhere. A page is a `Client`; all pages of a video see all changes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from tempomask.errors import InputError
from tempomask.files import write_errors
from tempomask.io.video import Video
from tempomask.prompts import Prompt, check_given
from tempomask.rle import RLE, decode_rle
from tempomask.web.clicker import Clicker, entry_of_prompt
from tempomask.web.client import Client
from tempomask.web.everything import new_prompts
from tempomask.web.history import History
from tempomask.web.messages import Message
from tempomask.web.models import Models
from tempomask.web.pixels import Pixels
from tempomask.web.project import Project, new_object
from tempomask.web.runs import Progress, Run
from tempomask.web.state import Change, MaskEntry, Settings, Spot, State, Table, Values
from tempomask.web.views import (
    change_view,
    history_view,
    mask_row,
    masks_view,
    project_view,
    review_view,
)
from tempomask.web.worker import Worker

# Seconds that the end of the server waits for the step at hand of a run.
_PATIENCE = 10


class Room:
    """An open video.

    Args:
        number: Of the video in the list.
        video: Open.
        project: Of the video, open.
        models: For clicks and tracking.
        worker: Does their work.
    """

    def __init__(
        self, number: int, video: Video, project: Project, models: Models, worker: Worker
    ) -> None:
        self.number, self.video, self.project = number, video, project
        self.models, self.worker = models, worker
        self.pixels = Pixels(video)
        self.clients: set[Client] = set()
        self.progress: Progress | None = None
        self._clicker: Clicker | None = None
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()
        self._ended.set()
        self._times: deque[float] = deque(maxlen=12)
        self._review_due = False
        self._handlers: dict[str, Callable[[Message], Any]] = {
            "add-object": self._add_object,
            "edit-object": self._edit_object,
            "delete-object": self._delete_object,
            "click": self._click,
            "box": self._box,
            "paint": self._paint,
            "clear": self._clear,
            "everything": self._everything,
            "undo": lambda _: self._step(self.state.undo(), "undo"),
            "redo": lambda _: self._step(self.state.redo(), "redo"),
            "track": self._track,
            "routing": self._routing,
        }

    @property
    def state(self) -> State:
        """The project's tables."""
        return self.project.state

    def enter(self, client: Client) -> None:
        """A page comes in and gets everything."""
        self.clients.add(client)
        client.room = self
        client.send(project_view(self))
        client.send(review_view(self.project))

    def leave(self, client: Client) -> None:
        """A page goes."""
        self.clients.discard(client)

    def broadcast(self, event: dict[str, Any]) -> None:
        """Tell all pages."""
        for client in list(self.clients):
            client.send(event)

    async def handle(self, client: Client, message: Message) -> None:
        """Do what a page says; InputError for what cannot be done."""
        kind = message["type"]
        if kind == "masks":
            client.send(masks_view(self.project, message["first"], message["last"]))
        elif kind == "look":
            self._check_frame(message["frame"])
            self.worker.submit_newest(
                ("look", client.number), lambda: self._segment(message["frame"], ())
            )
        elif kind == "hover":
            self._hover(client, message)
        elif kind == "stop":
            await self.stop()
        else:
            async with self._turn:
                # A correction ends the run that it corrects; names and colours do not.
                if kind not in ("add-object", "edit-object", "routing"):
                    await self.stop()
                answer = self._handlers[kind](message)
                if asyncio.iscoroutine(answer):
                    await answer

    async def stop(self) -> None:
        """End tracking, and wait until it has."""
        if self.progress is not None:
            self.worker.stop()
            await self._ended.wait()

    async def close(self) -> None:
        """Let go of the video and the project; a run that does not end is left behind."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop(), _PATIENCE)
        self.pixels.close()
        self.video.close()
        self.project.close()

    # Objects.

    def _add_object(self, message: Message) -> None:
        object_id = self.state.next_id()
        self._change("add object", [("objects", object_id, new_object(object_id))])
        self.broadcast({"type": "added", "object": object_id})

    def _edit_object(self, message: Message) -> None:
        info = self._object(message["object"], locked=True)
        fields = {name: message[name] for name in ("color", "visible", "locked") if name in message}
        named = " ".join(message.get("name", info.name).split())
        edited = replace(info, name=named, **fields)
        self._change(f"change {info.name}", [("objects", info.id, edited)])

    def _delete_object(self, message: Message) -> None:
        info = self._object(message["object"])
        self._change(f"delete {info.name}", self.state.without(info.id))

    # Prompts.

    async def _click(self, message: Message) -> None:
        spot = self._spot(message)
        point = (message["x"], message["y"])
        prompt = Prompt(*spot, points=point, labels=message["label"])
        await self._prompt(spot, (*self._before(spot), prompt), "click")

    async def _box(self, message: Message) -> None:
        spot = self._spot(message)
        await self._prompt(spot, (Prompt(*spot, box=message["box"]),), "box")

    async def _paint(self, message: Message) -> None:
        spot = self._spot(message)
        size = list(self.project.video.size)
        mask = decode_rle(RLE(size=size, counts=message["counts"]))
        values: Values = [("prompts", spot, None), ("masks", spot, None)]
        if mask.any():
            prompt = Prompt(*spot, mask=mask)
            values = [("prompts", spot, (prompt,)), ("masks", spot, entry_of_prompt(prompt))]
        self._change("brush", values)

    async def give_masks(self, frame: int, prompts: Iterable[Prompt]) -> None:
        """Masks that a person uploaded, with objects for those that are not there."""
        async with self._turn:
            await self.stop()
            self._check_frame(frame)
            self._take_masks("upload mask", prompts)

    def _take_masks(self, label: str, prompts: Iterable[Prompt]) -> None:
        values: Values = []
        for prompt in prompts:
            prompt.check_inside(self.project.video.size)
            spot = Spot(prompt.frame, prompt.object_id)
            if prompt.object_id in self.state.objects:
                self._object(prompt.object_id)
            else:
                values.append(("objects", prompt.object_id, new_object(prompt.object_id)))
            values += [("prompts", spot, (prompt,)), ("masks", spot, entry_of_prompt(prompt))]
        self._change(label, values)

    async def _everything(self, message: Message) -> None:
        """An object for everything on a frame that none has yet."""
        frame, first = message["frame"], self.state.next_id()
        self._check_frame(frame)
        known = [entry for spot, entry in self.state.masks.items() if spot.frame == frame]
        job = self.worker.submit(
            lambda: new_prompts(self.models.plain(), self.pixels.frame, frame, first, known)
        )
        self._take_masks("find everything", await asyncio.wrap_future(job))

    def _clear(self, message: Message) -> None:
        spot = self._spot(message)
        self._change("clear frame", [("prompts", spot, None), ("masks", spot, None)])

    def _hover(self, client: Client, message: Message) -> None:
        """What a click would give, for one page, unless a newer question overtakes it."""
        spot = Spot(message["frame"], 0) if message["object"] == 0 else self._spot(message)
        self._check_frame(spot.frame)
        if self.progress is not None:
            return
        point = Prompt(*spot, points=(message["x"], message["y"]), labels=message["label"])
        prompts = (*self._before(spot), point)
        loop = asyncio.get_running_loop()

        def answer() -> None:
            entry = self._segment(spot.frame, prompts)
            if entry is not None:
                row = mask_row(spot.object_id, entry, True)
                event = {"type": "preview", "id": message["id"], "frame": spot.frame, "mask": row}
                loop.call_soon_threadsafe(client.send, event)

        if not prompts[0].is_negative_only:
            self.worker.submit_newest(("hover", client.number), answer)

    def _before(self, spot: Spot) -> tuple[Prompt, ...]:
        """The prompts that a new one adds to: a tracked mask is where a correction begins."""
        given = self.state.prompts.get(spot, ())
        entry = self.state.masks.get(spot)
        if given or entry is None or not entry.area:
            return given
        size = list(self.project.video.size)
        mask = decode_rle(RLE(size=size, counts=entry.counts))
        return (Prompt(*spot, mask=mask),)

    async def _prompt(self, spot: Spot, prompts: tuple[Prompt, ...], label: str) -> None:
        for prompt in prompts:
            prompt.check_inside(self.project.video.size)
        check_given(prompts)
        job = self.worker.submit(lambda: self._segment(spot.frame, prompts))
        entry = await asyncio.wrap_future(job)
        self._change(label, [("prompts", spot, prompts), ("masks", spot, entry)])

    def _segment(self, frame: int, prompts: tuple[Prompt, ...]) -> MaskEntry | None:
        """In the worker: the mask of prompts; without any, the frame is made ready."""
        if self._clicker is None:
            self._clicker = Clicker(self.models.plain(), self.pixels.frame)
        if not prompts:
            self._clicker.look_at(frame)
            return None
        return self._clicker.mask(frame, prompts)

    # Tracking.

    def _track(self, message: Message) -> None:
        chosen = set(message.get("objects", self.state.objects))
        objects = [info.id for info in self.state.objects.values()
                   if not info.locked and info.id in chosen]  # fmt: skip
        count = self.project.video.num_frames
        self._check_frame(message["frame"])
        limits = range(message.get("first", 0), min(message.get("last", count - 1) + 1, count))
        if not limits:
            raise InputError("that range has no frames")
        loop = asyncio.get_running_loop()
        run = Run(
            prompts=self.state.all_prompts(objects),
            direction=message["direction"],
            frame=message["frame"],
            limits=limits,
            budget=self.project.settings.budget,
            fps=self.project.settings.fps,
        )
        total = run.total()
        change = Change(f"track {message['direction']}")

        def tell(function: Callable[..., None], *arguments: Any) -> None:
            loop.call_soon_threadsafe(function, change, *arguments)

        steps = run.steps(self.models, self.video, lambda *a: tell(self._frame_done, *a))
        self.worker.start(steps, lambda error: tell(self._run_ended, error))
        self.progress = Progress(total, objects)
        self._ended.clear()
        self._times.clear()
        self.broadcast(self.progress.view())

    def _frame_done(
        self, change: Change, frame: int, entries: dict[int, MaskEntry], blocks: str
    ) -> None:
        """A frame of the run: masks that a person drew stay as they are."""
        assert self.progress is not None, "a run is under way"
        values: Values = [("blocks", frame, blocks)]
        for object_id, entry in entries.items():
            spot = Spot(frame, object_id)
            prompts = self.state.prompts.get(spot, ())
            drawn = len(prompts) > 0 and prompts[-1].mask is not None
            if object_id in self.state.objects and not drawn:
                values.append(("masks", spot, entry))
        edits = self.state.extend(change, values)
        touched: list[tuple[Table, Any]] = [(edit.table, edit.key) for edit in edits]
        self._save(touched, lambda history: history.add(change, edits, ended=False))
        self._times.append(time.perf_counter())
        self.progress = self.progress.after(frame, self._times)
        self.broadcast({**self.progress.view(), **masks_view(self.project, frame, frame),
                        "type": "tracked"})  # fmt: skip
        self._review_later()

    def _run_ended(self, change: Change, error: str | None) -> None:
        self.progress = None
        self._ended.set()
        if change.edits:
            self.state.keep(change)
            self._save((), lambda history: history.add(change, ()))
        self.broadcast({"type": "idle", **history_view(self.state)})
        if error is not None:
            self.broadcast({"type": "error", "text": error})
        self._review_later()

    def _routing(self, message: Message) -> None:
        budget, fps = message["budget"], message["fps"]
        if budget is not None and fps is not None:
            raise InputError("a target for the speed chooses the budget itself; give one of both")
        if (budget or fps) and not self.models.can_route:
            raise InputError(f"{self.models.name} has no router; choose a model with an adapter")
        self._change("set speed", [("settings", "speed", Settings(budget, fps))])

    # What all of these share.

    def _object(self, object_id: int, locked: bool = False) -> Any:
        info = self.state.objects.get(object_id)
        if info is None:
            raise InputError(f"there is no object {object_id}")
        if info.locked and not locked:
            raise InputError(f"{info.name} is locked; unlock it to change it")
        return info

    def _spot(self, message: Message) -> Spot:
        self._object(message["object"])
        self._check_frame(message["frame"])
        return Spot(message["frame"], message["object"])

    def _check_frame(self, frame: int) -> None:
        if frame >= self.project.video.num_frames:
            raise InputError(f"frame {frame} is past the end of the video")

    def _change(self, label: str, values: Values) -> None:
        change = self.state.change(label, values)
        if change is not None:
            self._announce(change, lambda history: history.add(change, change.edits))

    def _step(self, change: Change | None, name: Literal["undo", "redo"]) -> None:
        if change is not None:
            self._announce(change, lambda history: history.step(name))

    def _announce(self, change: Change, note: Callable[[History], None]) -> None:
        """Save a change and tell all pages of it."""
        self._save(change.touched, note)
        self.broadcast(change_view(self.project, change.touched))
        self._review_later()

    def _save(
        self, touched: Collection[tuple[Table, Any]], note: Callable[[History], None]
    ) -> None:
        """Bring it to disk, and then note what undo is to do."""
        try:
            self.project.save(touched)
            with write_errors(self.project.folder):
                note(self.project.history)
        except InputError as error:
            self.broadcast({"type": "error", "text": f"not saved: {error}"})

    def _review_later(self) -> None:
        """Bring the review list up to date, at most twice a second."""
        if self._review_due:
            return
        self._review_due = True

        def tell() -> None:
            self._review_due = False
            self.broadcast(review_view(self.project))

        asyncio.get_running_loop().call_later(0.5, tell)
