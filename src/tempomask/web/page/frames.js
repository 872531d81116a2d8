// Frames as images, by number: fetched ahead, kept while they are near.

import { changed, store } from "./store.js";

const PIXELS = 64e6, AHEAD = 8, AT_ONCE = 3; // kept: 256 MB of images
const images = new Map(); // number -> ImageBitmap
const coming = new Map(); // number -> promise
let video = null, last = 0;

export function forgetFrames(number) {
  video = number;
  images.forEach((image) => image.close());
  images.clear();
  coming.clear();
  store.broken.clear();
}

export const imageOf = (frame) => images.get(frame);

// Ask for a frame, and for those after it in the direction of going.
export function fetchFrame(frame) {
  const step = frame >= last ? 1 : -1;
  last = frame;
  load(frame);
  for (let i = 1; i <= AHEAD && coming.size < AT_ONCE; i++) load(frame + i * step);
}

async function load(frame) {
  if (!store.project || frame < 0 || frame >= store.project.num_frames || images.has(frame) || coming.has(frame)) return;
  const of = video;
  const work = fetch(`frame/${of}/${frame}`).then(async (answer) => {
    if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? "the server failed");
    return answer.blob();
  }).then(createImageBitmap);
  coming.set(frame, work);
  try {
    const image = await work;
    if (of !== video) return;
    images.set(frame, image);
    store.broken.delete(frame);
    while (images.size > Math.max(12, PIXELS / (image.width * image.height))) {
      const far = [...images.keys()].reduce((a, b) => (Math.abs(a - store.frame) > Math.abs(b - store.frame) ? a : b));
      images.get(far).close();
      images.delete(far);
    }
  } catch (error) {
    if (of !== video) return;
    store.broken.set(frame, `Frame ${frame} cannot be shown: ${error.message}`);
    changed("broken");
  } finally {
    if (of === video) coming.delete(frame);
  }
  if (of !== video) return;
  if (frame === store.frame) changed("image");
  fetchMore();
}

function fetchMore() {
  // While another video is being opened there is nothing to fetch.
  if (store.project && coming.size < AT_ONCE) {
    for (let i = 0; i <= AHEAD; i++) {
      const next = store.frame + i;
      if (next < store.project.num_frames && !images.has(next) && !coming.has(next)) return void load(next);
    }
  }
}
