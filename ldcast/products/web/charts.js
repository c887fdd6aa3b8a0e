"use strict";
// Draws the diagrams that ldcast/products/charts.py put into the page, and starts the page.
// Before it: uPlot, packing.js, maps.js and cases.js.

const about = JSON.parse(element("about").textContent);
const isOff = new Set();  // names of whom no lines are drawn
const charts = [];
const CHART_HEIGHT = 230, BELOW_HEIGHT = 120, MARK_APART = 34;  // pixels
let hasBands = true;

// ---- colours -----------------------------------------------------------------------------------

const darkness = matchMedia("(prefers-color-scheme: dark)");

function pageColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// On a dark page greys are turned round and colours are lighter.
function inkOf(hex) {
  const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const isGrey = Math.max(...parts) - Math.min(...parts) < 8;
  if (!darkness.matches) return hex;
  return `rgb(${parts.map((part) => Math.round(isGrey ? 245 - 0.8 * part : part + 0.3 * (255 - part))).join(" ")})`;
}

// ---- lines -------------------------------------------------------------------------------------

function isShown(line) {
  return !isOff.has(line.name);
}

// What uPlot draws of values: nothing for zero on a logarithmic scale.
function drawable(panel, values) {
  return panel.y_scale === "log" ? values.map((value) => value > 0 ? value : null) : values;
}

function dataOf(panel) {
  return [panel.x, ...panel.lines.map((line) => drawable(panel, line.values))];
}

function widened([low, high], scale) {
  if (scale === "log") return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
  return low === high ? [low - 0.5, high + 0.5] : [low - 0.05 * (high - low), high + 0.05 * (high - low)];
}

// Of what is drawn in any version of a diagram: so a slider does not move the axis.
function rangeOfY(panels) {
  const [{ y_scale, y_limits: [lowest, highest] }] = panels, values = [];
  for (const panel of panels) {
    for (const line of panel.lines.filter(isShown)) {
      const drawn = hasBands && line.low ? [line.values, line.low, line.high] : [line.values];
      for (const of of drawn) for (const value of drawable(panel, of)) values.push(value);
    }
    values.push(...panel.guides.filter((guide) => !guide.end && panel.lines.some(isShown)).map((guide) => guide.start[1]));
  }
  const found = values.filter((value) => value !== null);
  if (!found.length) return [lowest ?? (y_scale === "log" ? 0.1 : 0), highest ?? 1];
  const ends = found.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [low, high] = widened(ends, y_scale);
  const lows = panels.map((panel) => panel.y_limits[0]).filter((value) => value !== null);
  const highs = panels.map((panel) => panel.y_limits[1]).filter((value) => value !== null);
  const range = [lows.length ? Math.min(...lows) : low, highs.length ? Math.max(...highs) : high];
  return range[1] > range[0] ? range : [range[0], range[0] + 1];
}

function rangeOfX(panel) {
  const limits = [...panel.x_limits].sort((a, b) => a - b);
  if (limits[0] !== null && limits[1] !== null) return limits;
  return widened([panel.x[0], panel.x[panel.x.length - 1]], panel.x_scale);
}

const DIGITS = [[1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1, 3], [1]];

// Of each decade as many digits as there is room for.
function logSplits(low, high, room) {
  for (const digits of DIGITS) {
    const splits = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      splits.push(...digits.map((digit) => Number(`${digit}e${power}`)).filter((split) => split >= low && split <= high));
    }
    if (splits.length <= Math.max(2, room) || digits.length === 1) return splits;
  }
}

function plainly(value) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 0.0001) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

function stairs(plot, series) {
  const x = plot.data[0], y = plot.data[series], half = (x[1] - x[0]) / 2, stroke = new Path2D();
  let isOpen = false;
  x.forEach((centre, place) => {
    if (y[place] === null) {
      isOpen = false;
      return;
    }
    const height = plot.valToPos(y[place], "y", true);
    const [left, right] = [centre - half, centre + half].map((edge) => plot.valToPos(edge, "x", true));
    if (isOpen) stroke.lineTo(left, height);
    else stroke.moveTo(left, height);
    stroke.lineTo(right, height);
    isOpen = true;
  });
  return { stroke, fill: null, clip: null, band: null, gaps: null, flags: 1 };
}

