// What buttons and keys do: every action has one name, which its button carries as data-action.

import { box, click, cursor, draw, fitView, stamp } from "./canvas.js";
import { KEYS } from "./help.js";
import { nextReview } from "./objects.js";
import { addObject, openVideo, send, toast } from "./socket.js";
import { changed, on, select, selected, setFrame, store } from "./store.js";

const element = (id) => document.getElementById(id);
let playing = null, corner = null;

function go(frame) {
  store.following = false;
  setFrame(frame);
}

function play() {
  if (playing) {
    clearInterval(playing);
    playing = null;
  } else {
    if (store.frame === store.project?.num_frames - 1) go(0);
    playing = setInterval(() => {
      if (!store.project || store.frame >= store.project.num_frames - 1) play();
      // A frame that has not come yet is waited for.
      else if (element("frame").dataset.shown !== "") go(store.frame + 1);
    }, 1000 / Math.min(60, store.project.fps ?? 24));
  }
  changed("state");
}

function track(direction, more = {}) {
  const only = element("only-selected").checked && store.selected !== null;
  send("track", { direction, frame: store.frame, ...(only ? { objects: [store.selected] } : {}), ...more });
}

const edit = (field) => {
  const info = selected();
  if (info) send("edit-object", { object: info.id, [field]: !info[field] });
};

const tool = (name) => () => {
  store.tool = name;
  store.preview = null;
  changed("tool", "frame");
};

const label = (value) => () => {
  store.label = value;
  store.preview = null;
  changed("tool", "frame");
};

export const actions = {
  "open-file": () => element("file").click(),
  undo: () => send("undo"),
  redo: () => send("redo"),
  export: () => element("export-dialog").showModal(),
  "export-now": exportNow,
  "copy-command": () => navigator.clipboard?.writeText(store.command).then(() => toast("Copied.")),
  "close-dialog": () => document.querySelectorAll("dialog[open]").forEach((each) => each.close()),
  help: () => element("help-dialog").showModal(),
  theme: switchTheme,
  "tool-click": tool("click"),
  "tool-box": tool("box"),
  "tool-brush": tool("brush"),
  "tool-eraser": tool("eraser"),
  "label-on": label(1),
  "label-off": label(0),
  "switch-label": () => label(1 - store.label)(),
  "upload-mask": () => element("mask-file").click(),
  "clear-frame": () => selected() && send("clear", { frame: store.frame, object: store.selected }),
  "toggle-masks": () => { store.masksShown = !store.masksShown; changed("tool", "frame"); },
  "zoom-fit": fitView,
  "add-object": () => addObject(),
  everything: () => send("everything", { frame: store.frame }),
  "delete-selected": () => selected() && send("delete-object", { object: store.selected }),
  "toggle-visible": () => edit("visible"),
  "toggle-lock": () => edit("locked"),
  rename: () => document.querySelector("#objects [aria-current] .name")?.select(),
  "track-forward": () => track("forward"),
  "track-backward": () => track("backward"),
  "track-both": () => track("both"),
  "track-range": () => store.range && track("forward", { frame: store.range[0], first: store.range[0], last: store.range[1] }),
  stop: () => send("stop"),
  play,
  "next-frame": () => go(store.frame + 1),
  "previous-frame": () => go(store.frame - 1),
  "next-10": () => go(store.frame + 10),
  "previous-10": () => go(store.frame - 10),
  "first-frame": () => go(0),
  "last-frame": () => go(store.project.num_frames - 1),
  "range-start": () => markRange(0),
  "range-end": () => markRange(1),
  "next-review": () => nextReview(1),
  "previous-review": () => nextReview(-1),
  "smaller-brush": () => resize(0.8),
  "larger-brush": () => resize(1.25),
  press: () => press(1),
  "press-off": () => press(0),
};

const NAMED = { " ": "Space", ArrowRight: "→", ArrowLeft: "←", Backspace: "Delete" };
const byKey = new Map(KEYS.filter(([, action]) => action).map(([key, action]) => [key, action]));
byKey.set("Ctrl+Y", "redo");

