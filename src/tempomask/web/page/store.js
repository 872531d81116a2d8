// What the page knows: the project as the server tells it, and what this page alone looks at.

import { fetchFrame } from "./frames.js";

const listeners = new Map();

export const store = {
  hello: null,
  project: null, // width, height, num_frames, fps, name, folder, video
  objects: [], // {id, name, color, visible, locked}
  prompts: new Map(), // "frame/object" -> prompts
  frames: new Map(), // frame -> {rows: Map(object -> row), blocks}
  review: [],
  history: { undo: null, redo: null },
  routing: { budget: null, fps: null },
  progress: null,
  command: "",
  frame: 0,
  selected: null,
  tool: "click",
  label: 1,
  brush: 18,
  masksShown: true,
  range: null, // [first, last]
  preview: null, // {frame, mask}
  broken: new Map(), // frame -> why it cannot be shown
};

export function on(names, listener) {
  for (const name of names.split(" ")) {
    if (!listeners.has(name)) listeners.set(name, new Set());
    listeners.get(name).add(listener);
  }
}

const due = new Set();
export function changed(...names) {
  const idle = due.size === 0;
  names.forEach((name) => due.add(name));
  if (idle) requestAnimationFrame(tell);
}

function tell() {
  const names = [...due];
  due.clear();
  const called = new Set(names.flatMap((name) => [...(listeners.get(name) ?? [])]));
  called.forEach((listener) => listener());
}

export const spotKey = (frame, object) => `${frame}/${object}`;
export const objectOf = (id) => store.objects.find((each) => each.id === id);
export const selected = () => objectOf(store.selected);
export const rowsOn = (frame) => store.frames.get(frame)?.rows ?? new Map();
export const countOf = (row) => row[8]; // the run-length code, if it is here

export function setFrame(frame) {
  if (!store.project) return;
  const next = Math.max(0, Math.min(store.project.num_frames - 1, Math.round(frame)));
  if (next === store.frame) return;
  store.frame = next;
  store.preview = null;
  fetchFrame(next);
  changed("frame");
}

export function select(id) {
  if (store.selected === id) return;
  store.selected = id;
  store.preview = null;
  changed("objects", "frame");
}

export function takeObjects(objects) {
  store.objects = objects;
  if (!objectOf(store.selected)) store.selected = objects.at(-1)?.id ?? null;
}

export function takeFrames(frames) {
  for (const [frame, rows, blocks] of frames) {
    const before = rowsOn(frame), found = new Map();
    for (const row of rows) {
      // The code that is known already stays, if the mask is the same.
      const known = before.get(row[0]);
      if (row.length < 9 && known && row.every((value, i) => value === known[i])) found.set(row[0], known);
      else found.set(row[0], row);
    }
    if (found.size || blocks) store.frames.set(frame, { rows: found, blocks });
    else store.frames.delete(frame);
  }
}

export function takePrompts(list) {
  for (const [frame, object, prompts] of list) {
    if (prompts.length) store.prompts.set(spotKey(frame, object), { frame, object, prompts });
    else store.prompts.delete(spotKey(frame, object));
  }
}
