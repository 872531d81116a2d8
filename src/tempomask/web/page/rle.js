// COCO's compressed run-length code: lengths of runs of 0, 1, 0, 1 ... down the columns.

export function runsOf(text) {
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, part;
    do {
      part = text.charCodeAt(at++) - 48;
      value |= (part & 31) << shift;
      shift += 5;
    } while (part & 32);
    if (part & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

// The mask of a code, as a row-major Uint8Array of every `step`th column and row.
export function decode(text, width, height, step = 1) {
  const columns = Math.ceil(width / step), rows = Math.ceil(height / step);
  const mask = new Uint8Array(columns * rows);
  let at = 0, on = false;
  for (const run of runsOf(text)) {
    if (on) fill(mask, at, at + run, height, columns, step);
    at += run;
    on = !on;
  }
  return mask;
}

function fill(mask, from, to, height, columns, step) {
  while (from < to) {
    const column = Math.floor(from / height), top = from - column * height;
    const end = Math.min(to, (column + 1) * height);
    if (column % step === 0) {
      const bottom = top + end - from;
      for (let row = Math.ceil(top / step); row * step < bottom; row++) mask[row * columns + column / step] = 1;
    }
    from = end;
  }
}

// The code of a row-major mask of ones and zeros.
export function encode(mask, width, height) {
  const runs = [];
  let length = 0, value = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x; y < height; y++, at += width) {
      if (mask[at] !== value) {
        runs.push(length);
        length = 0;
        value = mask[at];
      }
      length++;
    }
  }
  runs.push(length);
  let text = "";
  runs.forEach((run, i) => {
    let rest = i > 2 ? run - runs[i - 2] : run, more;
    do {
      let part = rest & 31;
      rest >>= 5;
      more = part & 16 ? rest !== -1 : rest !== 0;
      if (more) part |= 32;
      text += String.fromCharCode(part + 48);
    } while (more);
  });
  return text;
}
