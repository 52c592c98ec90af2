"use strict";
// What all pages have: sections to jump to, texts to copy, tables to take away. `GRAO` is what the other files share.

const GRAO = {
  /** An element with these attributes and children. Texts become text nodes, never markup. */
  element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  },

  /** A number as the tables write it: three significant digits, thousands apart, a true minus. */
  number(value, signed = false) {
    if (value === null || value === undefined) return "none";
    const size = Math.abs(value);
    const text = size >= 1000 ? Math.round(size).toLocaleString("en") : String(Number(size.toPrecision(3)));
    return (value < 0 ? "\u2212" : signed && value > 0 ? "+" : "") + text;
  },

  /** Hands a file to the reader. */
  save(name, content, type) {
    const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
    const link = GRAO.element("a", { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  },

  /** Puts a text on the clipboard, and says so on the button for a moment. */
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

  /** Buttons for what can be taken away: name -> what a click does. */
  offer(line, choices) {
    const buttons = Object.entries(choices).map(([name, take]) => GRAO.element("button", { type: "button", onclick: take }, name));
    line.replaceChildren(...buttons.flatMap((button) => [button, " "]));
  },

  /** A name for a file: of the page and of what is in it. */
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
  const take = (ending) => () => GRAO.save(GRAO.file(title, ending), texts[ending], "text/plain");
  GRAO.offer(table.querySelector(".take span"), { CSV: take("csv"), LaTeX: take("tex"), Markdown: take("md") });
}

for (const text of document.querySelectorAll("pre.copy")) {
  const frame = GRAO.element("div", { class: "copied" });
  text.replaceWith(frame);
  const button = GRAO.element("button", { type: "button", onclick: () => GRAO.copy(text.textContent, button) }, "copy");
  frame.append(text, button);
}
