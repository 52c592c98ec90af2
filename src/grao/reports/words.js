// Word-by-word diff of two texts.

{
  const MOST = 4e6; // most cells of the longest-common-subsequence table: about 2,000 by 2,000 words

  /** Returns parts [kind, text] in order: "same", "del" (only in the first text) or "ins" (only in the second); null if
      the texts are too long. The parts other than "del" form the second text. White space after a word is ignored. */
  GRAO.difference = (before, after) => {
    const [first, second] = [before, after].map((text) => text.match(/[\p{L}\p{N}]+\s*|[^\s\p{L}\p{N}]\s*|\s+/gu) ?? []);
    const like = (left, right) => left === right || left?.trim() === right?.trim();
    let [start, end] = [0, 0];
    while (start < Math.min(first.length, second.length) && like(first[start], second[start])) start += 1;
    while (end < Math.min(first.length, second.length) - start && like(first.at(-1 - end), second.at(-1 - end))) end += 1;
    const [a, b] = [first, second].map((words) => words.slice(start, words.length - end));
    if (a.length * b.length > MOST) return null;
    const parts = [];
    const add = (kind, word) => {
      if (parts.at(-1)?.[0] === kind) parts.at(-1)[1] += word;
      else parts.push([kind, word]);
    };
    second.slice(0, start).forEach((word) => add("same", word));
    const [keys, others] = [a, b].map((words) => words.map((word) => word.trim()));
    const wide = b.length + 1;
    const longest = new Uint16Array((a.length + 1) * wide);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        longest[i * wide + j] = keys[i] === others[j]
          ? longest[(i + 1) * wide + j + 1] + 1
          : Math.max(longest[(i + 1) * wide + j], longest[i * wide + j + 1]);
      }
    }
    let [i, j] = [0, 0];
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && keys[i] === others[j]) {
        add("same", b[j]);
        i += 1;
        j += 1;
      } else if (i < a.length && (j === b.length || longest[(i + 1) * wide + j] >= longest[i * wide + j + 1])) {
        add("del", a[i]);
        i += 1;
      } else {
        add("ins", b[j]);
        j += 1;
      }
    }
    second.slice(second.length - end).forEach((word) => add("same", word));
    return parts;
  };
}