// ---- under and over the lines ------------------------------------------------------------------

function inside(plot, draw) {
  const { left, top, width, height } = plot.bbox;
  plot.ctx.save();
  plot.ctx.beginPath();
  plot.ctx.rect(left, top, width, height);
  plot.ctx.clip();
  draw(plot.ctx, (x) => plot.valToPos(x, "x", true), (y) => plot.valToPos(y, "y", true));
  plot.ctx.restore();
}

function drawBands(panel, plot) {
  if (!hasBands) return;
  inside(plot, (ink, across, down) => {
    for (const line of panel.lines.filter((line) => line.low && isShown(line))) {
      const low = drawable(panel, line.low), high = drawable(panel, line.high);
      const isKnown = (place) => low[place] !== null && high[place] !== null;
      ink.fillStyle = inkOf(line.colour);
      ink.globalAlpha = line.marker ? 0.2 : 0.1;
      for (let from = 0; from < panel.x.length; from++) {
        if (!isKnown(from)) continue;
        let to = from;
        while (to + 1 < panel.x.length && isKnown(to + 1)) to++;
        ink.beginPath();
        for (let place = from; place <= to; place++) ink.lineTo(across(panel.x[place]), down(high[place]));
        for (let place = to; place >= from; place--) ink.lineTo(across(panel.x[place]), down(low[place]));
        ink.fill();
        from = to;
      }
    }
  });
}

function drawGuides(panel, plot) {
  inside(plot, (ink, across, down) => {
    const ratio = window.devicePixelRatio || 1, [left, right] = rangeOfX(panel);
    for (const { start, end, is_dotted, label } of panel.guides) {
      const ends = end ? [start, end] : [[left, start[1]], [right, start[1]]];
      Object.assign(ink, { strokeStyle: pageColour("--faint"), lineWidth: 0.9 * ratio });
      ink.setLineDash(is_dotted ? [1.5 * ratio, 2.5 * ratio] : []);
      ink.beginPath();
      for (const [x, y] of ends) ink.lineTo(across(x), down(y));
      ink.stroke();
      Object.assign(ink, { fillStyle: pageColour("--faint"), textAlign: "right", font: `${10 * ratio}px system-ui, sans-serif` });
      ink.fillText(label, plot.bbox.left + plot.bbox.width - 6 * ratio, down(start[1]) - 4 * ratio);
    }
  });
}

// Of a line's marker, `size` pixels around a place.
const MARKERS = {
  o: (ink, x, y, size) => ink.arc(x, y, size, 0, 2 * Math.PI),
  ".": (ink, x, y, size) => ink.arc(x, y, 0.7 * size, 0, 2 * Math.PI),
  s: (ink, x, y, size) => ink.rect(x - size, y - size, 2 * size, 2 * size),
  D: (ink, x, y, size) => polygon(ink, x, y, [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]], size),
  "^": (ink, x, y, size) => polygon(ink, x, y, [[0, -1.2], [1.2, 1], [-1.2, 1]], size),
  v: (ink, x, y, size) => polygon(ink, x, y, [[0, 1.2], [1.2, -1], [-1.2, -1]], size),
  P: (ink, x, y, size) => {
    ink.rect(x - size / 2, y - 1.3 * size, size, 2.6 * size);
    ink.rect(x - 1.3 * size, y - size / 2, 2.6 * size, size);
  },
};

function polygon(ink, x, y, corners, size) {
  corners.forEach(([right, down], place) => ink[place ? "lineTo" : "moveTo"](x + right * size, y + down * size));
  ink.closePath();
}

