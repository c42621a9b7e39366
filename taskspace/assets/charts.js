// Draws the charts of a page from the site's own copy of Vega, in the colours of the page, light or dark.
(() => {
  "use strict";
  const SMALLEST = 0.65; // how far a chart may be shrunk to fit its column before its box scrolls instead: type of 11 pixels is then 7 high
  const isDark = () => [document.documentElement, document.body].some((e) => e.classList.contains("quarto-dark"));

  // A packed table keeps one list a column, and repeated texts once; Vega wants one object a row.
  const unpack = (table) => {
    const read = Object.entries(table.columns).map(([name, column]) =>
      [name, Array.isArray(column) ? (i) => column[i] : (i) => column.texts[column.codes[i]]]);
    return Array.from({length: table.length}, (_, i) => Object.fromEntries(read.map(([name, at]) => [name, at(i)])));
  };

  const merge = (under, over) => {
    const out = {...under};
    for (const [key, value] of Object.entries(over)) {
      out[key] = value && typeof value === "object" && !Array.isArray(value) ? merge(out[key] || {}, value) : value;
    }
    return out;
  };

  const colours = () => {
    const page = getComputedStyle(document.body);
    const text = page.color;
    const faint = isDark() ? "#4a525b" : "#d9dde1";
    const guide = {labelColor: text, titleColor: text, gridColor: faint, domainColor: faint, tickColor: faint};
    return {
      background: "transparent", font: page.fontFamily,
      axis: {...guide, labelFont: page.fontFamily, titleFont: page.fontFamily},
      legend: {labelColor: text, titleColor: text, symbolBaseFillColor: text, symbolBaseStrokeColor: text, labelFont: page.fontFamily, titleFont: page.fontFamily},
      header: {labelColor: text, titleColor: text, labelFont: page.fontFamily, titleFont: page.fontFamily},
      title: {color: text, subtitleColor: text, font: page.fontFamily, subtitleFont: page.fontFamily},
      text: {color: text}, rule: {color: text}, view: {stroke: "transparent"},
    };
  };

  const draw = async (box) => {
    const held = JSON.parse(box.querySelector("script.taskspace-spec").textContent);
    const spec = {...held.spec, datasets: Object.fromEntries(Object.entries(held.tables).map(([name, table]) => [name, unpack(table)]))};
    spec.config = merge(spec.config || {}, colours());
    delete spec.background;
    const stage = box.querySelector(".taskspace-stage");
    const actions = {export: {svg: true, png: true}, source: false, compiled: false, editor: false};
    if (box.taskspace) box.taskspace.finalize();
    box.taskspace = await window.vegaEmbed(stage, spec, {
      renderer: "svg", actions, mode: "vega-lite", tooltip: {theme: isDark() ? "dark" : "light"},
      loader: {http: {mode: "same-origin"}},
    });
    stage.classList.add("drawn");
    const svg = stage.querySelector("svg.marks");
    if (svg) svg.style.minWidth = Math.round(SMALLEST * svg.getAttribute("width")) + "px";
    box.dataset.marks = stage.querySelectorAll("svg .role-mark path, svg .role-mark text, svg .role-mark line").length;
  };

  const drawAll = async () => {
    for (const box of document.querySelectorAll(".taskspace-chart")) {
      try {
        await draw(box);
      } catch (error) {
        box.querySelector(".taskspace-stage").textContent = "This chart could not be drawn: " + error.message;
        console.error(error);
      }
    }
    document.documentElement.dataset.taskspaceCharts = isDark() ? "dark" : "light";
  };

  window.taskspaceLoad("vega.js").then(async () => {
    await drawAll();
    let shown = isDark();
    const watch = new MutationObserver(() => {
      if (isDark() === shown) return;
      shown = isDark();
      drawAll();
    });
    for (const element of [document.documentElement, document.body]) watch.observe(element, {attributeFilter: ["class"]});
  });
})();
