"use strict";
// What the page shows is drawn here; what it holds is packed by ldcast/products/explorer.py.
// Before it: uPlot, packing.js and maps.js.

const element = (id) => document.getElementById(id);
const about = JSON.parse(document.getElementById("about").textContent);
const [rows, columns] = about.shape, numPixels = rows * columns;
const numPast = about.past_minutes.length, minutes = [...about.past_minutes, ...about.lead_minutes];
const numFrames = minutes.length, numMembers = about.num_members;

const rateOf = ratesOfCodes(about);

// ---- what there is to see ----------------------------------------------------------------------

const state = { frame: numPast, view: 0, pixel: (rows >> 1) * columns + (columns >> 1), timer: 0 };
let arrays, views;

// A view: its label, its scale, and how its value comes from the codes of a pixel's members.
function makeViews() {
  const found = [];
  if (numMembers > 1) {
    found.push({ label: `mean of ${numMembers} members`, scale: about.scales.rain, values: meanOf });
    about.thresholds.forEach((threshold, index) => found.push({
      label: `chance of ≥ ${threshold} mm/h`, scale: about.scales.chance,
      values: (frame) => chancesOf(frame, index),
    }));
  }
  for (let member = 0; member < numMembers; member++) {
    found.push({ label: `member ${member + 1}`, member, scale: about.scales.rain,
      values: (frame) => rates(arrays.rain, member * (numFrames - numPast) + frame - numPast) });
  }
  if (arrays.later) {
    found.push({ label: "observed later", scale: about.scales.rain, values: (frame) => rates(arrays.later, frame - numPast) });
  }
  return found;
}

const radar = { label: "radar", values: (frame) => rates(arrays.past, frame) };

function viewAt(frame) {
  return frame < numPast ? { ...radar, scale: about.scales.rain } : views[state.view];
}

function rates(codes, image) {
  const start = image * numPixels;
  return Float32Array.from(codes.subarray(start, start + numPixels), (code) => rateOf[code]);
}

function memberCodes(member, frame, pixel) {
  return arrays.rain[(member * (numFrames - numPast) + frame - numPast) * numPixels + pixel];
}

function meanOf(frame) {
  const mean = new Float32Array(numPixels);
  for (let member = 0; member < numMembers; member++) {
    const start = (member * (numFrames - numPast) + frame - numPast) * numPixels;
    for (let pixel = 0; pixel < numPixels; pixel++) mean[pixel] += rateOf[arrays.rain[start + pixel]];
  }
  return mean.map((sum) => sum / numMembers);
}

function chancesOf(frame, index) {
  const start = (index * (numFrames - numPast) + frame - numPast) * numPixels;
  return Float32Array.from(arrays.chances.subarray(start, start + numPixels),
    (parts) => parts === NO_DATA ? NaN : parts / about.chance_parts);
}

// ---- the map -----------------------------------------------------------------------------------

const canvas = element("rain"), image = document.createElement("canvas");
image.width = columns;
image.height = rows;

const painted = { frame: -1, view: -1, values: null };  // what `image` shows

function paint() {
  const view = viewAt(state.frame);
  if (painted.frame !== state.frame || painted.view !== state.view) {
    Object.assign(painted, { frame: state.frame, view: state.view, values: view.values(state.frame) });
    paintValues(image, painted.values, view.scale, about.dry_colour);
  }

  const ratio = window.devicePixelRatio || 1;
  const shape = rows * about.pixel_aspect / columns;
  const shownWidth = Math.max(40, Math.min(element("map").clientWidth, 0.75 * window.innerHeight / shape));
  const width = Math.round(shownWidth * ratio), height = Math.max(1, Math.round(width * shape));
  Object.assign(canvas, { width, height });
  Object.assign(canvas.style, { width: `${shownWidth}px`, height: `${shownWidth * shape}px` });
  const draw = canvas.getContext("2d");
  draw.fillStyle = hatch(draw);
  draw.fillRect(0, 0, width, height);
  draw.imageSmoothingEnabled = false;
  draw.drawImage(image, 0, 0, width, height);
  const place = { across: width / columns, down: height / rows, ratio };
  drawDoubt(draw, place);
  drawBorders(draw, place);
  drawMark(draw, place);
  drawScaleBar(draw, width, height, ratio);
  drawLegend(element("legend"), view.scale, about.dry_colour);
  describe(view, painted.values);
}

