"use strict";
// Sorting, filtering and copying of tables, the slider of pictures, values of curves, and the place
// in a page that reloads. Everything is in the page without it.

// What the reader chose, kept over a reload in the history entry of the page.
const kept = () => Object.assign({}, history.state);
const keep = (name, value) => history.replaceState(Object.assign(kept(), { [name]: value }), "");
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
const number = (text) => (text.trim() === "" ? NaN : Number(text));
const full = (cell) => (cell.dataset.v ?? cell.textContent);

// ---- tables --------------------------------------------------------------------------------------

function sortBy(table, column, descending) {
  const heads = all("thead th", table);
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const values = new Map(rows.map((row) => [row, full(row.cells[column])]));
  const order = (a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    const [m, n] = [number(x), number(y)];
    // What has no number comes last, in both directions.
    if (Number.isNaN(m) !== Number.isNaN(n)) return Number.isNaN(m) ? 1 : -1;
    const less = Number.isNaN(m) ? x.localeCompare(y, "en", { numeric: true }) : m - n;
    return descending ? -less : less;
  };
  rows.sort(order).forEach((row) => body.append(row));
  heads.forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

// `loss < 0.5`: a column by its title and a number; anything else is text to be found. As on the
// command line, a stage stands for its first result: `fd` for `fd.score`.
function condition(text, heads) {
  const titles = heads.map((head) => head.textContent.toLowerCase());
  const isOf = (i, stage) => heads[i].dataset.group === "results" && titles[i].startsWith(`${stage}.`);
  const parts = text.match(/^(.*?)\s*(<=|>=|!=|=|<|>)\s*(.*)$/);
  const name = parts?.[1].trim().toLowerCase();
  const exact = parts ? titles.indexOf(name) : -1;
  const column = parts && exact < 0 ? titles.findIndex((_, i) => isOf(i, name)) : exact;
  if (column < 0) {
    const wanted = text.trim().toLowerCase();
    return (row) => row.textContent.toLowerCase().includes(wanted);
  }
  const [sign, wanted] = [parts[2], parts[3].trim()];
  return (row) => {
    const value = full(row.cells[column]);
    const numeric = !Number.isNaN(number(value)) && !Number.isNaN(number(wanted));
    const [a, b] = numeric ? [number(value), number(wanted)] : [value, wanted];
    if (value.trim() === "") return false;
    return { "<": a < b, ">": a > b, "<=": a <= b, ">=": a >= b, "=": a === b, "!=": a !== b }[sign];
  };
}

function csv(table) {
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = all("tr", table).filter((row) => !row.hidden);
  return rows.map((row) => Array.from(row.cells).map((cell) => quoted(full(cell))).join(",")).join("\n") + "\n";
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    said.textContent = "copied";
  } catch {
    // Pages from files may have no clipboard: select it for the reader.
    const area = document.createElement("textarea");
    area.value = text;
    said.replaceChildren(area);
    area.select();
    const done = document.execCommand("copy");
    if (done) said.textContent = "copied";
    else said.prepend("press Ctrl-C: ");
  }
}

all(".table").forEach((section) => {
  const table = section.querySelector("table");
  const tools = section.querySelector(".tools");
  const [search, said] = [tools.querySelector("input"), tools.querySelector("output")];
  const heads = all("thead th", table);
  tools.hidden = false;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      sortBy(table, column, descending);
      keep(`sort ${section.id}`, [column, descending]);
    });
  });
  const filter = () => {
    const rows = Array.from(table.tBodies[0].rows);
    const holds = condition(search.value, heads);
    rows.forEach((row) => { row.hidden = !holds(row); });
    const shown = rows.filter((row) => !row.hidden).length;
    said.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
    keep(`filter ${section.id}`, search.value);
  };
  search.addEventListener("input", filter);
  tools.querySelector(".copy").addEventListener("click", () => copy(csv(table), said));
  const sorted = kept()[`sort ${section.id}`];
  if (sorted) sortBy(table, ...sorted);
  search.value = kept()[`filter ${section.id}`] ?? "";
  if (search.value) filter();
});

// ---- pictures ------------------------------------------------------------------------------------

