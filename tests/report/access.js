// What a reader with a screen reader, a keyboard or weak eyes would miss on a page; gives a list of lines.
const problems = [];
const told = (kind, element, more = "") => problems.push(`${kind}: <${element.tagName.toLowerCase()}> ${(element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 50)} ${more}`.trim());
const visible = (e) => e.checkVisibility({checkOpacity: true, checkVisibilityCSS: true}) && e.getClientRects().length > 0;
const named = (e) => (e.textContent || "").trim() || e.getAttribute("aria-label") || e.title || [...e.querySelectorAll("img[alt], svg title, [aria-label]")].some((i) => i.alt || i.textContent || i.getAttribute("aria-label"));

if (!document.documentElement.lang) told("no language", document.documentElement);
if (!document.title.trim()) told("no title", document.documentElement);
const mains = document.querySelectorAll("main, [role=main]");
if (mains.length !== 1) told(`${mains.length} main landmarks`, document.body);

let before = 0;
for (const heading of [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(visible)) {
  const level = +heading.tagName[1];
  if (mains[0] && mains[0].contains(heading)) {
    if (level > before + 1) told("heading skips a level", heading, `h${before} to h${level}`);
    before = level;
  }
}
if (mains[0] && mains[0].querySelectorAll("h1").length !== 1) told("not one h1", mains[0]);

for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) told("image without alt", image, image.src.slice(0, 60));
for (const chart of document.querySelectorAll(".taskspace-chart")) {
  const label = chart.getAttribute("aria-label") || "";
  if (label.length < 12) told("chart without a description", chart, `"${label}"`);
  const drawing = chart.querySelector("svg.marks");
  const labelled = drawing && drawing.closest("[role=graphics-document]"); // Vega's own mark of a drawing
  if (labelled && !labelled.getAttribute("aria-label")) told("drawing without a label", labelled);
}
for (const link of document.querySelectorAll("a[href], button")) if (visible(link) && !named(link)) told("link or button without a name", link, link.outerHTML.slice(0, 90));
for (const field of document.querySelectorAll("input:not([type=hidden]), select")) {
  if (visible(field) && !field.getAttribute("aria-label") && !field.getAttribute("aria-labelledby") && !(field.labels || []).length && !field.title) told("field without a label", field, field.outerHTML.slice(0, 90));
}
for (const table of document.querySelectorAll("main table")) if (visible(table) && !table.querySelector("th")) told("table without headers", table);
for (const box of document.querySelectorAll("main *")) {
  const scrolls = /auto|scroll/.test(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth + 1;
  if (scrolls && visible(box) && box.tabIndex < 0 && !box.querySelector("a[href], button, [tabindex], summary")) told("scrolls, but not with the keyboard", box);
}

// Contrast of every text with what is painted behind it (WCAG 2.2, 1.4.3)
const rgba = (text) => { const n = (text.match(/[\d.]+/g) || []).map(Number); return n.length < 3 ? [0, 0, 0, 0] : [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = (element) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const seen = new Set();
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (seen.has(element) || !walker.currentNode.textContent.trim() || /^(SCRIPT|STYLE|NOSCRIPT|TITLE|OPTION)$/i.test(element.tagName) || !visible(element)) continue;
  seen.add(element);
  if (element.closest("svg .mark-text.role-mark")) continue; // labels inside cells are coloured by the value behind them
  const style = getComputedStyle(element), back = behind(element);
  const drawn = element.closest("svg") && element.tagName !== "DIV" ? style.fill : style.color;
  if (drawn === "none") continue;
  let shade = 1;
  for (let e = element; e; e = e.parentElement) shade *= +getComputedStyle(e).opacity;
  const ink = rgba(drawn);
  const front = over([...ink.slice(0, 3), ink[3] * shade], back);
  const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05), size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
  if (ratio < (large ? 3 : 4.5)) told(`contrast ${ratio.toFixed(2)}`, element, `${drawn} on rgb(${back.slice(0, 3).map(Math.round)}) ${element.className.baseVal ?? element.className}`);
}
return problems;
