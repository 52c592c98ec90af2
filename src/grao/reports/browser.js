// The list of all answers: unpacked in the page, filtered, sorted, and drawn only where it is visible.
// items.py (`_packed`) documents the fields of an item. All texts enter the page as text nodes.

{
  const ROW = 58; // pixels, as in style.css
  const KINDS = ["win", "tie", "loss", "missing"];
  const LETTERS = { win: "W", tie: "T", loss: "L", missing: "\u2013" };
  const WORDS = { win: "wins", tie: "ties", loss: "loses", missing: "no verdict" };
  const KEYS = [["j, k", "next and previous answer"], ["enter", "go to the answer"], ["/", "search"], ["esc", "leave the search, then clear all filters"], ["d", "highlight differences: none, from the other answer, from the reference"], ["?", "show these shortcuts"]];
  const el = GRAO.element;
  const holder = document.getElementById("browser");

  const kind = (value) => (value === null || value === undefined ? "missing" : value > 0 ? "win" : value < 0 ? "loss" : "tie");

  async function unpack() {
    const packed = atob(document.getElementById("items").textContent);
    const bytes = new Uint8Array(packed.length);
    for (let index = 0; index < packed.length; index += 1) bytes[index] = packed.charCodeAt(index);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // Length of the text that all prompts begin with, such as a chat template's system prompt; 0 if it is short.
  function sharedBeginning(prompts) {
    let length = prompts.length > 1 ? prompts[0].length : 0;
    for (const prompt of prompts) while (!prompt.startsWith(prompts[0].slice(0, length))) length -= 1;
    const words = prompts[0].slice(0, length).search(/\S*$/); // whole words
    return words < 24 ? 0 : words;
  }

  function start({ models, rewards, items }) {
    const beginning = sharedBeginning(items.map((item) => item.p));
    items.forEach((item, index) => {
      item.index = index;
      item.text = [item.i, item.p, item.r, ...item.a.map((answer) => answer?.t ?? "")].join("\n").toLowerCase();
    });
    const state = {
      from: models.indexOf(holder.dataset.first), to: models.indexOf(holder.dataset.second),
      reward: -1, move: "", cut: "", side: "", search: "", sort: "order", marks: 0, item: null, all: false,
    };
    let shown = items;

    const value = (item, model) => {
      const answer = item.a[model];
      if (!answer || state.reward < 0) return answer?.v ?? null;
      return answer.s?.find(([reward]) => reward === state.reward)?.[1] ?? null;
    };
    const move = (item) => `${state.from < 0 ? "" : kind(value(item, state.from))} ${kind(value(item, state.to))}`;
    const size = (item, model) => item.a[model]?.n ?? 0;
    const margin = (item) => value(item, state.to);
    const side = (item) => {
      const [to, from] = [models[state.to], models[state.from]];
      const back = item.c?.[`${from}|${to}`];
      return item.c?.[`${to}|${from}`] ?? (typeof back === "number" ? -back : undefined);
    };
    const change = (item) => (value(item, state.to) ?? 0) - (value(item, state.from) ?? 0);
    const missingLast = (number) => (number === null ? Infinity : number);
    const SORTS = {
      order: ["evaluation order", null],
      high: ["margin, highest first", (item) => missingLast(margin(item) === null ? null : -margin(item))],
      low: ["margin, lowest first", (item) => missingLast(margin(item))],
      near: ["margin, closest to 0 first", (item) => missingLast(margin(item) === null ? null : Math.abs(margin(item)))],
      ...(models.length > 1 ? { gained: ["change, largest gain first", (item) => -change(item)], lost: ["change, largest loss first", change] } : {}),
      long: ["length, longest first", (item) => -size(item, state.to)],
      short: ["length, shortest first", (item) => size(item, state.to)],
      ...(models.length > 1 ? { grown: ["length, largest increase first", (item) => size(item, state.from) - size(item, state.to)] } : {}),
    };

    // ---- filters and sorting
    const select = (name, label, choices, compares = false) => {
      const field = el("select", { name }, ...choices.map(([at, words]) => el("option", { value: at }, words)));
      field.value = state[name];
      field.addEventListener("change", () => {
        state[name] = compares ? Number(field.value) : field.value;
        if (compares) state.move = "";
        update(compares);
      });
      return [el("label", {}, label, field), field];
    };
    const compared = (...options) => select(...options, true)[0];
    const named = models.map((name, index) => [index, name]);
    const searching = el("input", { type: "search", placeholder: "prompt, answer, reference or ID", "aria-label": "Search" });
    searching.addEventListener("input", () => { state.search = searching.value.toLowerCase(); update(); });
    const moves = el("table", { class: "moves", "aria-label": "Outcomes" });
    const [cutFrame, cutField] = select("cut", "Truncated", [["", "any"], ["yes", "truncated"], ["no", "complete"]]);
    const [sideFrame, sideField] = select("side", "Direct comparison", [["", "any"], ["win", "better"], ["tie", "as good"], ["loss", "worse"]]);
    const [sortFrame] = select("sort", "Sort by", Object.entries(SORTS).map(([name, [words]]) => [name, words]));
    const tools = el("div", { class: "tools" }, moves,
      el("label", { class: "wide" }, "Search", searching),
      ...(models.length > 2 ? [compared("from", "From", named), compared("to", "To", named)] : []),
      ...(rewards.length > 1 ? [compared("reward", "Reward", [[-1, "total"], ...rewards.map((name, index) => [index, name])])] : []),
      cutFrame, items.some((item) => item.c) ? sideFrame : "", sortFrame);
    const count = el("p", { class: "count", role: "status" });
    const help = el("dialog", { "aria-label": "Keyboard shortcuts" }, el("h3", {}, "Keyboard shortcuts"),
      el("dl", {}, ...KEYS.flatMap(([key, words]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, words)])),
      el("button", { type: "button", onclick: () => help.close() }, "Close"));

    // ---- the two panes
    const space = el("div");
    const list = el("div", { class: "list", tabindex: "0", role: "listbox", "aria-label": "Answers" }, space);
    const detail = el("div", { class: "detail", tabindex: "-1" });
    list.addEventListener("scroll", paint, { passive: true });
    list.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) open(shown[Number(row.dataset.at)]);
    });
    new ResizeObserver(paint).observe(list);
    holder.replaceChildren(tools, count, el("div", { class: "panes" }, list, detail), help);

    function paint() {
      const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
      const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
      const rows = [];
      for (let at = first; at < last; at += 1) rows.push(row(shown[at], at));
      space.style.height = `${shown.length * ROW}px`;
      space.replaceChildren(...rows);
    }

    function row(item, at) {
      const mark = (model) => (model < 0 ? null : el("span", { class: `mark ${kind(value(item, model))}` }, LETTERS[kind(value(item, model))]));
      const answer = item.a[state.to]?.t ?? "";
      const made = el("div", { class: "row", role: "option", "data-at": at, id: `row${at}`, "aria-selected": String(item === state.item) },
        el("p", {}, el("span", {}, mark(state.from), state.from < 0 ? "" : "\u2009", mark(state.to)),
          el("span", {}, (item.p.slice(beginning) || item.p).slice(0, 200).replace(/\s+/g, " ")),
          el("span", { class: "size" }, `${GRAO.number(margin(item), true)} \u00b7 ${size(item, state.to)}`)),
        el("p", {}, answer.slice(0, 200).replace(/\s+/g, " ")));
      made.style.transform = `translateY(${at * ROW}px)`;
      return made;
    }

    // ---- updating the list
    /** Filters and sorts again, and opens the first item, or with `stay` the current one if it is still listed. */
    function update(stay = false) {
      const wanted = items.filter((item) =>
        (!state.search || item.text.includes(state.search))
        && (!state.cut || (state.cut === "yes") === Boolean(item.a[state.to]?.c))
        && (!state.side || kind(side(item)) === state.side));
      const counts = new Map();
      for (const item of wanted) counts.set(move(item), (counts.get(move(item)) ?? 0) + 1);
      shown = state.move ? wanted.filter((item) => move(item) === state.move) : wanted;
      const by = SORTS[state.sort][1];
      if (by) {
        const keys = new Map(shown.map((item) => [item, by(item)]));
        shown = [...shown].sort((a, b) => keys.get(a) - keys.get(b) || a.index - b.index);
      }
      drawMoves(counts);
      const filtered = state.search || state.move || state.cut || state.side;
      count.replaceChildren(`${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")}`,
        filtered ? el("button", { type: "button", onclick: clear }, "clear filters") : "",
        el("button", { type: "button", onclick: () => help.showModal() }, "shortcuts"),
        el("span", {}, `Each row: outcome${state.from < 0 ? "" : "s"}, prompt, margin \u00b7 tokens of ${models[state.to]}`));
      list.scrollTop = 0;
      open(stay && shown.includes(state.item) ? state.item : shown[0] ?? null, false);
    }

    function drawMoves(counts) {
      const used = KINDS.filter((name) => name !== "missing" || [...counts.keys()].some((key) => key.includes(name)) || state.move.includes(name));
      const cell = (from, to) => {
        const key = `${from} ${to}`;
        const number = counts.get(key) ?? 0;
        const [a, b] = [KINDS.indexOf(from), KINDS.indexOf(to)];
        const look = from ? (b > a ? "worse" : b < a ? "better" : "") : { win: "better", loss: "worse" }[to] ?? "";
        const words = from ? `${models[state.from]} ${WORDS[from]}, ${models[state.to]} ${WORDS[to]}` : WORDS[to];
        return el("td", {}, el("button", {
          type: "button", class: number ? look : "", "aria-pressed": String(state.move === key), title: words, "aria-label": `${words}: ${number}`, "data-move": key,
          disabled: !number && state.move !== key, onclick: () => { state.move = state.move === key ? "" : key; update(); },
        }, number.toLocaleString("en")));
      };
      const heads = used.map((to) => el("th", { scope: "col" }, WORDS[to]));
      const rows = (state.from < 0 ? [""] : used).map((from) => el("tr", {}, el("th", { scope: "row" }, from ? `${models[state.from]} ${WORDS[from]}` : ""), ...used.map((to) => cell(from, to))));
      moves.replaceChildren(el("thead", {}, el("tr", {}, el("th", {}, `${models[state.to]}:`), ...heads)), el("tbody", {}, ...rows));
    }

    function clear() {
      Object.assign(state, { search: "", move: "", cut: "", side: "" });
      searching.value = cutField.value = sideField.value = "";
      update(true);
    }

    function open(item, remember = true) {
      state.item = item;
      if (item && remember) {
        try { history.replaceState(null, "", `#item=${encodeURIComponent(item.i)}`); } catch { /* a page without a URL */ }
      }
      const at = shown.indexOf(item);
      if (at >= 0 && (at * ROW < list.scrollTop || (at + 1) * ROW > list.scrollTop + list.clientHeight)) list.scrollTop = at * ROW - list.clientHeight / 2 + ROW;
      paint();
      list.setAttribute("aria-activedescendant", `row${at}`);
      describe();
    }

    // ---- the selected item
    const badge = (number, words) => el("span", { class: `badge ${kind(number)}` }, words);
    const readings = (answer) => (answer.s ?? []).map(([reward, number, orders]) => el("div", { class: "said" },
      el("p", {}, el("b", {}, rewards[reward]), ` ${number === null ? "no verdict" : GRAO.number(number, true)}`),
      orders.length ? el("div", { class: "orders" }, ...orders.map(([first, read, text]) => el("div", {},
        el("p", {}, `${first} first: ${read === null ? "unreadable" : GRAO.number(read, true)}`), text ? el("div", { class: "text", dir: "auto" }, text) : ""))) : ""));

    function marked(text, base) {
      const parts = base === undefined || base === null ? null : GRAO.difference(base, text);
      return parts ? parts.map(([tag, words]) => (tag === "same" ? words : el(tag, {}, words))) : [text];
    }

    function column(item, model) {
      const answer = item.a[model];
      if (!answer) return el("div", { class: "answer" }, el("header", {}, el("b", {}, models[model])), el("p", { class: "empty" }, "answer not recorded"));
      const base = [null, state.from >= 0 && model !== state.from ? item.a[state.from]?.t : null, item.r][state.marks];
      const gain = model === state.to && state.from >= 0 ? side(item) : undefined;
      return el("div", { class: "answer" },
        el("header", {}, el("b", {}, models[model]), badge(value(item, model), WORDS[kind(value(item, model))]),
          gain === undefined ? "" : badge(gain, `${{ win: "better than", tie: "as good as", loss: "worse than", missing: "not compared with" }[kind(gain)]} ${models[state.from]}`)),
        el("div", { class: "text", dir: "auto" }, ...marked(answer.t, base)),
        el("footer", {}, `${answer.n.toLocaleString("en")} tokens${answer.c ? ", truncated" : ""}${answer.v === null ? "" : ` \u00b7 reward ${GRAO.number(answer.v, true)}`}`),
        ...readings(answer));
    }

    function describe() {
      const item = state.item;
      if (!item) {
        detail.replaceChildren(el("p", { class: "empty" }, "No answers match the filters."));
        return;
      }
      const ways = ["no differences highlighted", ...(state.from < 0 ? [] : [`differences from ${models[state.from]}`]), "differences from the reference"];
      const differing = el("select", { "aria-label": "Differences" }, ...ways.map((words, index) => el("option", { value: state.from < 0 && index ? 2 : index }, words)));
      differing.value = state.marks;
      differing.addEventListener("change", () => { state.marks = Number(differing.value); describe(); });
      const link = el("button", { type: "button", onclick: () => GRAO.copy(location.href.replace(/#.*/, "") + `#item=${encodeURIComponent(item.i)}`, link) }, "copy link");
      const two = [state.from, state.to].filter((model, index, both) => model >= 0 && both.indexOf(model) === index);
      const every = state.all ? [...two, ...models.keys()].filter((model, index, all) => all.indexOf(model) === index) : two;
      const more = models.length > two.length ? el("button", { type: "button", onclick: () => { state.all = !state.all; describe(); } }, state.all ? "two models" : `all ${models.length} models`) : "";
      detail.replaceChildren(
        el("div", { class: "bar" }, el("p", { class: "name" }, `Prompt ${item.i}`), more, differing, link),
        el("div", { class: "prompt text", dir: "auto" }, item.p),
        el("div", { class: "answers" }, ...every.map((model) => column(item, model)),
          el("div", { class: "answer" }, el("header", {}, el("b", {}, "reference")), el("div", { class: "text", dir: "auto" }, item.r))));
      detail.scrollTop = 0;
    }

    // ---- keys and links
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
      const field = event.target.closest?.("input, select, textarea, button, a, summary, .plot");
      if (event.key === "Escape") {
        if (document.activeElement === searching) searching.blur();
        else clear();
        return;
      }
      if (field && !(field.matches("button, a, summary") && event.key !== "Enter")) return;
      const at = shown.indexOf(state.item);
      const act = {
        j: () => shown.length && open(shown[Math.min(at + 1, shown.length - 1)]),
        k: () => shown.length && open(shown[Math.max(at - 1, 0)]),
        "/": () => searching.focus(),
        Enter: () => { detail.focus({ preventScroll: true }); detail.scrollIntoView({ block: "nearest" }); },
        d: () => { state.marks = (state.marks + (state.from < 0 ? 2 : 1)) % (state.from < 0 ? 4 : 3); describe(); },
        "?": () => help.showModal(),
      }[event.key] ?? (event.target === list && { ArrowDown: () => open(shown[Math.min(at + 1, shown.length - 1)]), ArrowUp: () => open(shown[Math.max(at - 1, 0)]) }[event.key]);
      if (!act) return;
      event.preventDefault();
      act();
      if ("jk".includes(event.key)) holder.scrollIntoView({ block: "nearest" });
    });

    function fromAddress() {
      const wanted = /^#item=(.*)$/.exec(location.hash);
      let item = null;
      try { item = wanted && items.find(({ i }) => i === decodeURIComponent(wanted[1])); } catch { /* malformed link */ }
      if (!item) return false;
      if (!shown.includes(item)) clear();
      open(item, false);
      document.getElementById("answers").scrollIntoView();
      return true;
    }
    addEventListener("hashchange", fromAddress);
    update();
    fromAddress();
    holder.dataset.ready = "yes";
  }

  if (holder) {
    if (typeof DecompressionStream === "undefined") holder.textContent = "This browser is too old to unpack the answers; use a newer one.";
    else unpack().then(start, (error) => { holder.textContent = `The answers could not be unpacked: ${error.message}`; });
  }
}
