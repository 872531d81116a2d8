// The frame with masks, prompts and the pointer over it; and what the pointer does.

import { fetchFrame, imageOf } from "./frames.js";
import { decode, encode } from "./rle.js";
import { addObject, send, toast, wantMasks } from "./socket.js";
import { changed, countOf, objectOf, on, rowsOn, selected, spotKey, store } from "./store.js";

const canvas = document.getElementById("frame");
const stage = document.getElementById("stage");
const context = canvas.getContext("2d");
const overlay = document.createElement("canvas");
const view = { zoom: 1, x: 0, y: 0 };
const SHOWN = 1280; // masks of larger frames are drawn at a whole fraction of their size
const BITMAP = 2560;
const FIRST = { id: 0, color: "#2dd4bf", visible: true }; // what the first click would give

let pointer = null; // {x, y} in pixels of the video
let dragging = null; // {kind, ...}
const fingers = new Map(); // where each is that touches the frame
let painting = null; // {frame, object, mask, dirty}: the brush's own copy of a mask
let drawnMasks = "";
export const cursor = { x: null, y: null }; // moved by keys

const step = () => Math.max(1, Math.ceil(Math.max(store.project.width, store.project.height) / SHOWN));
const scale = () => canvas.width / store.project.width;

export function layout() {
  if (!store.project) return;
  const { width, height } = store.project;
  const room = stage.getBoundingClientRect();
  const fit = Math.min((room.width - 24) / width, (room.height - 24) / height);
  const shown = fit * view.zoom;
  const style = canvas.style;
  style.width = `${width * shown}px`;
  style.height = `${height * shown}px`;
  style.left = `${(room.width - width * shown) / 2 + view.x}px`;
  style.top = `${(room.height - height * shown) / 2 + view.y}px`;
  const dense = Math.min(devicePixelRatio * shown, BITMAP / Math.max(width, height));
  const [w, h] = [Math.max(1, Math.round(width * dense)), Math.max(1, Math.round(height * dense))];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  draw();
}

export function fitView() {
  Object.assign(view, { zoom: 1, x: 0, y: 0 });
  layout();
}

export function draw() {
  if (!store.project) return;
  const { width, height } = store.project;
  const asked = store.preview?.frame === store.frame ? store.preview.mask[0] : "";
  Object.assign(canvas.dataset, { frame: store.frame, width, height, preview: asked });
  const image = imageOf(store.frame);
  if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
  else fetchFrame(store.frame);
  canvas.dataset.shown = image ? store.frame : "";
  wantMasks(store.frame);
  if (store.masksShown) {
    drawMasks();
    context.imageSmoothingEnabled = scale() * step() < 3;
    context.drawImage(overlay, 0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = true;
  }
  drawPrompts();
  drawPointer();
}

// All masks of the frame into the overlay, unless they are there already.
function drawMasks() {
  const rows = [...rowsOn(store.frame).values()];
  const preview = store.preview?.frame === store.frame ? store.preview.mask : null;
  const shown = [];
  for (const row of preview ? [...rows.filter((each) => each[0] !== preview[0]), preview] : rows) {
    const info = row[0] ? objectOf(row[0]) : FIRST;
    if (info?.visible && !(painting?.frame === store.frame && painting.object === row[0])) shown.push({ row, info });
  }
  const key = `${store.project.video} ${store.frame} ${painting?.dirty ?? ""} ${store.selected} `
    + shown.map(({ row, info }) => `${row[0]}${info.color}${countOf(row)}`).join();
  if (key === drawnMasks) return;
  drawnMasks = key;
  const size = step(), w = Math.ceil(store.project.width / size), h = Math.ceil(store.project.height / size);
  [overlay.width, overlay.height] = [w, h];
  const pixels = new ImageData(w, h);
  for (const { row, info } of shown) {
    const text = countOf(row);
    if (!text || !row[3]) continue;
    const box = row.slice(4, 8).map((side) => Math.round(side / size));
    tint(pixels, decode(text, store.project.width, store.project.height, size), box, info);
  }
  if (painting?.frame === store.frame) {
    const info = objectOf(painting.object);
    if (info) tint(pixels, thinned(painting.mask, size), [0, 0, w, h], info);
  }
  overlay.getContext("2d").putImageData(pixels, 0, 0);
}

// A mask in its colour, translucent, with a solid edge and a white line around it: that shows on any ground.
function tint(pixels, mask, [left, top, right, bottom], info) {
  const { width, height, data } = pixels, color = parseInt(info.color.slice(1), 16);
  const [red, green, blue] = [color >> 16, (color >> 8) & 255, color & 255];
  const inside = info.id === store.selected ? 120 : 88, around = info.id === store.selected ? 235 : 150;
  for (let y = Math.max(0, top - 1); y < Math.min(height, bottom + 1); y++) {
    for (let x = Math.max(0, left - 1), at = y * width + x; x < Math.min(width, right + 1); x++, at++) {
      const beside = (x > 0 ? mask[at - 1] : 0) + (x < width - 1 ? mask[at + 1] : 0)
        + (y > 0 ? mask[at - width] : 0) + (y < height - 1 ? mask[at + width] : 0);
      if (mask[at]) paint(data, 4 * at, red, green, blue, beside < 4 ? 255 : inside);
      else if (beside && !data[4 * at + 3]) paint(data, 4 * at, 255, 255, 255, around);
    }
  }
}

function paint(data, at, red, green, blue, alpha) {
  data[at] = red;
  data[at + 1] = green;
  data[at + 2] = blue;
  data[at + 3] = alpha;
}

function thinned(mask, size) {
  if (size === 1) return mask;
  const { width, height } = store.project, w = Math.ceil(width / size), h = Math.ceil(height / size);
  const small = new Uint8Array(w * h);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) small[y * w + x] = mask[y * size * width + x * size];
  return small;
}

