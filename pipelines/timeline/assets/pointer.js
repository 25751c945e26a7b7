// The pointer over the lanes: hovering shows a frame, dragging zooms, the wheel zooms with Ctrl and pans with Shift.
const LEAST_DRAG = 5; // px

function listenToPointer(explorer) {
  const { stack, selection } = explorer;
  const frameAt = (event) => {
    const share = (event.clientX - stack.getBoundingClientRect().left - GUTTER) / explorer.plotWidth;
    const [first, last] = explorer.view;
    return first + Math.min(Math.max(share, 0), 1) * (last - first);
  };
  const show = (event) => explorer.go(nearest(explorer.video.frames, frameAt(event)));
  let start = null;
  let lastX = null;
  const stop = () => {
    start = null;
    selection.hidden = true;
  };
  stack.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    show(event);
    if (event.pointerType === "touch") return;
    start = { x: event.clientX, frame: frameAt(event) };
    stack.setPointerCapture(event.pointerId);
  });
  stack.addEventListener("pointermove", (event) => {
    if (event.clientX === lastX) return; // the lanes moved below a pointer at rest
    lastX = event.clientX;
    show(event);
    if (start) select(explorer, start.x, event.clientX);
  });
  stack.addEventListener("pointerup", (event) => {
    const ends = start && !selection.hidden ? [start.frame, frameAt(event)] : null;
    stop();
    if (ends) explorer.setView(Math.min(...ends), Math.max(...ends));
  });
  stack.addEventListener("pointercancel", stop);
  stack.addEventListener("dblclick", () => explorer.showAll());
  stack.addEventListener("wheel", (event) => {
    if (turnWheel(explorer, event, frameAt(event))) event.preventDefault();
  }, { passive: false });
}

function select({ stack, selection, plotWidth }, one, other) {
  const edge = stack.getBoundingClientRect().left + GUTTER;
  const [from, to] = [one, other].sort((a, b) => a - b).map((x) => Math.min(Math.max(x - edge, 0), plotWidth));
  selection.hidden = to - from < LEAST_DRAG;
  selection.style.left = `${GUTTER + from}px`;
  selection.style.width = `${to - from}px`;
}

function turnWheel(explorer, event, frame) {
  const isSideways = event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY);
  const turn = Math.sign(event.deltaY || event.deltaX);
  if (event.ctrlKey || event.metaKey) explorer.zoom(1.5 ** turn, frame);
  else if (isSideways) explorer.pan(0.15 * turn);
  return event.ctrlKey || event.metaKey || isSideways;
}
