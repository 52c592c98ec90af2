"use strict";
// Features of all pages: section links, copy buttons and table downloads. The other scripts share `GRAO`.

const GRAO = {
  /** Creates an element with attributes and children. Texts become text nodes, never markup. */
  element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  },

  /** Formats a number like the tables: three significant digits, thousands separators, a true minus sign. */
  number(value, signed = false) {
    if (value === null || value === undefined) return "none";
    const size = Math.abs(value);
    const text = size >= 1000 ? Math.round(size).toLocaleString("en") : String(Number(size.toPrecision(3)));
    return (value < 0 ? "\u2212" : signed && value > 0 ? "+" : "") + text;
  },

  /** Downloads content as a file. */
  save(name, content, type) {
    const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    const link = GRAO.element("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  },

  /** Copies a text to the clipboard and briefly shows "copied" on the button. */
  async copy(text, button) {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = GRAO.element("textarea");
      field.value = text;
      button.after(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = label; }, 1200);
  },

  /** Fills a line with download buttons; `choices` maps the label to the click handler. */
  offer(line, choices) {
    const buttons = Object.entries(choices).map(([name, download]) => GRAO.element("button", { type: "button", onclick: download }, name));
    line.replaceChildren(...buttons.flatMap((button) => [button, " "]));
  },

  /** Builds a file name from the titles of the page and of the content. */
  file(title, ending) {
    return `${document.title} ${title}`.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") + "." + ending;
  },
};

document.documentElement.classList.add("scripted");

for (const section of document.querySelectorAll("section[id]")) {
  const heading = section.dataset.name ?? section.querySelector("h2").textContent;
  document.querySelector("nav").append(GRAO.element("a", { href: `#${section.id}` }, heading));
}

for (const table of document.querySelectorAll(".table")) {
  const texts = JSON.parse(table.querySelector("script").textContent);
  const title = table.querySelector("[aria-label]").getAttribute("aria-label");
  const download = (ending) => () => GRAO.save(GRAO.file(title, ending), texts[ending], "text/plain");
  GRAO.offer(table.querySelector(".take span"), { CSV: download("csv"), LaTeX: download("tex"), Markdown: download("md") });
}

for (const text of document.querySelectorAll("pre.copy")) {
  const frame = GRAO.element("div", { class: "copied" });
  text.replaceWith(frame);
  const button = GRAO.element("button", { type: "button", onclick: () => GRAO.copy(text.textContent, button) }, "copy");
  frame.append(text, button);
}