// Some way apart, and not all lines' at the same places.
function drawMarkers(panel, plot, series) {
  const line = panel.lines[series - 1];
  if (!line || !line.marker || !isShown(line) || panel.is_stairs) return;
  const ratio = window.devicePixelRatio || 1, values = plot.data[series];
  inside(plot, (ink, across, down) => {
    const step = line.marker === "." ? 0 : MARK_APART * ratio;
    let next = plot.bbox.left + step * (series % 4) / 4;
    ink.fillStyle = inkOf(line.colour);
    const places = panel.x.map((_, place) => place).filter((place) => values[place] !== null);
    places.sort((a, b) => across(panel.x[a]) - across(panel.x[b]));
    for (const place of places) {
      const x = across(panel.x[place]);
      if (x < next) continue;
      next = x + step;
      ink.beginPath();
      MARKERS[line.marker](ink, x, down(values[place]), 3 * ratio);
      ink.fill();
    }
  });
}

// ---- diagrams ----------------------------------------------------------------------------------

// In `holder`, the chosen one of `panels`, which are versions of the same diagram.
function addChart(holder, panels, chosen, height) {
  const chart = { holder, panels, chosen, height, plot: null };
  holder.tabIndex = 0;
  holder.addEventListener("keydown", (event) => stepCursor(chart, event));
  holder.addEventListener("blur", () => leave(chart));
  charts.push(chart);
  makePlot(chart);
}

function makePlot(chart) {
  const panel = chart.panels[chart.chosen];
  chart.plot?.destroy();
  chart.plot = null;
  chart.holder.setAttribute("aria-label", `Diagram: ${panel.title || panel.y_label}`);
  const [left, right] = panel.x_limits, isTurned = left !== null && right !== null && left > right;
  const scaleOf = (scale) => scale === "log" ? 3 : 1;
  chart.plot = new uPlot({
    width: widthOf(chart), height: chart.height,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false, points: { size: 7 },
      dataIdx: (plot, series, place) => panel.joins_gaps && series ? nearestKnown(plot.data[series], place) : place },
    scales: { x: { time: false, distr: scaleOf(panel.x_scale), dir: isTurned ? -1 : 1, range: () => rangeOfX(panel) },
      y: { distr: scaleOf(panel.y_scale), range: () => rangeOfY(chart.panels) } },
    axes: [axis(panel.below ? "" : panel.x_label, panel.x_scale, { size: panel.below ? 22 : 28, labelSize: 18 }),
      axis(panel.y_label.replaceAll("\n", " ") === panel.title ? "" : panel.y_label, panel.y_scale, { size: 46, labelSize: 18 })],
    series: [{}, ...panel.lines.map((line) => ({
      label: line.name, stroke: () => inkOf(line.colour), width: line.width, dash: line.dash, show: isShown(line),
      spanGaps: panel.joins_gaps, points: { show: false }, ...(panel.is_stairs ? { paths: stairs } : {}),
    }))],
    hooks: {
      drawAxes: [(plot) => { drawBands(panel, plot); drawGuides(panel, plot); }],
      drawSeries: [(plot, series) => drawMarkers(panel, plot, series)],
      setCursor: [(plot) => describeCursor(chart, plot)],
    },
  }, dataOf(panel), chart.holder);
}

function axis(label, scale, more) {
  const stroke = () => pageColour("--text"), line = () => pageColour("--line");
  const room = (plot, which) => which === 0 ? plot.bbox.width / 38 : plot.bbox.height / 24;
  const log = { splits: (plot, which, low, high) => logSplits(low, high, room(plot, which) / (window.devicePixelRatio || 1)),
    filter: (_, splits) => splits };
  return { stroke, grid: { stroke: line, width: 0.7 }, ticks: { stroke: line, size: 4 }, gap: 3, font: "11px system-ui, sans-serif",
    labelFont: "12px system-ui, sans-serif", ...(label ? { label } : {}), values: (_, splits) => splits.map(plainly),
    ...(scale === "log" ? log : {}), ...more };
}

function widthOf(chart) {
  return Math.max(220, chart.holder.clientWidth);
}

// The nearest place that has a value; the same one where none has.
function nearestKnown(values, place) {
  for (let away = 0; away < values.length; away++) {
    for (const at of [place - away, place + away]) if (values[at] !== null && values[at] !== undefined) return at;
  }
  return place;
}

