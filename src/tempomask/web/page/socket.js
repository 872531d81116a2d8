// The one connection to the server: what comes in goes to the store, what goes out is a message.

import { answered } from "./canvas.js";
import { forgetFrames, fetchFrame } from "./frames.js";
import { changed, countOf, rowsOn, select, setFrame, store, takeFrames, takeObjects, takePrompts } from "./store.js";

let socket = null, wanted = null, waiting = null;
let asked = new Set();
const once = { added: [] };

export function connect() {
  const address = new URL("socket", location.href);
  address.protocol = "ws:";
  socket = new WebSocket(address);
  socket.onmessage = (event) => take(JSON.parse(event.data));
  socket.onclose = () => {
    wait(0);
    store.hello = null;
    store.lost = true;
    changed("state");
    setTimeout(connect, 2000);
  };
}

// Messages that the server says nothing of when they are done.
const QUIET = new Set(["open", "look", "masks", "hover", "export"]);
let pending = 0;
function wait(count) {
  pending = Math.max(0, count);
  document.body.dataset.pending = pending;
}

export function send(type, fields = {}) {
  if (socket?.readyState !== WebSocket.OPEN) return;
  if (!QUIET.has(type)) wait(pending + 1);
  socket.send(JSON.stringify({ type, ...fields }));
}

export function openVideo(number) {
  wanted = number;
  store.project = null;
  changed("state");
  send("open", { video: number });
}

// Do something with the object that the server adds next.
export function addObject(then = () => {}) {
  once.added.push(then);
  send("add-object");
}

// Ask for the masks of a frame and of those near it that are not here yet.
export function wantMasks(frame) {
  const lacking = (each) => [...rowsOn(each).values()].some((row) => countOf(row) === undefined);
  if (!lacking(frame) || asked.has(frame)) return;
  const last = Math.min(frame + 15, store.project.num_frames - 1);
  for (let each = frame; each <= last; each++) asked.add(each);
  send("masks", { first: frame, last });
}

export function toast(text) {
  const line = document.createElement("p");
  line.textContent = text;
  const toasts = document.getElementById("toasts");
  toasts.append(line);
  // Shown anew, it lies above a dialog too.
  if (toasts.matches(":popover-open")) toasts.hidePopover();
  toasts.showPopover();
  setTimeout(() => line.remove(), 6000);
}

const takers = {
  hello(event) {
    const first = store.hello === null;
    store.hello = event;
    if (first && event.videos.length) openVideo(Math.min(wanted ?? 0, event.videos.length - 1));
    changed("state", "hello");
  },
  project(event) {
    const same = store.project === null && event.video === waiting;
    waiting = event.video;
    store.project = event;
    document.title = `${event.name} · tempomask`;
    store.prompts.clear();
    store.frames.clear();
    asked = new Set();
    takeObjects(event.objects);
    takePrompts(event.prompts);
    takeFrames(event.frames);
    store.history = event;
    store.routing = event.routing;
    store.progress = event.tracking;
    if (!same) {
      store.frame = 0;
      store.range = null;
      forgetFrames(event.video);
    }
    store.frame = Math.min(store.frame, event.num_frames - 1);
    fetchFrame(store.frame);
    send("look", { frame: store.frame });
    changed("state", "project", "objects", "frame", "image", "lanes", "history", "routing", "progress");
  },
  change(event) {
    takeObjects(event.objects);
    takePrompts(event.prompts);
    takeFrames(event.frames);
    event.frames.forEach(([frame]) => asked.delete(frame));
    store.history = event;
    store.routing = event.routing;
    store.preview = null;
    changed("objects", "frame", "lanes", "history", "routing");
  },
  added(event) {
    select(event.object);
    once.added.shift()?.(event.object);
  },
  masks(event) {
    takeFrames(event.frames);
    event.frames.forEach(([frame]) => asked.delete(frame));
    changed("frame");
  },
  preview(event) {
    if (event.frame === store.frame && event.id === store.asking) {
      store.preview = event;
      changed("preview");
    }
    answered(event.id);
  },
  tracked(event) {
    takeFrames(event.frames);
    store.progress = event;
    if (store.following) setFrame(event.frame);
    changed("progress", "lanes", "frame");
  },
  progress(event) {
    store.progress = event;
    store.following = true;
    changed("state", "progress");
  },
  idle(event) {
    store.progress = null;
    store.history = event;
    changed("state", "progress", "history", "lanes");
  },
  review(event) {
    store.review = event.items;
    changed("review");
  },
  command(event) {
    store.command = event.text;
    changed("command");
  },
  exporting() {
    store.exported = { busy: true };
    changed("exported");
  },
  exported(event) {
    store.exported = event;
    changed("exported");
  },
  done() {
    wait(pending - 1);
    document.body.dataset.done = Number(document.body.dataset.done) + 1;
  },
  error(event) {
    once.added.length = 0;
    toast(event.text);
    // A video that cannot be opened gives way to the one before.
    if (!store.project && waiting !== null && wanted !== waiting) openVideo(waiting);
    changed("state");
  },
};

function take(event) {
  takers[event.type]?.(event);
}
