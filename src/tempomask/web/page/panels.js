// What the page says of itself: state, progress, speed, and the export.

import { send } from "./socket.js";
import { on, store } from "./store.js";
import { isPlaying } from "./tools.js";

const element = (id) => document.getElementById(id);
const action = (name) => document.querySelector(`[data-action="${name}"]`);
const FORMATS = {
  masks: ["Palette PNG", "one label image a frame, as DAVIS has them"],
  objects: ["PNG per object", "one mask a frame and object; may overlap"],
  overlay: ["Overlay video", "masks drawn over the frames, MP4"],
  rle: ["YouTube-VIS JSON", "one annotation an object, masks by frame"],
  boxes: ["Boxes CSV", "a row a frame and object; text a box tracker takes"],
  npz: ["NumPy arrays", "masks, boxes and scores, for Python"],
  coco: ["COCO JSON", "one annotation a frame and object"],
  yolo: ["YOLO segments", "a text file of polygons a frame"],
  mot: ["MOT text", "boxes with identities"],
  mots: ["MOTS text", "masks with identities"],
  cutouts: ["Cut-outs", "objects on transparency, PNG"],
};
const CHOSEN = new Set(["masks", "overlay"]);

function showState() {
  const ready = store.hello?.ready && store.project;
  document.body.dataset.state = store.progress ? "tracking" : ready ? "idle" : "loading";
  for (const name of ["track-forward", "track-backward", "track-both"]) action(name).disabled = !ready || Boolean(store.progress);
  action("track-range").disabled = !ready || Boolean(store.progress) || !store.range;
  action("stop").disabled = !store.progress;
  action("play").querySelector("use").setAttribute("href", isPlaying() ? "#i-pause" : "#i-play");
  action("play").ariaLabel = isPlaying() ? "Pause" : "Play";
  showStatus();
}

function showStatus() {
  const { hello, project, progress } = store;
  let text = "";
  if (!hello) text = store.lost ? "no connection: has the server ended?" : "connecting…";
  else if (!hello.videos.length) text = "no video yet: open or drop one";
  else if (!project) text = "opening…";
  else if (hello.problem) text = hello.problem;
  else if (!hello.ready) text = `loading ${hello.model}…`;
  else if (progress) {
    text = `${progress.done} of ${progress.total} frames`;
    if (progress.fps) text += ` · ${progress.fps.toFixed(1)} FPS · ${progress.megabytes} MB`;
  } else text = `${hello.model} · saved in ${project.folder.split(/[\\/]/).pop()}`;
  element("status").textContent = text;
  const bar = element("progress");
  bar.hidden = !progress;
  if (progress) [bar.max, bar.value] = [progress.total, progress.done];
  element("hint").textContent = hint();
}

function hint() {
  if (store.hello?.problem) return store.hello.problem;
  if (store.hello && !store.hello.videos.length) return "Open a video or drop one here.";
  if (store.broken.has(store.frame)) return store.broken.get(store.frame);
  if (!store.project || !store.hello?.ready || store.progress) return "";
  if (!store.prompts.size) return "Click on something to get its mask. Right button: not this.";
  const tracked = [...store.frames.values()].some(({ rows }) => rows.size) && store.frames.size > 3;
  if (!tracked) return "Looks right? Press “Whole video”. If not, click again; the right button marks what does not belong.";
  return "";
}

function showFrame() {
  const { project, frame } = store;
  if (!project) return;
  const number = element("frame-number");
  number.max = project.num_frames - 1;
  if (document.activeElement !== number) number.value = frame;
  element("frame-total").textContent = `of ${project.num_frames - 1}`;
  element("time").textContent = project.fps ? clock(frame / project.fps) : "";
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;

function showVideos() {
  const list = element("videos"), names = store.hello?.videos ?? [];
  if (list.length !== names.length) {
    list.replaceChildren(...names.map((name, i) => new Option(name, i)));
  }
  list.hidden = !names.length;
  if (store.project) list.value = store.project.video;
  element("speed").hidden = !store.hello?.routed;
  const formats = element("formats");
  if (!formats.childElementCount && store.hello) formats.replaceChildren(...store.hello.formats.map(choice));
}

function choice(name) {
  const [title, text] = FORMATS[name] ?? [name, ""];
  const label = document.createElement("label"), box = document.createElement("input");
  Object.assign(box, { type: "checkbox", value: name, checked: CHOSEN.has(name) });
  const words = document.createElement("span"), small = document.createElement("small");
  words.textContent = title;
  small.textContent = text;
  words.append(small);
  label.append(box, words);
  return label;
}

function showHistory() {
  for (const [name, key] of [["undo", "Ctrl+Z"], ["redo", "Ctrl+Shift+Z"]]) {
    const what = store.history[name];
    action(name).disabled = !what;
    action(name).title = `${name === "undo" ? "Undo" : "Redo"}${what ? ` “${what}”` : ""} (${key})`;
  }
}

function showRouting() {
  const { budget, fps } = store.routing;
  element("budget").value = Math.round((budget ?? 1) * 100);
  element("budget").disabled = fps !== null;
  element("budget-now").textContent = fps !== null ? "by the speed" : budget === null ? "all" : `${Math.round(budget * 100)}%`;
  if (document.activeElement !== element("target")) element("target").value = fps ?? "";
}

function showSpeed() {
  const frame = store.progress?.frame ?? store.frame, ran = store.frames.get(frame)?.blocks ?? "";
  const share = ran ? `${Math.round((100 * [...ran].filter((mark) => mark === "1").length) / ran.length)}% of blocks` : "";
  const fps = store.progress?.fps ? `${store.progress.fps.toFixed(1)} FPS` : "";
  element("speed-now").textContent = [share, fps].filter(Boolean).join(" · ");
}

function routing() {
  const share = Number(element("budget").value) / 100, fps = Number(element("target").value);
  send("routing", fps > 0 ? { budget: null, fps } : { budget: share >= 1 ? null : share, fps: null });
}

function showExport() {
  const told = store.exported ?? {}, link = element("download");
  action("export-now").disabled = Boolean(told.busy);
  element("exported").textContent = told.busy ? "writing…" : told.error ?? (told.folder ? `in ${told.folder}` : "");
  link.hidden = !told.archive;
  if (told.archive) {
    link.href = told.archive;
    link.textContent = `Download ${(told.bytes / 1e6).toFixed(1)} MB`;
  }
}

export function start() {
  on("state hello project progress range", showState);
  on("progress frame objects lanes history broken", showStatus);
  on("project frame", showFrame);
  on("hello project", showVideos);
  on("history", showHistory);
  on("routing hello", showRouting);
  on("progress frame", showSpeed);
  on("exported", showExport);
  on("command", () => { element("command").textContent = store.command; });
  element("budget").addEventListener("input", () => { element("budget-now").textContent = `${element("budget").value}%`; });
  element("budget").addEventListener("change", routing);
  element("target").addEventListener("change", routing);
}