function isDoubtful(frame, pixel) {
  return frame >= numPast && arrays.doubt && arrays.doubt[(frame - numPast) * numPixels + pixel] === 1;
}

// In dots of the canvas: across and down are those of a pixel, ratio those of a point of the screen.
function drawDoubt(draw, { across, down, ratio }) {
  if (!arrays.doubt || !element("doubt").checked || state.frame < numPast) return;
  const apart = 7 * ratio, dot = 1.6 * ratio;
  for (let y = apart / 2; y < rows * down; y += apart) {
    for (let x = apart / 2; x < columns * across; x += apart) {
      const pixel = Math.floor(y / down) * columns + Math.floor(x / across);
      if (!isDoubtful(state.frame, pixel)) continue;
      draw.fillStyle = "#ffffffb0";
      draw.fillRect(x - dot, y - dot, 2 * dot, 2 * dot);
      draw.fillStyle = "#404040";
      draw.fillRect(x - dot / 2, y - dot / 2, dot, dot);
    }
  }
}

function drawBorders(draw, { across, down, ratio }) {
  const path = new Path2D();
  for (const line of about.borders) {
    line.forEach(([column, row], index) => {
      if (index) path.lineTo(column * across, row * down);
      else path.moveTo(column * across, row * down);
    });
  }
  for (const [colour, width] of [["#ffffff99", 3], ["#404040", 1.2]]) {
    Object.assign(draw, { strokeStyle: colour, lineWidth: width * ratio });
    draw.stroke(path);
  }
}

function drawMark(draw, { across, down, ratio }) {
  const y = (Math.floor(state.pixel / columns) + 0.5) * down, x = (state.pixel % columns + 0.5) * across;
  const reach = 9 * ratio, gap = 3 * ratio;
  for (const [colour, width] of [["#ffffff", 4], ["#000000", 1.6]]) {
    Object.assign(draw, { strokeStyle: colour, lineWidth: width * ratio });
    draw.beginPath();
    for (const [below, right] of [[0, 1], [0, -1], [1, 0], [-1, 0]]) {
      draw.moveTo(x + right * gap, y + below * gap);
      draw.lineTo(x + right * reach, y + below * reach);
    }
    draw.stroke();
  }
}

function drawScaleBar(draw, width, height, ratio) {
  if (!about.width_km) return;
  const power = 10 ** Math.floor(Math.log10(about.width_km / 4));
  const length = [5, 2, 1].find((digit) => digit * power <= about.width_km / 4) * power;
  const long = length / about.width_km * width, left = 10 * ratio, bottom = height - 10 * ratio;
  draw.font = `${12 * ratio}px system-ui, sans-serif`;
  const label = `${length} km`;
  draw.fillStyle = "#ffffffcc";
  draw.fillRect(left - 5 * ratio, bottom - 22 * ratio, Math.max(long, draw.measureText(label).width) + 10 * ratio, 28 * ratio);
  draw.fillStyle = "#202020";
  draw.fillRect(left, bottom - 3 * ratio, long, 3 * ratio);
  draw.fillText(label, left, bottom - 8 * ratio);
}

// ---- one place ---------------------------------------------------------------------------------

function timeAt(frame) {
  return about.issue_seconds + 60 * minutes[frame];
}

function clock(seconds) {
  return new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ") + " UTC";
}

function seenRate(frame, pixel) {
  const [images, image] = frame < numPast ? [arrays.past, frame] : [arrays.later, frame - numPast];
  return rateOf[images[image * numPixels + pixel]];
}

