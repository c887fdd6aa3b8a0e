"use strict";
// How maps are coloured, for all pages with maps.

const HATCH_GROUND = "#e2e2e2", HATCH_LINE = "#9a9a9a";

// The class of a value, -1 below all of them.
function classOf(value, { bounds, colours }) {
  let place = -1;
  while (place + 1 < bounds.length && value >= bounds[place + 1]) place++;
  return Math.min(place, colours.length - 1);
}

function colourOf(value, scale, dryColour) {
  if (Number.isNaN(value)) return [0, 0, 0, 0];
  const place = classOf(value, scale), hex = place < 0 ? dryColour : scale.colours[place];
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).concat(255);
}

// The values as dots of a canvas of as many columns and rows; without data they let through.
function paintValues(canvas, values, scale, dryColour) {
  const draw = canvas.getContext("2d"), pixels = draw.createImageData(canvas.width, canvas.height);
  const known = new Map();
  values.forEach((value, pixel) => {
    const key = Number.isNaN(value) ? "none" : classOf(value, scale);
    if (!known.has(key)) known.set(key, colourOf(value, scale, dryColour));
    pixels.data.set(known.get(key), 4 * pixel);
  });
  draw.putImageData(pixels, 0, 0);
}

function hatch(draw) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const on = tile.getContext("2d");
  on.fillStyle = HATCH_GROUND;
  on.fillRect(0, 0, 8, 8);
  on.strokeStyle = HATCH_LINE;
  for (const shift of [-8, 0, 8]) {
    on.beginPath();
    on.moveTo(shift, 8);
    on.lineTo(shift + 8, 0);
    on.stroke();
  }
  return draw.createPattern(tile, "repeat");
}

// A box for each class, and what they are of.
function drawLegend(legend, scale, dryColour) {
  if (legend.dataset.label === scale.label) return;
  legend.dataset.label = scale.label;
  const box = (colour, label) => {
    const span = document.createElement("span"), swatch = document.createElement("i");
    swatch.style.background = colour;
    span.append(label, swatch);
    return span;
  };
  const none = box(`repeating-linear-gradient(135deg, ${HATCH_GROUND} 0 4px, ${HATCH_LINE} 4px 5px)`, "no data");
  const name = document.createElement("b");
  name.textContent = scale.label;
  none.className = "wide";
  legend.replaceChildren(none, box(dryColour, "0"),
    ...scale.colours.map((colour, index) => box(colour, scale.bound_labels[index])), name);
}
