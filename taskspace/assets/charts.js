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

  // What a chart shows, for who cannot see it: its titles, then what stands on its axes, in its colours and in its panels.
  const CHANNELS = {x: "across", y: "up", color: "colour", shape: "shape", facet: "panels", row: "rows of panels", column: "columns of panels"};
  const described = (spec) => {
    const titles = [], found = {};
    const text = (value) => [].concat(value && typeof value === "object" && !Array.isArray(value) ? value.text : value).filter((v) => typeof v === "string").join(" ");
    const visit = (part) => {
      if (Array.isArray(part)) { part.forEach(visit); return; }
      if (!part || typeof part !== "object") return;
      if (text(part.title)) titles.push(text(part.title));
      const facet = part.facet ? (part.facet.row || part.facet.column ? part.facet : {facet: part.facet}) : {};
      for (const [channel, what] of Object.entries({...part.encoding, ...facet})) {
        if (!(channel in CHANNELS) || !what || typeof what !== "object") continue;
        const name = text(what.title) || text((what.axis || what.legend || what.header || {}).title) || String(what.field || "").replace(/\\/g, "");
        if (name) (found[channel] = found[channel] || new Set()).add(name);
      }
      for (const inner of ["layer", "hconcat", "vconcat", "concat", "spec"]) visit(part[inner]);
    };
    visit(spec);
    const said = Object.keys(CHANNELS).filter((c) => found[c]).map((c) => `${CHANNELS[c]}: ${[...found[c]].join(", ")}`);
    return [[...new Set(titles)].join("; ") || "Chart", ...said].join(". ");
  };

  // Data of large charts are compressed. Those are drawn on a canvas: a page with a hundred thousand shapes would be slow.
  const dataOf = async (script) => {
    if (script.type === "application/json") return JSON.parse(script.textContent);
    if (!window.DecompressionStream) throw new Error("this browser cannot unpack its data; take a newer one");
    const bytes = Uint8Array.from(atob(script.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return {...await new Response(stream).json(), packed: true};
  };

  const draw = async (box) => {
    const held = await dataOf(box.querySelector("script.taskspace-spec"));
    const spec = {...held.spec, datasets: Object.fromEntries(Object.entries(held.tables).map(([name, table]) => [name, unpack(table)]))};
    spec.config = merge(spec.config || {}, colours());
    delete spec.background;
    if (!spec.description) spec.description = described(spec); // Vega makes it the label of its drawing
    box.setAttribute("aria-label", spec.description);
    const stage = box.querySelector(".taskspace-stage");
    const actions = {export: {svg: true, png: true}, source: false, compiled: false, editor: false};
    if (box.taskspace) box.taskspace.finalize();
    box.taskspace = await window.vegaEmbed(stage, spec, {
      renderer: held.packed ? "canvas" : "svg", actions, mode: "vega-lite", tooltip: {theme: isDark() ? "dark" : "light"},
      loader: {http: {mode: "same-origin"}},
    });
    stage.classList.add("drawn");
    const svg = stage.querySelector("svg.marks");
    if (svg) svg.style.minWidth = Math.round(SMALLEST * svg.getAttribute("width")) + "px";
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // so that the keyboard can scroll it
    box.dataset.marks = !svg ? 1 : stage.querySelectorAll("svg .role-mark path, svg .role-mark text, svg .role-mark line").length;
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