// ---- values under the pointer ------------------------------------------------------------------

function describeCursor(chart, plot) {
  const panel = chart.panels[chart.chosen], place = plot.cursor.idx;
  const isAway = place === null || place === undefined || plot.cursor.left < 0;
  element("values").hidden = isAway;
  if (isAway) return;
  const rows = panel.lines.map((line, index) => ({ line, at: plot.cursor.idxs[index + 1] ?? place }))
    .filter(({ line, at }) => isShown(line) && line.values[at] !== null);
  const head = document.createElement("b");
  head.textContent = `${panel.x_label} ${plainly(panel.x[place])}`;
  element("values").replaceChildren(head, ...rows.map(({ line, at }) => valueRow(panel, line, at, place)));
  placeBeside(element("values"), plot.over.getBoundingClientRect());
}

// Right or left of the diagram or, where there is no room, below or above it: it is to be seen.
function placeBeside(values, of) {
  const { width, height } = values.getBoundingClientRect(), apart = 8;
  const { clientWidth, clientHeight } = document.documentElement;
  const rooms = [clientWidth - of.right, of.left].map((room) => room - 2 * apart);
  let left = rooms[0] >= width ? of.right + apart : of.left - width - apart;
  let top = of.top;
  if (Math.max(...rooms) < width) {
    left = of.left;
    top = of.bottom + 45 + height < clientHeight ? of.bottom + 45 : of.top - height - apart;
  }
  left = Math.max(0, Math.min(left, clientWidth - width));
  top = Math.max(0, Math.min(top, clientHeight - height));
  Object.assign(values.style, { left: `${left}px`, top: `${top}px` });
}

function valueRow(panel, line, at, place) {
  const row = document.createElement("div"), swatch = document.createElement("i"), who = document.createElement("span");
  const value = document.createElement("output");
  swatch.style.background = inkOf(line.colour);
  who.textContent = [labelOf(line.name), line.note].filter((text) => text).join(", ");
  if (at !== place) who.textContent += ` (${plainly(panel.x[at])})`;
  value.textContent = plainly(line.values[at]);
  if (line.low && hasBands && line.low[at] !== null) value.textContent += ` (${plainly(line.low[at])} to ${plainly(line.high[at])})`;
  Object.assign(value.dataset, { name: line.name, note: line.note, value: line.values[at], x: panel.x[at] });
  row.append(swatch, who, value);
  return row;
}

function labelOf(name) {
  return about.legend.find((entry) => entry.name === name)?.label ?? name;
}

function stepCursor(chart, event) {
  if (event.key !== "ArrowLeft" && event.key !== "ArrowRight" || event.ctrlKey || event.metaKey || event.altKey) return;
  const { plot } = chart, x = chart.panels[chart.chosen].x;
  const step = (event.key === "ArrowRight" ? 1 : -1) * plot.scales.x.dir;
  const isAway = plot.cursor.left < 0 || plot.cursor.idx === null || plot.cursor.idx === undefined;
  const place = isAway ? (step > 0 ? 0 : x.length - 1) : Math.min(x.length - 1, Math.max(0, plot.cursor.idx + step));
  plot.setCursor({ left: Math.max(0, plot.valToPos(x[place], "x")), top: plot.over.clientHeight / 2 });
  event.preventDefault();
}

function leave(chart) {
  chart.plot.setCursor({ left: -10, top: -10 });
}

// ---- the page ----------------------------------------------------------------------------------

