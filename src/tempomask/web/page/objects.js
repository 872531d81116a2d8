// The lists at the side: objects, and what is worth a review.

import { send } from "./socket.js";
import { objectOf, on, select, setFrame, store } from "./store.js";

const list = document.getElementById("objects");
const reviewed = document.getElementById("review");
const REASONS = { lost: "lost", low: "low score", jump: "jumps" };

const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
};

function button(action, name, title, pressed) {
  const made = document.createElement("button");
  made.dataset.action = action;
  made.title = made.ariaLabel = title;
  if (pressed !== undefined) made.ariaPressed = String(pressed);
  made.append(icon(name));
  return made;
}

function item(info) {
  const line = document.createElement("li");
  line.dataset.object = info.id;
  line.dataset.visible = info.visible;
  if (info.id === store.selected) line.setAttribute("aria-current", "true");
  const color = Object.assign(document.createElement("input"), { type: "color", value: info.color });
  color.ariaLabel = color.title = `Colour of ${info.name}`;
  color.addEventListener("change", () => send("edit-object", { object: info.id, color: color.value }));
  const name = Object.assign(document.createElement("input"), { className: "name", value: info.name, maxLength: 80 });
  name.ariaLabel = "Name";
  name.addEventListener("change", () => {
    if (name.value.trim()) send("edit-object", { object: info.id, name: name.value });
    else name.value = info.name;
  });
  name.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === "Escape") name.blur(); });
  const eye = button("visible", info.visible ? "eye" : "hidden", info.visible ? "Hide (V)" : "Show (V)");
  eye.addEventListener("click", () => send("edit-object", { object: info.id, visible: !info.visible }));
  const lock = button("lock", info.locked ? "lock" : "unlock", info.locked ? "Unlock (L)" : "Lock (L)", info.locked);
  lock.addEventListener("click", () => send("edit-object", { object: info.id, locked: !info.locked }));
  const bin = button("delete-object", "trash", `Delete ${info.name} (Shift+Delete)`);
  bin.addEventListener("click", () => send("delete-object", { object: info.id }));
  line.append(color, name, eye, lock, bin);
  line.addEventListener("pointerdown", () => select(info.id));
  line.addEventListener("focusin", () => select(info.id));
  return line;
}

let shown = "";
function drawObjects() {
  // A list that is written anew loses the focus; it is, only when an object has changed.
  const now = JSON.stringify(store.objects);
  if (now !== shown) {
    shown = now;
    const held = document.activeElement?.closest?.("[data-object]")?.dataset.object;
    const part = document.activeElement?.dataset?.action ?? document.activeElement?.className;
    list.replaceChildren(...store.objects.map(item));
    if (held && part) list.querySelector(`[data-object="${held}"] :is([data-action="${part}"], .${part || "none"})`)?.focus();
  }
  for (const line of list.children) {
    if (Number(line.dataset.object) === store.selected) {
      if (line.getAttribute("aria-current") !== "true") line.scrollIntoView({ block: "nearest" });
      line.setAttribute("aria-current", "true");
    } else line.removeAttribute("aria-current");
  }
}

export function jump(entry) {
  const [object, , , , worst] = entry;
  select(object);
  store.following = false;
  setFrame(worst);
}

// The next or previous entry of the review list, from the frame that is shown.
export function nextReview(step) {
  const items = step > 0 ? store.review : [...store.review].reverse();
  const next = items.find(([, , , , worst]) => (worst - store.frame) * step > 0) ?? items[0];
  if (next) jump(next);
}

function drawReview() {
  document.getElementById("review-count").textContent = store.review.length || "";
  reviewed.replaceChildren(...store.review.slice(0, 300).map((entry) => {
    const [object, reason, first, last] = entry, info = objectOf(object);
    const line = document.createElement("li"), jumping = document.createElement("button");
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = info?.color ?? "";
    const what = Object.assign(document.createElement("span"), { className: "what" });
    what.textContent = `${info?.name ?? object} ${REASONS[reason]}`;
    const where = Object.assign(document.createElement("span"), { className: "where" });
    where.textContent = first === last ? first : `${first}–${last}`;
    jumping.dataset.review = first;
    jumping.append(swatch, what, where);
    jumping.addEventListener("click", () => jump(entry));
    line.append(jumping);
    return line;
  }));
}

export function start() {
  on("objects", drawObjects);
  on("review objects", drawReview);
}

