// The help sheet: key, action and what it does; Ctrl is Cmd on a Mac.
export const KEYS = [
  ["N", "add-object", "New object"], ["A", "everything", "Objects for everything here"], ["1…9", null, "Choose an object"], ["F2", "rename", "Rename it"],
  ["V", "toggle-visible", "Hide or show it"], ["L", "toggle-lock", "Lock or unlock it"],
  ["Delete", "clear-frame", "Take it off this frame"], ["Shift+Delete", "delete-selected", "Delete it"],
  ["C", "tool-click", "Click"], ["X", "switch-label", "Clicks on or off the object"],
  ["B", "tool-box", "Box"], ["P", "tool-brush", "Brush"], ["E", "tool-eraser", "Eraser"],
  ["[", "smaller-brush", "Smaller brush"], ["]", "larger-brush", "Larger brush"],
  ["Alt+arrows", null, "Move the cross (with Shift: far)"], ["Enter", "press", "Click, box corner or paint at the cross"],
  ["Shift+Enter", "press-off", "Click off the object at the cross"],
  ["F", "track-forward", "Track on from here"], ["R", "track-backward", "Track back from here"],
  ["T", "track-both", "Track the whole video"], ["I", "range-start", "Range begins here"], ["O", "range-end", "Range ends here"],
  ["W", "track-range", "Track the range"], ["Escape", "stop", "Stop tracking"],
  ["→", "next-frame", "Next frame"], ["←", "previous-frame", "Previous frame"],
  ["Shift+→", "next-10", "10 on"], ["Shift+←", "previous-10", "10 back"],
  ["Home", "first-frame", "First frame"], ["End", "last-frame", "Last frame"], ["Space", "play", "Play or pause"],
  ["J", "next-review", "Next to review"], ["K", "previous-review", "Previous to review"],
  ["M", "toggle-masks", "Show or hide masks"], ["0", "zoom-fit", "Whole frame"],
  ["Ctrl+Z", "undo", "Undo"], ["Ctrl+Shift+Z", "redo", "Redo"], ["G", "export", "Export"], ["?", "help", "This sheet"],
];

export function start() {
  document.getElementById("keys").replaceChildren(...KEYS.map(([key, , text]) => {
    const line = document.createElement("div");
    const words = document.createElement("span"), cap = document.createElement("kbd");
    [words.textContent, cap.textContent] = [text, key];
    line.append(words, cap);
    return line;
  }));
}