// As numpy.quantile has them; NaN where any member has no value.
function quantiles(frame, pixel, shares) {
  const sorted = Float32Array.from({ length: numMembers }, (_, m) => rateOf[memberCodes(m, frame, pixel)]).sort();
  return shares.map((share) => {
    const place = share * (numMembers - 1), below = Math.floor(place);
    const above = Math.min(below + 1, numMembers - 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
  });
}

function format(value) {
  if (Number.isNaN(value)) return "no data";
  if (value === 0) return `<${about.lowest_rate}`;
  return value < 10 ? value.toFixed(2) : value.toFixed(1);
}

function describe(view, values) {
  const ahead = minutes[state.frame], isForecast = state.frame >= numPast;
  const continued = isForecast && about.is_continued[state.frame - numPast] ? ", continued from forecast frames" : "";
  element("valid").textContent = `${isForecast ? "forecast" : "radar"} ${ahead > 0 ? "+" : ""}${ahead} min, ` +
    `${clock(timeAt(state.frame))}${continued}`;
  element("time").setAttribute("aria-valuetext", element("valid").textContent);
  canvas.setAttribute("aria-label", `Map of the ${view.label}, ${element("valid").textContent}`);

  const value = values[state.pixel], row = Math.floor(state.pixel / columns), column = state.pixel % columns;
  const unit = view.scale === about.scales.chance ? " %" : " mm/h";
  const shown = unit === " %" && !Number.isNaN(value) ? Math.round(100 * value) : format(value);
  let text = `Row ${row * about.block}, column ${column * about.block}: ${view.label} ${shown}${Number.isNaN(value) ? "" : unit}.`;
  if (isForecast && numMembers > 1 && !Number.isNaN(value)) {
    const [low, middle, high] = quantiles(state.frame, state.pixel, [0.1, 0.5, 0.9]);
    text += ` Members: median ${format(middle)}, 10 to 90 % ${format(low)} to ${format(high)} mm/h.`;
  }
  if (isDoubtful(state.frame, state.pixel)) text += " What comes here was not seen by the radar.";
  element("readout").textContent = text;
  element("readout").dataset.value = value;
  updateChart(view);
}

let chart;

function seriesAt(pixel) {
  const times = minutes.map((_, frame) => timeAt(frame));
  const only = (from, to, of) => minutes.map((_, frame) => {
    if (frame < from || frame >= to) return null;
    const value = of(frame);
    return Number.isNaN(value) ? null : value;
  });
  const seen = only(0, arrays.later ? numFrames : numPast, (frame) => seenRate(frame, pixel));
  const fan = minutes.map((_, frame) => frame < numPast ? [NaN, NaN, NaN] : quantiles(frame, pixel, [0.1, 0.5, 0.9]));
  const member = views[state.view].member ?? 0;
  return [times, seen, ...[2, 0, 1].map((at) => only(numPast, numFrames, (frame) => fan[frame][at])),
    only(numPast, numFrames, (frame) => rateOf[memberCodes(member, frame, pixel)])];
}

function updateChart(view) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  if (!chart) {
    const axis = { stroke: () => colour("--text"), grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { stroke: () => colour("--line") } };
    const shown = (_, value) => value === null || value === undefined ? "–" : format(value);
    const line = (label, stroke, more) => ({ label, stroke, value: shown, points: { show: false }, width: 2, ...more });
    chart = new uPlot({
      width: 400, height: 260, tzDate: (seconds) => uPlot.tzDate(new Date(1000 * seconds), "Etc/UTC"),
      cursor: { drag: { x: false, y: false } },
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.05)] } },
      axes: [{ ...axis, values: (_, splits) => splits.map((at) => clock(at).slice(11, 16)) },
        { ...axis, label: "mm/h", labelSize: 20, size: 44 }],
      series: [{ value: (_, at) => at === null ? "–" : clock(at) },
        line("radar", () => colour("--text"), { points: { show: true, size: 6 } }),
        line("90 %", () => colour("--mark"), { width: 1 }), line("10 %", () => colour("--mark"), { width: 1 }),
        line("median", () => colour("--mark")),
        line("member", "#c2570c", { dash: [6, 3] })],
      bands: [{ series: [2, 3], fill: () => colour("--mark") + "40" }],
      hooks: { draw: [(plot) => {
        const at = Math.round(plot.valToPos(timeAt(state.frame), "x", true));
        plot.ctx.fillStyle = colour("--text");
        plot.ctx.fillRect(at, plot.bbox.top, 2, plot.bbox.height);
      }] },
    }, [[]], element("chart"));
    chart.over.addEventListener("click", () => {
      if (chart.cursor.idx !== null && chart.cursor.idx !== undefined) show({ frame: chart.cursor.idx });
    });
  }
  chart.setSeries(5, { show: numMembers === 1 || view.member !== undefined });
  if (numMembers === 1) [2, 3, 4].forEach((index) => chart.setSeries(index, { show: false }));
  chart.setData(seriesAt(state.pixel));
  chart.setSize({ width: Math.max(240, element("chart").clientWidth), height: 260 });
}

