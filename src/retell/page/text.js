// Somebody else's text as nodes: what cannot be seen is shown by its code, formulas are typeset by KaTeX, tokens are
// shaded by log-prob. Nodes are made one by one; no text is ever read as markup.
"use strict";
(() => {
  const LONGEST_FORMULA = 2000;
  const DEEPEST_FORMULA = 20; // braces and delimiters within one another
  const MOST_NODES = 6000;
  const DEEPEST = 200;
  const MOST_MILLISECONDS = 250; // for the formulas of one text; those after it are shown as they are written
  // Definitions can make a little text endless; links, images and attributes are for nobody here; moves by a hundred
  // units and more take a text out of sight, and such rules cover it. What has any of them is shown as it is written.
  const REFUSED = new RegExp([
    String.raw`\\(?:[gex]?def|(?:future)?let|global|long|(?:re)?newcommand|providecommand)(?![a-zA-Z])`,
    String.raw`\\(?:href|url|includegraphics|html(?:Class|Id|Style|Data))(?![a-zA-Z])`,
    String.raw`\\(?:m?kern|[hm]skip|hspace|raisebox|rule)\W*\d{3}`,
  ].join("|"));
  const ENVIRONMENTS = "align|alignat|aligned|alignedat|array|[bBpvV]?matrix|[dr]?cases|CD|equation|gather|gathered|split";
  const OPENS = new RegExp(String.raw`\\\\|\\\$|\$\$?|\\\[|\\\(|\\boxed\{|\\begin\{((?:${ENVIRONMENTS})\*?)\}`, "g");
  // Controls, overrides of direction, zero widths, line separators, fillers: whatever has no shape of its own.
  const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u034F\u115F\u1160\u17B4\u17B5\u2800\u3164\uFFA0]/u;
  const SPLIT = new RegExp(`((?:(?![\\n\\t])${UNSEEN.source})+)`, "u");

  const element = (name, className, ...children) => {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children.filter(child => child !== null && child !== undefined));
    return made;
  };

  const code = character => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

  // The nodes of a text: characters as they are, and the codes of those that would not be seen.
  const nodes = text => text.split(SPLIT).flatMap((part, number) => {
    if (number % 2 === 0) return part ? [document.createTextNode(part)] : [];
    return Array.from(part, character => element("span", "unseen", code(character)));
  });

  // The same as a string, where there can be no nodes.
  const plain = text => text.split(SPLIT).map((part, number) =>
    number % 2 === 0 ? part : Array.from(part, character => `⟨${code(character)}⟩`).join("")).join("");

  const endOfBraces = (text, from) => {
    for (let depth = 1, at = from; at < text.length; at++) {
      if (text[at] === "\\") at++;
      else if (text[at] === "{") depth++;
      else if (text[at] === "}" && --depth === 0) return at;
    }
    return -1;
  };

  // Where a formula that a single dollar opens ends, or -1: as Pandoc has it, so that prices are no formulas.
  const endOfDollar = (text, from) => {
    if (/\s/.test(text[from] ?? " ")) return -1;
    for (let at = from; at < text.length; at++) {
      if (text[at] === "\\") at++;
      else if (text[at] === "\n" && /^\n\s*\n/.test(text.slice(at, at + 80))) return -1;
      else if (text[at] === "$") return /\s/.test(text[at - 1]) || /\d/.test(text[at + 1] ?? "") ? -1 : at;
    }
    return -1;
  };

  // The formulas of a text in their order: {start, end, source, display}.
  const formulas = text => {
    const found = [];
    OPENS.lastIndex = 0;
    for (let open; (open = OPENS.exec(text)); ) {
      const [mark, environment] = open;
      const inside = open.index + mark.length;
      let close = -1;
      let closing = "";
      if (mark === "$") close = endOfDollar(text, inside);
      else if (mark === "\\boxed{") close = endOfBraces(text, inside);
      else if (mark === "\\\\" || mark === "\\$") continue;
      else {
        closing = { "$$": "$$", "\\[": "\\]", "\\(": "\\)" }[mark] ?? `\\end{${environment}}`;
        close = text.indexOf(closing, inside);
      }
      if (close <= inside) continue;
      const whole = environment || mark === "\\boxed{";
      const end = close + (closing.length || 1);
      found.push({
        start: open.index,
        end,
        source: whole ? text.slice(open.index, end) : text.slice(inside, close),
        display: mark !== "$" && mark !== "\\(" && mark !== "\\boxed{",
      });
      OPENS.lastIndex = end;
    }
    return found;
  };

  const depthOf = source => {
    let deepest = 0;
    let depth = 0;
    for (const [mark] of source.matchAll(/\\(?:left|begin|right|end)(?![a-zA-Z])|\\.|[{}]/gs)) {
      if (mark === "{" || mark === "\\left" || mark === "\\begin") deepest = Math.max(deepest, ++depth);
      else if (mark === "}" || mark === "\\right" || mark === "\\end") depth--;
    }
    return deepest;
  };

  const size = (root, deepest) => {
    let count = 0;
    let depth = 0;
    for (let level = [root]; level.length && depth <= deepest; depth++) {
      count += level.length;
      level = level.flatMap(node => Array.from(node.childNodes));
    }
    return { count, depth };
  };

  // A formula typeset, or null where it cannot be or should not be: then it is shown as it is written.
  const typeset = ({ source, display }) => {
    if (source.length > LONGEST_FORMULA || REFUSED.test(source) || depthOf(source) > DEEPEST_FORMULA) return null;
    if (UNSEEN.test(source.replace(/[\n\t]/g, ""))) return null;
    const made = element("span", display ? "formula display" : "formula");
    try {
      katex.render(source, made, {
        displayMode: display, throwOnError: true, trust: false, strict: "ignore", maxExpand: 300, maxSize: 20, macros: {},
      });
    } catch {
      return null; // an error of the formula, or of KaTeX on what is no formula
    }
    const { count, depth } = size(made, DEEPEST);
    return count > MOST_NODES || depth > DEEPEST ? null : made;
  };

  // {start, end, logprob, count} of what tokens say, in nats; those that only begin a character count to the one that
  // ends it, and the token that ends the response stands after the text.
  const tokensOf = ({ lengths, logprobs }) => {
    const found = [];
    let at = 0;
    let logprob = 0;
    let count = 0;
    lengths.forEach((length, number) => {
      logprob -= logprobs[number] / 100;
      count++;
      if (length === 0 && number < lengths.length - 1) return;
      found.push({ start: at, end: at + length, logprob, count });
      at += length;
      logprob = count = 0;
    });
    return found;
  };

  const LEVELS = [0.5, 0.1, 0.01, 0.001];
  const levelOf = logprob => LEVELS.filter(probability => Math.exp(logprob) < probability).length;

  const minus = number => number.toFixed(2).replace("-", "\u2212").replace(/^\u22120\.00$/, "0.00");
  const percent = probability =>
    probability < 0.0001 ? "under 0.01 %" : `${(100 * probability).toFixed(probability < 0.01 ? 2 : 1)} %`;

  const told = new WeakMap(); // what the tip says of an element

  const shade = (made, logprob, count, words) => {
    made.classList.add("token", `p${levelOf(logprob / count)}`);
    const mean = count > 1 ? `, a token ${minus(logprob / count)}` : "";
    told.set(made, `${words}: log-prob ${minus(logprob)}${mean}, probability ${percent(Math.exp(logprob))}`);
    return made;
  };

  const quoted = text => `“${plain(text.length > 40 ? `${text.slice(0, 40)}…` : text).replace(/\n/g, "↵")}”`;

  // The tokens of which some part stands from `start` to `end`; they are asked for from left to right.
  const reader = tokens => {
    let first = 0;
    return (start, end) => {
      while (first < tokens.length && tokens[first].end <= start) first++;
      let past = first;
      while (past < tokens.length && tokens[past].start < end) past++;
      return tokens.slice(first, past);
    };
  };

  // A part of a text in pieces of its tokens.
  const pieces = (text, start, end, tokens) => tokens.map(token => {
    const part = text.slice(Math.max(token.start, start), Math.min(token.end, end));
    const many = token.count > 1 ? ` (${token.count} tokens)` : "";
    const words = quoted(text.slice(token.start, token.end)) + many;
    return shade(element("span", "", ...nodes(part)), token.logprob, token.count, words);
  });

  // Fills an element with a response {text, lengths, logprobs, …}, or with any text {text}.
  const show = (into, response, { typesetting, shading }, most = Infinity) => {
    const tokens = shading && response.lengths ? tokensOf(response) : null;
    const whole = tokens ? response.spelt ?? response.text : response.text;
    const text = whole.length > most ? whole.slice(0, most) : whole;
    const within = tokens && reader(tokens);
    const words = (from, to) => within ? pieces(text, from, to, within(from, to)) : nodes(text.slice(from, to));
    const started = performance.now();
    let at = 0;
    for (const formula of typesetting ? formulas(text) : []) {
      const made = performance.now() - started < MOST_MILLISECONDS ? typeset(formula) : null;
      if (!made) continue;
      into.append(...words(at, formula.start));
      const inside = within?.(formula.start, formula.end) ?? [];
      const logprob = inside.reduce((sum, token) => sum + token.logprob, 0);
      const count = inside.reduce((sum, token) => sum + token.count, 0);
      into.append(count ? shade(made, logprob, count, `Formula of ${count} tokens`) : made);
      at = formula.end;
    }
    into.append(...words(at, text.length));
    const last = tokens?.at(-1);
    if (last && response.ends && text.length === whole.length && last.start === last.end) {
      into.append(shade(element("span", "end", "■"), last.logprob, last.count, "End of the response"));
    }
    return whole.length - text.length;
  };

  globalThis.retell = { element, formulas, levels: LEVELS, minus, nodes, show, told };
})();
