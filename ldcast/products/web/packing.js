"use strict";
// Undoes what ldcast/products/packing.py did to maps.

const NO_DATA = 255;

// The arrays of images that the text holds: contents are their names and numbers of images.
async function unpack(text, [rows, columns], contents) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), numPixels = rows * columns;
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let start = 0; start < bytes.length; start += numPixels) undoPrediction(bytes, start, rows, columns);
  const arrays = {};
  let start = 0;
  for (const [name, count] of contents) {
    arrays[name] = bytes.subarray(start, start += count * numPixels);
  }
  return arrays;
}

// Each pixel was stored as what differs from what its neighbours let expect (LOCO-I's median).
function undoPrediction(bytes, start, rows, columns) {
  for (let row = 0; row < rows; row++) {
    let left = 0, corner = 0;
    for (let place = start + row * columns, end = place + columns; place < end; place++) {
      const above = row ? bytes[place - columns] : 0;
      const low = left < above ? left : above, high = left < above ? above : left;
      const plane = left + above - corner;
      const expected = plane < low ? low : plane > high ? high : plane;
      left = bytes[place] = bytes[place] + expected & 255;
      corner = above;
    }
  }
}

// mm/h of each code: 0 is dry, code 1 the lowest rate, each next one `step_db` more.
function ratesOfCodes({ lowest_rate, step_db }) {
  return Float32Array.from({ length: 256 }, (_, code) =>
    code === NO_DATA ? NaN : code === 0 ? 0 : lowest_rate * 10 ** ((code - 1) * step_db / 10));
}