// ---- what one does -----------------------------------------------------------------------------

function show(change) {
  Object.assign(state, change);
  state.frame = (state.frame + numFrames) % numFrames;
  state.view = (state.view + views.length) % views.length;
  element("time").value = state.frame;
  element("view").value = state.view;
  paint();
}

function play(isOn) {
  clearInterval(state.timer);
  state.timer = isOn ? setInterval(() => show({ frame: state.frame + 1 }), 350) : 0;
  element("play").textContent = isOn ? "⏸" : "▶";
  element("play").setAttribute("aria-label", isOn ? "Pause" : "Play");
}

function pointAt(event) {
  const box = canvas.getBoundingClientRect();
  const limit = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value * size)));
  const column = limit((event.clientX - box.left) / box.width, columns);
  show({ pixel: limit((event.clientY - box.top) / box.height, rows) * columns + column });
}

function moveMark(key) {
  const row = Math.floor(state.pixel / columns), column = state.pixel % columns;
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  const down = Math.min(rows - 1, Math.max(0, row + step[0])), right = Math.min(columns - 1, Math.max(0, column + step[1]));
  show({ pixel: down * columns + right });
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isArrow = event.key.startsWith("Arrow"), key = event.key.toLowerCase(), at = document.activeElement;
  if (isArrow && at === canvas) moveMark(event.key);
  else if (isArrow && (at === element("time") || at === element("view"))) return;
  else if (event.key === "ArrowLeft") show({ frame: state.frame - 1 });
  else if (event.key === "ArrowRight") show({ frame: state.frame + 1 });
  else if (event.key === " " && at !== element("view") && at !== element("play") && at !== element("doubt")) play(!state.timer);
  else if (key === "m" && at !== element("view")) show({ view: state.view + 1 });
  else if (key === "n" && at !== element("view")) show({ view: state.view - 1 });
  else return;
  event.preventDefault();
}

function start() {
  views = makeViews();
  element("title").textContent = about.title;
  element("notes").textContent = about.notes.join(" ");
  element("time").max = numFrames - 1;
  element("doubt-label").hidden = !arrays.doubt;
  views.forEach((view, index) => element("view").add(new Option(view.label, index)));
  element("time").addEventListener("input", (event) => show({ frame: Number(event.target.value) }));
  element("view").addEventListener("change", (event) => show({ view: Number(event.target.value) }));
  element("doubt").addEventListener("change", () => show({}));
  element("play").addEventListener("click", () => play(!state.timer));
  for (const kind of ["pointerdown", "pointermove"]) canvas.addEventListener(kind, pointAt);
  document.addEventListener("keydown", pressed);
  window.addEventListener("resize", () => show({}));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show({}));
  show({});
  document.documentElement.dataset.ready = "yes";
}

unpack(element("data").textContent, about.shape, about.arrays).then((found) => {
  arrays = found;
  element("data").remove();
  start();
}).catch((error) => {
  element("title").textContent = `This page could not be read (${error}); make it again, or take a newer browser.`;
});
