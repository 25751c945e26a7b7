// A video's columns from the text that packing.py writes: Map of key -> array of numbers, NaN where there is none.
const TYPES = { u8: [1, 2 ** 8], u16: [2, 2 ** 16], u32: [4, 2 ** 32], u56: [7, 2 ** 56] };

async function unpack(base64) {
  if (!window.DecompressionStream) throw new Error("this browser is too old to unpack the data (2023 or newer does)");
  const text = atob(base64);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const headEnd = 4 + new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, headEnd)));
  const columns = new Map();
  let offset = headEnd;
  for (const column of head.columns) {
    columns.set(column.key, numbersOf(bytes, offset, head.frames, column));
    offset += head.frames * TYPES[column.type][0];
  }
  const faces = head.faces ? JSON.parse(new TextDecoder().decode(bytes.subarray(offset, offset + head.faces))) : null;
  return { columns, faces };
}

function numbersOf(bytes, offset, count, { key, type, low, step }) {
  const [size, range] = TYPES[type];
  const none = key === "frame" ? -1 : range - 1;
  const found = new Float64Array(count);
  let whole = 0;
  for (let i = 0; i < count; i++) {
    for (let k = 0, place = 1; k < size; k++, place *= 256) whole += bytes[offset + k * count + i] * place;
    whole %= range;
    found[i] = whole === none ? NaN : low + whole * step;
  }
  return found;
}