function drawPrompts() {
  const dense = devicePixelRatio;
  for (const info of store.objects) {
    const given = store.prompts.get(spotKey(store.frame, info.id));
    if (!given || !info.visible) continue;
    for (const { points = [], labels = [], box } of given.prompts) {
      if (box) {
        context.strokeStyle = info.color;
        context.lineWidth = 2 * dense;
        context.setLineDash([6 * dense, 4 * dense]);
        context.strokeRect(...[box[0], box[1], box[2] - box[0], box[3] - box[1]].map((side) => side * scale()));
        context.setLineDash([]);
      }
      points.forEach(([x, y], i) => mark(x * scale(), y * scale(), info.color, labels[i], dense));
    }
  }
}

function mark(x, y, color, label, dense) {
  context.beginPath();
  context.arc(x, y, 7 * dense, 0, 7);
  context.fillStyle = label ? color : "#ffffff";
  context.fill();
  context.lineWidth = 2 * dense;
  context.strokeStyle = label ? "#ffffff" : "#d92d20";
  context.stroke();
  context.beginPath();
  context.moveTo(x - 3.5 * dense, y);
  context.lineTo(x + 3.5 * dense, y);
  if (label) {
    context.moveTo(x, y - 3.5 * dense);
    context.lineTo(x, y + 3.5 * dense);
  }
  context.stroke();
}

function drawPointer() {
  const dense = devicePixelRatio, at = pointer ?? (cursor.x === null ? null : cursor);
  if (dragging?.kind === "box") {
    const { from, to } = dragging;
    context.setLineDash([6 * dense, 4 * dense]);
    context.strokeStyle = selected()?.color ?? "#2dd4bf";
    context.lineWidth = 2 * dense;
    context.strokeRect(...[from.x, from.y, to.x - from.x, to.y - from.y].map((side) => side * scale()));
    context.setLineDash([]);
  }
  if (at && (store.tool === "brush" || store.tool === "eraser")) {
    context.beginPath();
    context.arc(at.x * scale(), at.y * scale(), radius() * scale(), 0, 7);
    context.lineWidth = 1.5 * dense;
    context.strokeStyle = store.tool === "brush" ? (selected()?.color ?? "#ffffff") : "#ffffff";
    context.stroke();
  }
  if (!pointer && cursor.x !== null) {
    context.strokeStyle = "#ffffff";
    context.lineWidth = 1.5 * dense;
    context.beginPath();
    const [x, y, arm] = [cursor.x * scale(), cursor.y * scale(), 11 * dense];
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
    context.stroke();
  }
}

const radius = () => (store.brush / 2) * Math.max(1, store.project.width / 1000);

function place(event) {
  const box = canvas.getBoundingClientRect(), { width, height } = store.project;
  const inside = (value, most) => Math.max(0, Math.min(most, value));
  return {
    x: inside(((event.clientX - box.left) / box.width) * width, width),
    y: inside(((event.clientY - box.top) / box.height) * height, height),
  };
}

// The object that prompts are for; a first one is added by the first prompt.
function withObject(then) {
  const info = selected();
  if (!info) return addObject(then);
  if (info.locked) return toast(`${info.name} is locked; unlock it to change it`);
  return then(info.id);
}

export function click(at, label) {
  withObject((object) => send("click", { frame: store.frame, object, x: at.x, y: at.y, label }));
}

export function box(from, to) {
  const sides = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)];
  if (sides[2] - sides[0] < 2 || sides[3] - sides[1] < 2) return;
  withObject((object) => send("box", { frame: store.frame, object, box: sides }));
}

function beginStroke(object) {
  const { width, height } = store.project, row = rowsOn(store.frame).get(object);
  const mask = row && countOf(row) ? decode(countOf(row), width, height) : new Uint8Array(width * height);
  painting = { frame: store.frame, object, mask, dirty: 0 };
}

export function stroke(from, to) {
  const { width, height } = store.project, r = radius(), value = store.tool === "brush" ? 1 : 0;
  const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, r / 2)));
  for (let i = 0; i <= steps; i++) {
    const x = from.x + ((to.x - from.x) * i) / steps, y = from.y + ((to.y - from.y) * i) / steps;
    for (let row = Math.max(0, Math.ceil(y - r)); row <= Math.min(height - 1, y + r); row++) {
      const half = Math.sqrt(r * r - (row - y) ** 2);
      const first = Math.max(0, Math.ceil(x - half)), last = Math.min(width - 1, Math.floor(x + half));
      if (first <= last) painting.mask.fill(value, row * width + first, row * width + last + 1);
    }
  }
  painting.dirty++;
}