function pressed(event) {
  const key = NAMED[event.key] ?? (event.key.length === 1 ? event.key.toUpperCase() : event.key);
  const shift = event.shiftKey && (event.key.length > 1 || event.ctrlKey || event.metaKey) ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${shift}${key}`;
}

function onKey(event) {
  const within = event.target, typing = within.matches("input:not([type=range], [type=checkbox]), select, textarea");
  if (document.querySelector("dialog[open]") || (typing && event.key !== "Escape") || !store.project) return;
  if (event.altKey) return moveCursor(event);
  if ((event.key === "Enter" || event.key === " ") && within.matches("button, a, select, input")) return;
  if (within.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (/^[1-9]$/.test(event.key) && !event.ctrlKey) {
    const info = store.objects[Number(event.key) - 1];
    if (info) select(info.id);
    return;
  }
  const action = byKey.get(pressed(event));
  if (!action) return;
  event.preventDefault();
  actions[action]();
}

function moveCursor(event) {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!way) return;
  event.preventDefault();
  const { width, height } = store.project, far = (event.shiftKey ? 40 : 4) * Math.max(1, width / 1000);
  const from = cursor.x === null ? { x: width / 2, y: height / 2 } : cursor;
  cursor.x = Math.max(0, Math.min(width, from.x + way[0] * far));
  cursor.y = Math.max(0, Math.min(height, from.y + way[1] * far));
  draw();
}

// Enter at the cross: what the pointer would do there.
function press(value) {
  if (cursor.x === null) return void toast("Move the cross with Alt and the arrow keys first.");
  const at = { x: cursor.x, y: cursor.y };
  if (store.tool === "click") click(at, value ? store.label : 0);
  else if (store.tool !== "box") stamp(at);
  else if (corner) {
    box(corner, at);
    corner = null;
  } else {
    corner = at;
    toast("First corner. Move the cross to the other one and press Enter.");
  }
}

function markRange(end) {
  const [first, last] = store.range ?? [store.frame, store.project.num_frames - 1];
  store.range = end ? [Math.min(first, store.frame), store.frame] : [store.frame, Math.max(last, store.frame)];
  if (end && !first && store.range[0] > store.frame) store.range = [0, store.frame];
  changed("range", "frame");
}

function resize(factor) {
  store.brush = Math.max(1, Math.min(120, Math.round(store.brush * factor + (factor > 1 ? 0.5 : -0.5))));
  changed("tool", "frame");
}

function switchTheme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme ?? (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
  localStorage.setItem("tempomask-theme", root.dataset.theme);
  changed("theme");
}

function exportNow() {
  const formats = [...document.querySelectorAll("#formats input:checked")].map((each) => each.value);
  if (!formats.length) return void toast("Choose at least one format.");
  send("export", { formats });
}

async function upload(address, file) {
  const most = store.hello?.most_bytes ?? 0;
  if (file.size > most) return void toast(`${file.name} is too large; up to ${Math.floor(most / 2 ** 20)} MiB are taken`);
  const answer = await fetch(address, { method: "POST", body: file }).catch(() => null);
  const told = (await answer?.json().catch(() => null)) ?? {};
  if (!answer?.ok) toast(told.error ?? `${file.name} could not be sent`);
  return answer?.ok ? told : undefined;
}

async function openFile(file) {
  const told = await upload(`drop?name=${encodeURIComponent(file.name)}`, file);
  if (told) openVideo(told.video);
}

async function uploadMask(file) {
  if (!store.project) return;
  const give = (object) => upload(`mask/${store.project.video}/${store.frame}/${object}`, file);
  if (selected()) await give(store.selected);
  else addObject(give);
}

function files() {
  const drop = element("drop");
  let depth = 0;
  const show = (shown) => { drop.hidden = !shown; };
  document.addEventListener("dragenter", () => show(++depth > 0));
  document.addEventListener("dragleave", () => show(--depth > 0));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    show(false);
    const [file] = event.dataTransfer.files;
    if (file) openFile(file);
  });
  for (const [id, take] of [["file", openFile], ["mask-file", uploadMask]]) {
    element(id).addEventListener("change", (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      if (file) take(file);
    });
  }
}

function showTools() {
  for (const each of ["click", "box", "brush", "eraser"]) {
    document.querySelector(`[data-action="tool-${each}"]`).ariaPressed = String(store.tool === each);
  }
  document.querySelector('[data-action="label-on"]').ariaPressed = String(store.label === 1);
  document.querySelector('[data-action="label-off"]').ariaPressed = String(store.label === 0);
  document.querySelector('[data-action="toggle-masks"]').ariaPressed = String(store.masksShown);
  const painting = store.tool === "brush" || store.tool === "eraser";
  element("polarity").hidden = store.tool !== "click";
  element("brush-options").hidden = !painting;
  element("brush-size").value = store.brush;
}

export function start() {
  const saved = localStorage.getItem("tempomask-theme");
  if (saved) document.documentElement.dataset.theme = saved;
  document.addEventListener("click", (event) => {
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (action && actions[action] && (store.project || ["open-file", "theme", "help", "close-dialog"].includes(action))) actions[action]();
  });
  document.addEventListener("keydown", onKey);
  // The frame shows that it has the focus to those who go by keys.
  document.addEventListener("keydown", (event) => { if (event.key === "Tab" || event.altKey) document.body.dataset.keys = ""; });
  document.addEventListener("pointerdown", () => delete document.body.dataset.keys);
  element("frame-number").addEventListener("change", (event) => go(Number(event.target.value)));
  element("brush-size").addEventListener("input", (event) => { store.brush = Number(event.target.value); changed("frame"); });
  element("videos").addEventListener("change", (event) => openVideo(Number(event.target.value)));
  files();
  on("tool", showTools);
  on("state", () => { if (playing && !store.project) play(); });
  showTools();
}

export const isPlaying = () => playing !== null;