all(".gallery").forEach((gallery, i) => {
  const slider = gallery.querySelector(".slider");
  if (!slider) return;
  const [range, said] = [slider.querySelector("input"), slider.querySelector("output")];
  const steps = range.dataset.steps.split(" ").map(Number);
  slider.hidden = false;
  const show = () => {
    const step = steps[Number(range.value)];
    said.textContent = step;
    range.setAttribute("aria-valuetext", `step ${step}`);
    // Of each trial the latest picture up to this step.
    all(".series", gallery).forEach((series) => {
      const figures = all("figure", series);
      const past = figures.filter((figure) => Number(figure.dataset.step) <= step);
      const shown = past.at(-1) ?? figures[0];
      figures.forEach((figure) => { figure.hidden = figure !== shown; });
    });
  };
  range.addEventListener("input", () => {
    show();
    // At the end it stays at the end, where a page that is written again adds steps.
    keep(`step ${i}`, range.value === range.max ? undefined : steps[Number(range.value)]);
  });
  const before = kept()[`step ${i}`];
  if (before !== undefined) range.value = Math.max(0, steps.findLastIndex((step) => step <= before));
  show();
});

// ---- curves --------------------------------------------------------------------------------------

all(".chart").forEach((figure) => {
  const place = figure.querySelector(".legend .at");
  const values = all(".legend output", figure).map((output) => [output, output.textContent]);
  let chosen = null;
  const shown = () => all("svg", figure).find((svg) => svg.getClientRects().length > 0);
  const lines = (svg) => all("polyline[data-x]", svg).map((line) => ({
    number: line.dataset.line,
    x: line.dataset.x.split(" "),
    y: line.dataset.y.split(" "),
    at: line.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)),
  }));
  const clear = () => {
    all(".hover-line", figure).forEach((mark) => mark.remove());
    place.textContent = "last";
    values.forEach(([output, last]) => { output.textContent = last; });
    chosen = null;
  };
  // Marks the place `px` on the axis and tells the value of each line there.
  const tell = (px) => {
    const svg = shown();
    if (!svg) return;
    const drawn = lines(svg).filter((line) => line.x[0] !== "");
    const nearest = (line, place) => {
      const gaps = line.at.map(([x]) => Math.abs(x - place));
      const i = gaps.indexOf(Math.min(...gaps));
      return { number: line.number, x: line.x[i], y: line.y[i], px: line.at[i][0], gap: gaps[i] };
    };
    if (drawn.length === 0) return;
    const best = drawn.map((line) => nearest(line, px)).reduce((a, b) => (b.gap < a.gap ? b : a));
    // Long lines are thinned, each to steps of its own: a neighbour within a few pixels stands for it.
    const near = drawn.map((line) => nearest(line, best.px)).filter((point) => point.gap <= 3);
    all(".hover-line", figure).forEach((mark) => mark.remove());
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const [, , , height] = svg.getAttribute("viewBox").split(" ").map(Number);
    mark.setAttribute("d", `M${best.px} 62V${height - 64}`);
    mark.setAttribute("class", "hover-line");
    svg.append(mark);
    chosen = best.px;
    place.textContent = best.x;
    values.forEach(([output]) => {
      output.textContent = near.find((point) => point.number === output.dataset.line)?.y ?? "";
    });
  };
  figure.addEventListener("pointermove", (event) => {
    const svg = shown();
    const point = svg && new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (point) tell(point.x);
  });
  figure.addEventListener("pointerleave", clear);
  figure.addEventListener("blur", clear);
  // Arrow keys go from value to value.
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const svg = shown();
    if (!step || !svg) return;
    const places = Array.from(new Set(lines(svg).flatMap((line) => line.at.map(([x]) => x)))).sort((a, b) => a - b);
    const next = step > 0 ? places.find((x) => chosen === null || x > chosen) : places.findLast((x) => chosen === null || x < chosen);
    if (next !== undefined) tell(next);
    event.preventDefault();
  });
});

// ---- links, and pages that are written again -----------------------------------------------------

const reveal = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", reveal);
reveal();

// By name: a page that is written again may have more of them.
const parts = all("details").map((part) => [part.id || part.querySelector("summary").textContent, part]);
const opened = kept().opened;
if (opened) parts.forEach(([name, part]) => { part.open = opened[name] ?? part.open; });
const logarithmic = document.getElementById("logarithmic");
if (logarithmic) logarithmic.checked = kept().logarithmic ?? false;
if (kept().scroll) scrollTo(0, kept().scroll);

const seconds = Number(document.documentElement.dataset.reload);
if (seconds > 0) {
  history.scrollRestoration = "manual";
  const again = () => {
    // Not while somebody types or selects.
    const busy = document.activeElement?.matches?.("input[type=search], textarea") || String(getSelection()) !== "";
    if (busy) { setTimeout(again, 1000 * seconds); return; }
    keep("opened", Object.fromEntries(parts.map(([name, part]) => [name, part.open])));
    keep("logarithmic", logarithmic?.checked ?? false);
    keep("scroll", scrollY);
    location.reload();
  };
  setTimeout(again, 1000 * seconds);
}
