// Draws every figure of the page as SVG, from the JSON beside it: lines with bands, stacks, points with intervals.
// Hovering or the arrow keys show values; charts with the same `link` mark the same x.

{
  const SVG = "http://www.w3.org/2000/svg";
  const linked = new Map();

  const shape = (tag, attributes, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };

  /** About `wanted` round numbers between low and high. */
  function ticks(low, high, wanted, whole) {
    const rough = (high - low || Math.abs(high) || 1) / wanted;
    const power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) * power;
    if (whole) step = Math.max(1, Math.round(step));
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: Math.max(last - first + 1, 0) }, (_, index) => (first + index) * step);
  }

  /** Formats a tick label: `0.25`, `2,500`, `120k`, `1.2M`; shares in percent, without the sign. */
  function label(value, percent) {
    const shown = Number((percent ? 100 * value : value).toPrecision(10));
    const size = Math.abs(shown);
    const text =
      size >= 1e6 ? `${Number((size / 1e6).toPrecision(6))}M`
      : size >= 1e4 ? `${Number((size / 1e3).toPrecision(6))}k`
      : size > 0 && size < 1e-3 ? size.toExponential().replace("e-", "e\u2212")
      : Number(size.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 });
    return (shown < 0 ? "\u2212" : "") + text;
  }

  const read = (value, axis) => (axis.percent ? `${GRAO.number(Number((100 * value).toFixed(1)))}\u00a0%` : GRAO.number(value));

  /** Maps values to positions on an axis: `at` returns 0 to 1. */
  function scale(axis, values, margin) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    if (axis.log) {
      const [from, to] = [Math.log10(low), Math.log10(high)];
      const pad = (to - from || 1) * margin;
      return { low, high, at: (value) => (Math.log10(value) - from + pad) / (to - from + 2 * pad || 1) };
    }
    if (high === low) [low, high] = margin ? [low - 1, high + 1] : [low - 0.5, high + 0.5];
    const pad = (high - low) * margin;
    [low, high] = [low - pad, high + pad];
    return { low, high, at: (value) => (value - low) / (high - low) };
  }

  function vertical(spec) {
    const axis = spec.y;
    if (spec.kind === "stack") {
      const sums = spec.series[0].x.map((_, index) => spec.series.reduce((sum, series) => sum + series.y[index], 0));
      return scale(axis, [0, axis.percent ? 1 : Math.max(...sums) || 1], 0);
    }
    const values = spec.series.flatMap((series) => [...series.y, ...(series.raw ?? []), ...(series.low ?? []), ...(series.high ?? [])]);
    if (axis.zero) values.push(0);
    if (axis.percent && !axis.diagonal) values.push(0, 0.05);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
    const room = (high - low) * 0.05;
    return scale(axis, [low === 0 ? 0 : low - room, high + room], 0);
  }

  function draw(plot, spec) {
    const width = Math.max(plot.clientWidth, 240);
    const height = Math.round(Math.min(Math.max(width * 0.5, 190), 320));
    const across = scale(spec.x, spec.series.flatMap((series) => series.x), spec.kind === "points" ? 0.05 : 0);
    const up = vertical(spec);
    const rows = ticks(up.low, up.high, 4);
    const left = 8 + 6.4 * Math.max(...rows.map((tick) => label(tick, spec.y.percent).length));
    const box = { left, right: width - 8, top: 22, bottom: height - 36 };
    const x = (value) => Number((box.left + across.at(value) * (box.right - box.left)).toFixed(2));
    const y = (value) => Number((box.bottom - up.at(value) * (box.bottom - box.top)).toFixed(2));
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });

    for (const tick of rows) {
      svg.append(shape("line", { class: "grid", x1: box.left, x2: box.right, y1: y(tick), y2: y(tick) }));
      svg.append(shape("text", { x: box.left - 6, y: y(tick) + 3.5, "text-anchor": "end" }, label(tick, spec.y.percent)));
    }
    for (const [name, value] of columns(spec, across, box.right - box.left)) {
      svg.append(shape("text", { x: x(value), y: box.bottom + 16, "text-anchor": "middle" }, name));
    }
    svg.append(shape("text", { x: 0, y: 10 }, spec.y.label));
    svg.append(shape("text", { x: box.right, y: height - 4, "text-anchor": "end" }, spec.x.label));
    const path = (series, values, drop) =>
      series.x.map((at, index) => `${index ? "L" : "M"}${x(at)} ${y(values[index])}`).join("") + (drop ?? "");
    const region = (series, low, high) => path(series, high, series.x.map((_, index) => {
      const last = series.x.length - 1 - index;
      return `L${x(series.x[last])} ${y(low[last])}`;
    }).join("") + "Z");

    if (spec.y.zero) svg.append(shape("line", { class: "zero", x1: box.left, x2: box.right, y1: y(0), y2: y(0) }));
    if (spec.y.diagonal) {
      const [from, to] = [Math.max(across.low, up.low), Math.min(across.high, up.high)];
      svg.append(shape("line", { class: "zero", x1: x(from), y1: y(from), x2: x(to), y2: y(to) }));
    }
    let floor = spec.series[0].x.map(() => 0);
    for (const series of spec.series) {
      const { x: xs, y: ys, colour } = series;
      const look = `${colour} dash${Math.min(series.dash, 2)}`;
      if (spec.kind === "stack") {
        const top = ys.map((value, index) => floor[index] + value);
        svg.append(shape("path", { class: `area ${colour}`, d: region(series, floor, top) }));
        floor = top;
      } else if (spec.kind === "line") {
        if (series.low) svg.append(shape("path", { class: `band ${colour}`, d: region(series, series.low, series.high) }));
        if (series.raw) svg.append(shape("path", { class: `raw ${colour}`, d: path(series, series.raw) }));
        svg.append(shape("path", { class: `line ${look}`, d: path(series, ys) }));
        if (xs.length === 1) svg.append(shape("circle", { class: `dot ${colour}`, cx: x(xs[0]), cy: y(ys[0]), r: 3 }));
      } else {
        if (spec.joined) svg.append(shape("path", { class: `line ${look}`, d: path(series, ys) }));
        xs.forEach((at, index) => {
          if (series.low) svg.append(shape("line", { class: `whisker ${colour}`, x1: x(at), x2: x(at), y1: y(series.low[index]), y2: y(series.high[index]) }));
          svg.append(shape("circle", { class: `dot ${colour}`, cx: x(at), cy: y(ys[index]), r: xs.length > 40 ? 1.8 : 3 }));
          if (at === series.marked) svg.append(shape("circle", { class: `ring ${colour}`, cx: x(at), cy: y(ys[index]), r: 6.5 }));
        });
      }
    }
    plot.replaceChildren(svg);
    return { svg, x, y, box, width };
  }

  /** Tick labels of the x axis as [text, value]. */
  function columns(spec, across, room) {
    if (spec.x.ticks) return spec.x.ticks;
    const whole = spec.x.label === "optimiser step";
    const every = spec.x.log
      ? [...new Set(spec.series.flatMap((series) => series.x))].sort((a, b) => a - b)
      : ticks(across.low, across.high, Math.min(6, room / 60), whole);
    const kept = [];
    for (const value of every) {
      const pixel = across.at(value) * room;
      if (!kept.length || pixel - kept[kept.length - 1].pixel >= 38) kept.push({ value, pixel });
    }
    return kept.map(({ value }) => [label(value, spec.x.percent), value]);
  }

  /** Shows values under the pointer or with the arrow keys. Returns the callbacks for linked charts. */
  function follow(plot, spec, frame) {
    const xs = [...new Set(spec.series.flatMap((series) => series.x))].sort((a, b) => a - b);
    const marks = shape("g", { class: "marks" });
    const tip = GRAO.element("div", { class: "tip", hidden: true });
    frame().svg.append(marks);
    plot.append(tip);
    let at = -1;

    function show(value, speak) {
      at = xs.reduce((best, x, index) => (Math.abs(x - value) < Math.abs(xs[best] - value) ? index : best), 0);
      const { x, y, box, svg, width } = frame();
      const nearest = xs[at];
      svg.append(marks);
      marks.replaceChildren(shape("line", { class: "cursor", x1: x(nearest), x2: x(nearest), y1: box.top, y2: box.bottom }));
      const name = spec.x.ticks?.find(([, tick]) => tick === nearest)?.[0] ?? label(Number(nearest.toFixed(2)) || nearest, spec.x.percent);
      const lines = [GRAO.element("div", {}, GRAO.element("span", {}, `${spec.x.label.replace(/^optimiser /, "")} ${name}`))];
      let floor = 0;
      for (const series of spec.series) {
        const index = series.x.indexOf(nearest);
        if (index < 0) continue;
        const value = series.y[index];
        const band = series.low ? ` (${read(series.low[index], spec.y)} to ${read(series.high[index], spec.y)})` : "";
        floor = spec.kind === "stack" ? floor + value : value;
        marks.append(shape("circle", { class: `dot ${series.colour}`, cx: x(nearest), cy: y(floor), r: 3.2 }));
        lines.push(GRAO.element("div", {},
          GRAO.element("span", {}, GRAO.element("i", { class: series.colour }), series.label), GRAO.element("span", {}, read(value, spec.y) + band)));
      }
      if (!speak) return;
      tip.replaceChildren(...lines);
      tip.hidden = false;
      if (!plot.contains(tip)) plot.append(tip);
      const over = x(nearest) > width / 2;
      tip.style.left = over ? "auto" : `${x(nearest) + 10}px`;
      tip.style.right = over ? `${width - x(nearest) + 10}px` : "auto";
      tip.style.top = `${box.top}px`;
    }

    const hide = () => { marks.replaceChildren(); tip.hidden = true; };
    const together = () => (spec.link ? linked.get(spec.link) : [{ plot, show, hide }]);
    const showAll = (value) => together().forEach((chart) => chart.show(value, chart.plot === plot));
    const hideAll = () => together().forEach((chart) => chart.hide());
    plot.addEventListener("pointermove", (event) => {
      const { x, width } = frame();
      const pixel = (event.clientX - plot.getBoundingClientRect().left) * (width / plot.clientWidth);
      showAll(xs.reduce((best, value) => (Math.abs(x(value) - pixel) < Math.abs(x(best) - pixel) ? value : best)));
    });
    plot.addEventListener("pointerleave", hideAll);
    plot.addEventListener("blur", hideAll);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      showAll(xs[Math.min(Math.max(at + step, 0), xs.length - 1)]);
    });
    return { plot, show, hide };
  }

  const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "fill-opacity", "stroke-opacity", "opacity", "font-size", "font-family", "stroke-linejoin"];

  /** The chart with its title and legend as a single SVG that needs no style sheet. */
  function standalone(figure, frame) {
    const { svg, width } = frame();
    const copy = svg.cloneNode(true);
    const [from, to] = [[...svg.querySelectorAll("*")], [...copy.querySelectorAll("*")]];
    from.forEach((node, index) => {
      const style = getComputedStyle(node);
      for (const name of KEPT) to[index].setAttribute(name, style.getPropertyValue(name));
      to[index].removeAttribute("class");
    });
    copy.querySelector("g")?.remove();
    const body = getComputedStyle(document.body);
    const font = { "font-family": "system-ui, Arial, sans-serif", fill: body.color };
    const head = shape("g", {});
    head.append(shape("text", { x: 0, y: -30, "font-size": 13, "font-weight": 600, ...font }, figure.querySelector("h3").textContent));
    let left = 0;
    for (const entry of figure.querySelectorAll(".legend li")) {
      const text = entry.textContent.trim();
      head.append(shape("line", { x1: left, x2: left + 14, y1: -12, y2: -12, "stroke-width": 3, stroke: getComputedStyle(entry.querySelector("i")).borderTopColor }));
      head.append(shape("text", { x: left + 19, y: -8, "font-size": 11, ...font }, text));
      left += 34 + 5.8 * text.length;
    }
    const wide = Math.max(width, left) + 24;
    const high = svg.viewBox.baseVal.height + 62;
    copy.setAttribute("viewBox", `-12 -50 ${wide} ${high}`);
    copy.setAttribute("width", wide);
    copy.setAttribute("height", high);
    copy.prepend(shape("rect", { x: -12, y: -50, width: wide, height: high, fill: body.backgroundColor }), head);
    return { text: new XMLSerializer().serializeToString(copy), wide, high };
  }

  async function picture({ text, wide, high }) {
    const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = GRAO.element("canvas", { width: 2 * wide, height: 2 * high });
    canvas.getContext("2d").drawImage(image, 0, 0, 2 * wide, 2 * high);
    URL.revokeObjectURL(address);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  function numbers(spec) {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const kinds = ["y", "raw", "low", "high"];
    const lines = spec.series.flatMap((series) => series.x.map((at, index) => [quoted(series.label), at, ...kinds.map((kind) => series[kind]?.[index] ?? "")].join(",")));
    return [`series,${quoted(spec.x.label)},value,single,low,high`, ...lines, ""].join("\n");
  }

  for (const figure of document.querySelectorAll("figure")) {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".plot");
    let frame = draw(plot, spec);
    const chart = follow(plot, spec, () => frame);
    if (spec.link) linked.set(spec.link, [...(linked.get(spec.link) ?? []), chart]);
    new ResizeObserver(() => {
      if (Math.abs(plot.clientWidth - frame.width) > 1 && plot.clientWidth >= 240) frame = draw(plot, spec);
    }).observe(plot);
    const title = figure.querySelector("h3").textContent;
    GRAO.offer(figure.querySelector(".take span"), {
      SVG: () => GRAO.save(GRAO.file(title, "svg"), standalone(figure, () => frame).text, "image/svg+xml"),
      PNG: async () => GRAO.save(GRAO.file(title, "png"), await picture(standalone(figure, () => frame))),
      CSV: () => GRAO.save(GRAO.file(title, "csv"), numbers(spec), "text/csv"),
    });
  }
}
