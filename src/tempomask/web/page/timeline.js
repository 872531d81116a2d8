// The time line: a lane for each object, the blocks that ran under them, the range and the frame.

import { on, setFrame, store, changed } from "./store.js";

const canvas = document.getElementById("lanes");
const context = canvas.getContext("2d");
const LABEL = 92, RULER = 16, LANE = 17, STRIP = 22, LOW = 0.6;
let base = null; // the lanes without the frame's mark, drawn once
let drag = null;
let ink = null; // colours of the theme, looked up once

// light-dark() comes as it is written; the canvas needs the colour itself.
const probe = document.createElement("span");
function themed(name) {
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

const span = () => Math.max(1, canvas.clientWidth - LABEL - 8);
const xOf = (frame) => LABEL + (span() * frame) / store.project.num_frames;
const frameAt = (x) => Math.floor(((x - LABEL) / span()) * store.project.num_frames);

function layout() {
  if (!store.project) return;
  const height = RULER + Math.max(1, store.objects.length) * LANE + STRIP + 4;
  canvas.style.height = `${height}px`;
  base = null;
  draw();
}

function drawBase() {
  const dense = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  [canvas.width, canvas.height] = [Math.round(width * dense), Math.round(height * dense)];
  context.setTransform(dense, 0, 0, dense, 0, 0);
  ink ??= { text: themed("--muted"), raised: themed("--raised"), warn: themed("--warn"), lost: themed("--danger"),
    accent: themed("--accent"), strong: themed("--text"), panel: themed("--panel") };
  context.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  context.textBaseline = "middle";
  ruler();
  store.objects.forEach((info, i) => lane(info, RULER + i * LANE));
  blocks(RULER + Math.max(1, store.objects.length) * LANE + 3);
  base = document.createElement("canvas");
  [base.width, base.height] = [canvas.width, canvas.height];
  base.getContext("2d").drawImage(canvas, 0, 0);
}

function ruler() {
  const count = store.project.num_frames;
  const every = [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10000, 50000]
    .find((each) => (span() * each) / count > 54) ?? 100000;
  context.fillStyle = ink.text;
  for (let frame = 0; frame < count; frame += every) {
    context.fillRect(xOf(frame), RULER - 4, 1, 3);
    context.fillText(String(frame), xOf(frame) + 3, 7);
  }
}

function lane(info, top) {
  const width = Math.max(1, span() / store.project.num_frames);
  context.fillStyle = info.id === store.selected ? ink.strong : ink.text;
  context.fillText(shortened(info.name, LABEL - 20), 14, top + LANE / 2 - 1);
  context.fillStyle = info.color;
  context.fillRect(2, top + 3, 7, 7);
  context.fillStyle = ink.raised;
  context.fillRect(LABEL, top + 2, span(), LANE - 8);
  for (const [frame, { rows }] of store.frames) {
    const row = rows.get(info.id);
    if (!row) continue;
    const lost = !row[3] || row[2] <= 0, low = !lost && row[1] < LOW;
    context.fillStyle = info.color;
    if (!lost) context.fillRect(xOf(frame), top + 2, width + 0.4, LANE - 8);
    // On the panel's own ground, so that no colour of an object hides it.
    context.fillStyle = lost ? ink.lost : ink.warn;
    if (lost || low) context.fillRect(xOf(frame), top + LANE - 5, width + 0.4, 3);
  }
  for (const { frame, object } of store.prompts.values()) {
    if (object === info.id) diamond(xOf(frame) + width / 2, top + LANE / 2 - 2);
  }
}

function diamond(x, y) {
  context.beginPath();
  context.moveTo(x, y - 6);
  context.lineTo(x + 6, y);
  context.lineTo(x, y + 6);
  context.lineTo(x - 6, y);
  context.closePath();
  context.fillStyle = ink.strong;
  context.fill();
  context.strokeStyle = ink.panel;
  context.lineWidth = 1.5;
  context.stroke();
}

// One column a frame, one row a block, as in the network from top to bottom.
function blocks(top) {
  context.fillStyle = ink.text;
  context.fillText("blocks", 14, top + STRIP / 2);
  context.fillStyle = ink.raised;
  context.fillRect(LABEL, top, span(), STRIP - 2);
  const width = Math.max(1, span() / store.project.num_frames);
  context.fillStyle = ink.accent;
  for (const [frame, { blocks: ran }] of store.frames) {
    const tall = (STRIP - 2) / Math.max(1, ran.length);
    for (let i = 0; i < ran.length; i++) {
      if (ran[i] === "1") context.fillRect(xOf(frame), top + i * tall, width + 0.4, Math.max(0.6, tall - 0.4));
    }
  }
}

function shortened(text, room) {
  if (context.measureText(text).width <= room) return text;
  while (text.length > 1 && context.measureText(`${text}…`).width > room) text = text.slice(0, -1);
  return `${text}…`;
}

export function draw() {
  if (!store.project) return;
  if (!base) drawBase();
  const dense = devicePixelRatio, height = canvas.clientHeight;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(base, 0, 0);
  context.setTransform(dense, 0, 0, dense, 0, 0);
  if (store.range) {
    const [first, last] = store.range;
    context.globalAlpha = 0.22;
    context.fillStyle = ink.accent;
    context.fillRect(xOf(first), 0, xOf(last + 1) - xOf(first), height);
    context.globalAlpha = 1;
  }
  const x = xOf(store.frame), width = Math.max(2, span() / store.project.num_frames);
  context.fillStyle = ink.strong;
  context.globalAlpha = 0.25;
  context.fillRect(x, 0, width, height);
  context.globalAlpha = 1;
  context.fillRect(x + width / 2 - 1, 0, 2, height);
  canvas.setAttribute("aria-valuenow", store.frame);
  canvas.setAttribute("aria-valuemax", store.project.num_frames - 1);
}

function down(event) {
  if (!store.project) return;
  canvas.setPointerCapture(event.pointerId);
  const frame = Math.max(0, Math.min(store.project.num_frames - 1, frameAt(event.offsetX)));
  drag = event.shiftKey ? { from: frame } : {};
  if (!event.shiftKey && store.range) store.range = null;
  store.following = false;
  move(event);
}

function move(event) {
  if (!drag || !store.project) return;
  const frame = Math.max(0, Math.min(store.project.num_frames - 1, frameAt(event.offsetX)));
  if (drag.from !== undefined) store.range = [Math.min(drag.from, frame), Math.max(drag.from, frame)];
  setFrame(frame);
  changed("range");
}

export function start() {
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", () => (drag = null));
  canvas.addEventListener("pointercancel", () => (drag = null));
  new ResizeObserver(() => { base = null; draw(); }).observe(canvas);
  on("project objects", layout);
  on("lanes", () => { base = null; draw(); });
  const recolor = () => { base = ink = null; draw(); };
  on("theme", recolor);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  on("frame range", draw);
}