function addGroup(group) {
  const section = document.createElement("section"), grid = document.createElement("div");
  if (group.title) section.append(textIn("h2", group.title));
  if (group.hint) section.append(textIn("p", group.hint, "hint"));
  grid.className = "charts";
  section.append(grid);
  element("groups").append(section);
  const made = group.panels.map((panels) => {
    const box = document.createElement("div"), title = textIn("h3", ""), first = charts.length;
    box.className = "chart";
    box.append(title, textIn("p", panels[0].hint, "hint"));
    grid.append(box);
    const name = (chosen) => { title.textContent = panels[chosen].title; };
    name(group.chosen);
    const holder = () => box.appendChild(document.createElement("div"));
    addChart(holder(), panels, group.chosen, CHART_HEIGHT);
    if (panels[0].below) addChart(holder(), panels.map((panel) => panel.below), group.chosen, BELOW_HEIGHT);
    return { charts: charts.slice(first), name };
  });
  if (group.choices.length > 1) grid.before(slider(group, made));
}

function textIn(kind, text, name = "") {
  const found = document.createElement(kind);
  found.textContent = text;
  found.className = name;
  return found;
}

function slider(group, made) {
  const label = textIn("label", "Lead time ", "slider"), input = document.createElement("input");
  const shown = textIn("output", group.choices[group.chosen]);
  Object.assign(input, { type: "range", min: 0, max: group.choices.length - 1, step: 1, value: group.chosen });
  const say = () => {
    shown.textContent = group.choices[input.value];
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    say();
    for (const { charts: ofIt, name } of made) {
      name(Number(input.value));
      for (const chart of ofIt) {
        chart.chosen = Number(input.value);
        makePlot(chart);
      }
    }
  });
  say();
  label.append(input, shown);
  return label;
}

function addSwitches() {
  for (const entry of about.legend) {
    const sample = document.createElement("canvas");
    const box = addSwitch(sample, entry.label, entry.name, (isOn) => isOn ? isOff.delete(entry.name) : isOff.add(entry.name));
    box.parentElement.title = entry.name;
    entry.sample = sample;
  }
  const panels = about.groups.flatMap((group) => group.panels.flat());
  if (panels.some((panel) => panel.lines.some((line) => line.low))) {
    addSwitch("", "intervals", "", (isOn) => { hasBands = isOn; }).id = "bands";
  }
  element("switches").hidden = !element("switches").children.length;
}

function addSwitch(sample, text, name, change) {
  const label = document.createElement("label"), box = document.createElement("input");
  Object.assign(box, { type: "checkbox", checked: true });
  box.dataset.name = name;
  box.addEventListener("change", () => {
    change(box.checked);
    redraw();
  });
  label.append(box, sample, textIn("span", text));
  element("switches").append(label);
  return box;
}

function drawSample({ sample, colour, width, dash, marker }) {
  const ratio = window.devicePixelRatio || 1, ink = sample.getContext("2d");
  Object.assign(sample, { width: 44 * ratio, height: 14 * ratio });
  ink.scale(ratio, ratio);
  Object.assign(ink, { strokeStyle: inkOf(colour), fillStyle: inkOf(colour), lineWidth: width });
  ink.setLineDash(dash);
  ink.beginPath();
  ink.moveTo(0, 7);
  ink.lineTo(44, 7);
  ink.stroke();
  if (!marker) return;
  ink.beginPath();
  MARKERS[marker](ink, 22, 7, 3.2);
  ink.fill();
}

function redraw() {
  about.legend.forEach(drawSample);
  for (const { plot, panels, chosen } of charts) {
    plot.batch(() => {
      panels[chosen].lines.forEach((line, index) => plot.setSeries(index + 1, { show: isShown(line) }));
      plot.setData(plot.data);
    });
  }
}

function resize() {
  for (const chart of charts) chart.plot.setSize({ width: widthOf(chart), height: chart.height });
  resizeMaps();
}

function hideValues() {
  element("values").hidden = true;
}

async function start() {
  element("title").textContent = about.title;
  element("subtitle").textContent = about.subtitle;
  addSwitches();
  about.groups.forEach(addGroup);
  redraw();
  await startCases(about);
  element("notes").replaceChildren(...[...about.notes, ...about.map_notes].map((note) => textIn("p", note)));
  window.addEventListener("resize", resize);
  window.addEventListener("scroll", hideValues, { passive: true });
  darkness.addEventListener("change", redraw);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  element("title").textContent = `This page could not be read (${error}); make it again, or take a newer browser.`;
});
