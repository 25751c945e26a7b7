// The time axis that all lanes share: real frame numbers. A view is [first, last] of what is in sight.
const NARROWEST = 8; // frames in sight at most zoom

// The cells of frames: each reaches halfway to its neighbours, and half a step at the ends and at gaps.
function cellsOf(frames, gap) {
  const count = frames.length;
  const starts = new Float64Array(count);
  const ends = new Float64Array(count);
  const half = Math.max(0.5, count > 1 ? medianStep(frames) / 2 : 0.5);
  for (let i = 0; i < count; i++) {
    const before = i > 0 ? frames[i] - frames[i - 1] : Infinity;
    const after = i + 1 < count ? frames[i + 1] - frames[i] : Infinity;
    starts[i] = frames[i] - (before <= gap ? before / 2 : half);
    ends[i] = frames[i] + (after <= gap ? after / 2 : half);
  }
  return { starts, ends };
}

// [start, end] of what no cell covers between two frames.
function gapsOf({ starts, ends }) {
  const gaps = [];
  for (let i = 1; i < starts.length; i++) if (starts[i] > ends[i - 1]) gaps.push([ends[i - 1], starts[i]]);
  return gaps;
}

function medianStep(frames) {
  const steps = new Float64Array(frames.length - 1);
  for (let i = 0; i < steps.length; i++) steps[i] = frames[i + 1] - frames[i];
  return steps.sort()[steps.length >> 1];
}

// The first place where `values`, ascending, is at least `wanted`.
function lowerBound(values, wanted) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(frames, wanted) {
  const after = Math.min(lowerBound(frames, wanted), frames.length - 1);
  const before = Math.max(after - 1, 0);
  return wanted - frames[before] < frames[after] - wanted ? before : after;
}

// Round frame numbers between the ends of a view, at most `most` of them.
function ticksOf([first, last], most) {
  const rough = (last - first) / Math.max(most, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].find((each) => each * power >= rough) * power);
  const ticks = [];
  for (let tick = Math.ceil(first / step) * step; tick <= last; tick += step) ticks.push(tick);
  return ticks;
}

// For each of `width` pixels of a view the frames [from[i], to[i]) whose cells lie in it; none in a gap.
function framesByPixel({ starts, ends }, [first, last], width) {
  const from = new Int32Array(width);
  const to = new Int32Array(width);
  const perPixel = (last - first) / width;
  let i = lowerBound(ends, first);
  for (let x = 0; x < width; x++) {
    const left = first + x * perPixel;
    const middle = left + perPixel / 2;
    while (i < ends.length && ends[i] <= left) i++;
    let k = i;
    while (k < starts.length && starts[k] < left + perPixel && (k === i || starts[k] <= middle)) k++;
    from[x] = i;
    to[x] = k;
  }
  return { from, to };
}