function endStroke() {
  const { frame, object, mask } = painting;
  send("paint", { frame, object, counts: encode(mask, store.project.width, store.project.height) });
}

export function stamp(at) {
  withObject((object) => {
    beginStroke(object);
    stroke(at, at);
    endStroke();
  });
}

// The middle of two fingers, and how far they are apart.
function pinched() {
  const [one, two] = fingers.values();
  return { x: (one.x + two.x) / 2, y: (one.y + two.y) / 2, apart: Math.hypot(one.x - two.x, one.y - two.y) };
}

function down(event) {
  if (!store.project || !store.hello?.ready) return;
  canvas.focus({ preventScroll: true });
  const touched = event.pointerType === "touch";
  if (touched) fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (fingers.size > 1) {
    // What the first finger began was no click, box or stroke.
    painting = null;
    dragging = { kind: "pinch", at: pinched() };
  } else if (event.button === 1) {
    dragging = { kind: "pan", x: event.clientX - view.x, y: event.clientY - view.y };
  } else if (store.tool === "click" && touched) {
    dragging = { kind: "tap", at: place(event) };
  } else if (store.tool === "click") {
    if (event.button === 0 || event.button === 2) {
      click(place(event), event.button === 2 || event.altKey ? 0 : store.label);
    }
    return;
  } else if (event.button === 0 && store.tool === "box") {
    dragging = { kind: "box", from: place(event), to: place(event) };
  } else if (event.button === 0) {
    withObject((object) => {
      const at = place(event);
      beginStroke(object);
      stroke(at, at);
      dragging = { kind: "stroke", at };
      draw();
    });
  }
  if (dragging) {
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  }
}

function move(event) {
  if (!store.project) return;
  if (fingers.has(event.pointerId)) fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (dragging?.kind === "pinch") {
    if (fingers.size < 2) return;
    const from = dragging.at, to = pinched();
    dragging.at = to;
    zoomAt(from, to.apart / Math.max(1, from.apart));
    view.x += view.zoom === 1 ? 0 : to.x - from.x;
    view.y += view.zoom === 1 ? 0 : to.y - from.y;
    return layout();
  }
  pointer = place(event);
  if (dragging?.kind === "pan") {
    [view.x, view.y] = [event.clientX - dragging.x, event.clientY - dragging.y];
    return layout();
  }
  if (dragging?.kind === "box") dragging.to = pointer;
  if (dragging?.kind === "stroke") {
    stroke(dragging.at, pointer);
    dragging.at = pointer;
  }
  if (dragging || store.tool !== "click") changed("preview");
  else hover();
}

function up(event) {
  fingers.delete(event.pointerId);
  if (dragging?.kind === "pinch" && fingers.size) return;
  const done = dragging;
  dragging = null;
  if (!store.project) return;
  if (done?.kind === "tap" && event.type === "pointerup") click(done.at, store.label);
  if (done?.kind === "box") box(done.from, done.to);
  if (done?.kind === "stroke") endStroke();
  changed("frame");
}

// One question at a time: the next is where the pointer is when the answer has come.
let asked = 0, asking = false, moved = false;
function hover() {
  const info = selected();
  const able = store.hello?.ready && !store.progress && !info?.locked && pointer && store.tool === "click";
  moved = able && asking;
  if (!able || asking) return;
  asking = true;
  store.asking = ++asked;
  setTimeout(answered, 1000, asked);
  send("hover", { frame: store.frame, object: info?.id ?? 0, x: pointer.x, y: pointer.y, label: store.label, id: asked });
}

// The answer has come, or will not.
export function answered(id) {
  if (id !== asked) return;
  asking = false;
  if (moved) hover();
}

function leave() {
  pointer = null;
  store.asking = null;
  store.preview = null;
  changed("preview");
}

// Zooms around a place in the window.
function zoomAt(at, factor) {
  const before = canvas.getBoundingClientRect();
  const zoom = Math.max(1, Math.min(16, view.zoom * factor)), ratio = zoom / view.zoom;
  const [x, y] = [at.x - (before.left + before.width / 2), at.y - (before.top + before.height / 2)];
  view.zoom = zoom;
  [view.x, view.y] = zoom === 1 ? [0, 0] : [view.x + x * (1 - ratio), view.y + y * (1 - ratio)];
  layout();
}

function wheel(event) {
  event.preventDefault();
  zoomAt({ x: event.clientX, y: event.clientY }, Math.exp(-event.deltaY * 0.0015));
}

export function start() {
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", wheel, { passive: false });
  new ResizeObserver(layout).observe(stage);
  // A finished stroke gives way to the mask that the server has kept of it.
  on("objects", () => { if (!dragging) painting = null; });
  on("project", fitView);
  on("frame image objects preview", draw);
  let looking = null;
  on("frame", () => {
    if (looking === store.frame || store.progress) return;
    looking = store.frame;
    setTimeout(() => { if (looking === store.frame) send("look", { frame: looking }); }, 150);
  });
}
