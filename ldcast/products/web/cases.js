"use strict";
// Maps of cases, side by side; what they hold is packed by ldcast/products/charts.py.
// Before it: packing.js and maps.js.

const element = (id) => document.getElementById(id);
const shownMap = { case: 0, view: 0, lead: 0, pixel: 0 };
let cases = null;  // what startCases was given, and the arrays and canvases of the maps

async function startCases(about) {
  if (!about.cases.length) return;
  const arrays = await unpack(element("data").textContent, about.shape, about.arrays);
  element("data").remove();
  const [rows, columns] = about.shape;
  cases = { about, arrays, rows, columns, numPixels: rows * columns, rateOf: ratesOfCodes(about), maps: [] };
  shownMap.pixel = (rows >> 1) * columns + (columns >> 1);
  shownMap.lead = Math.min(1, about.cases[0].lead_minutes.length - 1);
  element("cases").hidden = element("map-keys").hidden = false;
  element("cases-title").textContent = about.cases_texts[0];
  element("cases-hint").textContent = about.cases_texts[1];
  about.cases.forEach((of, index) => element("case").add(new Option(of.title, index)));
  for (const name of ["case", "view", "lead"]) {
    element(name).addEventListener("input", (event) => showMaps({ [name]: Number(event.target.value) }));
  }
  element("maps").addEventListener("keydown", moveMark);
  showMaps({ case: 0 });
}

function showMaps(change) {
  Object.assign(shownMap, change);
  const of = cases.about.cases[shownMap.case];
  if ("case" in change) chooseCase(of);
  element("lead").value = shownMap.lead;
  element("lead-text").textContent = `+${of.lead_minutes[shownMap.lead]} min`;
  element("lead").setAttribute("aria-valuetext", element("lead-text").textContent);
  const view = of.views[shownMap.view], scale = cases.about.scales[view.is_chance ? "chance" : "rain"];
  drawLegend(element("map-legend"), scale, cases.about.dry_colour);
  for (const map of cases.maps) {
    map.values = valuesOf(map.source, view);
    paintValues(map.image, map.values, scale, cases.about.dry_colour);
    map.canvas.setAttribute("aria-label", `Map of ${map.source}, ${view.label}, ${element("lead-text").textContent}`);
    drawMap(map);
  }
  showPlace(view);
}

// Lists of what there is to show of the case, and an empty map for each source.
function chooseCase(of) {
  shownMap.view = Math.min(shownMap.view, of.views.length - 1);
  shownMap.lead = Math.min(shownMap.lead, of.lead_minutes.length - 1);
  element("view").replaceChildren(...of.views.map((view, index) => new Option(view.label, index)));
  element("view").value = shownMap.view;
  element("lead").max = of.lead_minutes.length - 1;
  cases.maps = of.sources.map((source) => makeMap(source));
  element("maps").replaceChildren(...cases.maps.map((map) => map.figure));
}

function makeMap(source) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const canvas = document.createElement("canvas"), image = document.createElement("canvas"), value = document.createElement("output");
  Object.assign(image, { width: cases.columns, height: cases.rows });
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  for (const kind of ["pointerdown", "pointermove"]) canvas.addEventListener(kind, (event) => pointAt(canvas, event));
  caption.append(`${source} `, value);
  figure.append(caption, canvas);
  return { source, figure, canvas, image, value };
}

// A source with one member has no mean: its member stands for it.
function valuesOf(source, view) {
  const { about, arrays, numPixels, rateOf } = cases, first = about.cases[shownMap.case].views[0];
  const nameOf = (label) => `${shownMap.case}/${source}/${label}`;
  const codes = arrays[nameOf(view.label)] ?? arrays[nameOf(first.label)], start = shownMap.lead * numPixels;
  const toValue = view.is_chance ? (code) => code === NO_DATA ? NaN : code / 100 : (code) => rateOf[code];
  return Float32Array.from(codes.subarray(start, start + numPixels), toValue);
}

function drawMap({ canvas, image }) {
  const { rows, columns } = cases, ratio = window.devicePixelRatio || 1, width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(width * rows / columns)), draw = canvas.getContext("2d");
  Object.assign(canvas, { width, height });
  draw.fillStyle = hatch(draw);
  draw.fillRect(0, 0, width, height);
  draw.imageSmoothingEnabled = false;
  draw.drawImage(image, 0, 0, width, height);
  const x = (shownMap.pixel % columns + 0.5) * width / columns, y = (Math.floor(shownMap.pixel / columns) + 0.5) * height / rows;
  for (const [colour, thick] of [["#ffffff", 4], ["#000000", 1.6]]) {
    Object.assign(draw, { strokeStyle: colour, lineWidth: thick * ratio });
    draw.beginPath();
    for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      draw.moveTo(x + 3 * ratio * right, y + 3 * ratio * down);
      draw.lineTo(x + 9 * ratio * right, y + 9 * ratio * down);
    }
    draw.stroke();
  }
}

function resizeMaps() {
  if (cases) cases.maps.forEach(drawMap);
}

function showPlace(view) {
  const { about, columns } = cases;
  for (const { values, value } of cases.maps) {
    const at = values[shownMap.pixel], shown = at >= 10 ? at.toFixed(1) : at.toFixed(2);
    value.dataset.value = at;
    if (Number.isNaN(at)) value.textContent = "no data";
    else if (view.is_chance) value.textContent = `${Math.round(100 * at)} %`;
    else value.textContent = at === 0 ? `<${about.lowest_rate} mm/h` : `${shown} mm/h`;
  }
  const row = Math.floor(shownMap.pixel / columns) * about.block, column = shownMap.pixel % columns * about.block;
  element("place").textContent = `Above each map: its value at the mark, row ${row}, column ${column}.`;
}

function mark(pixel) {
  shownMap.pixel = pixel;
  cases.maps.forEach(drawMap);
  showPlace(cases.about.cases[shownMap.case].views[shownMap.view]);
}

function pointAt(canvas, event) {
  const box = canvas.getBoundingClientRect(), { rows, columns } = cases;
  const limit = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value * size)));
  const column = limit((event.clientX - box.left) / box.width, columns);
  mark(limit((event.clientY - box.top) / box.height, rows) * columns + column);
}

function moveMark(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  const { rows, columns } = cases, row = Math.floor(shownMap.pixel / columns) + step[0], column = shownMap.pixel % columns + step[1];
  mark(Math.min(rows - 1, Math.max(0, row)) * columns + Math.min(columns - 1, Math.max(0, column)));
  event.preventDefault();
}
