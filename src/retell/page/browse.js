// The rows of a run, ten at a time: from the page itself, or from the server that it came from (`retell view`).
"use strict";
(() => {
  const { element, levels, minus, nodes, show, told } = retell;
  const PAGE = 10;
  const LONG = 20000; // characters of a text that are shown at once
  const SHORT = 400; // characters of a name, an answer or a reason that are shown
  const WHOSE = { expert: "Expert", self: "Own solution (self)", guided: "Retold (guided)" };
  const SIGNS = { correct: "✓", wrong: "✗", undecided: "?" };
  const BASIS = "Log-probs are those of the policy before training, after the training prompt; where it says “as sampled”, "
    + "those of the distribution that drew the response, after the prompt that was really used.";

  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const foreign = (name, className, text) => {
    const made = element(name, className, ...nodes(text.length > SHORT ? `${text.slice(0, SHORT)}…` : text));
    made.dir = "auto";
    return made;
  };

  // Where rows come from: find(query, start) gives {rows, next, total, before}; `next` as the next start goes on.
  const embedded = ({ rows, total }) => {
    const shown = rows.length;
    const kept = row => row[row.rung]?.text ?? "";
    const texts = rows.map(row => [row.id, row.problem, row.expert.text, kept(row)].join("\n").toLowerCase());
    return {
      shown,
      total,
      async from(place) {
        const byId = rows.findIndex(row => row.id === place);
        const found = byId >= 0 ? byId : rows.findIndex(row => row.row + 1 >= Number(place));
        if (found < 0) throw new Error(`No sampled row has the id ${place} or a number from there on.`);
        return found;
      },
      async find(query, start) {
        const text = query.text.toLowerCase();
        const fits = (row, number) => (!query.rung || row.rung === query.rung)
          && (!query.verdict || row.verdicts.includes(query.verdict)) && (!text || texts[number].includes(text));
        const matching = rows.flatMap((row, number) => fits(row, number) ? [number] : []);
        const rest = matching.filter(number => number >= start);
        const page = rest.slice(0, PAGE);
        const before = matching.length - rest.length;
        return { rows: page.map(number => rows[number]), next: rest[PAGE] ?? null, total: matching.length, before };
      },
    };
  };

  const served = ({ total }) => {
    const ask = async (what, given, signal) => {
      const answer = await fetch(`${what}?${new URLSearchParams(given)}`, { signal }).catch(error => {
        throw error.name === "AbortError" ? error : new Error("The server does not answer: is `retell view` still running?");
      });
      if (answer.ok) return answer.json();
      const said = await answer.json().catch(() => ({}));
      throw new Error(said.error ?? `${answer.status} ${answer.statusText}`);
    };
    return {
      shown: total,
      total,
      from: async (place, signal) => (await ask("place", { of: place }, signal)).row,
      // An answer holds what was found in a short time; the same question goes on until there is a page of rows.
      async find(query, start, signal, progress) {
        const found = await ask("rows", { ...query, start }, signal);
        while (found.rows.length < PAGE && found.next !== null) {
          await progress(found);
          const more = await ask("rows", { ...query, start: found.next }, signal);
          found.rows.push(...more.rows);
          found.next = more.next;
        }
        if (found.rows.length > PAGE) found.next = found.rows[PAGE].row;
        return { ...found, rows: found.rows.slice(0, PAGE) };
      },
      attempt: given => ask("attempt", given),
    };
  };

  // A note, in which what stands between back-ticks is a command.
  const noteOf = note => element("p", "browse-note soft", ...note.split("`").flatMap((part, number) =>
    number % 2 ? [element("code", "", ...nodes(part))] : nodes(part)));

  const verdictOf = ({ outcome, extracted, reason }) => {
    const line = element("span", `verdict ${outcome}`, `${SIGNS[outcome]} ${outcome}`);
    const parts = [line];
    if (extracted !== null && extracted !== undefined) parts.push(": ", foreign("code", "", extracted));
    if (reason) parts.push(element("span", "soft", " (", foreign("bdi", "", reason), ")"));
    return parts;
  };

  const factsOf = response => {
    const parts = [];
    if (response.index !== undefined) parts.push(`attempt ${response.index + 1}`);
    if (response.stop === "length") parts.push("cut off");
    const tokens = response.scored ?? response.tokens;
    if (tokens !== undefined && tokens !== null) parts.push(count(tokens, "token"));
    if (response.logprob !== undefined && response.logprob !== null) {
      const mean = response.scored ? ` (${minus(response.logprob / response.scored)} a token)` : "";
      parts.push(`log-prob ${minus(response.logprob)}${mean}${response.sampled ? " as sampled" : ""}`);
    }
    if (response.spelt !== undefined) parts.push("shown as its tokens spell it");
    return parts.join(" · ");
  };

  const whyNone = (row, rung) => {
    if (row.attempts === null) return "Not known: see the note above.";
    if (row.counts[rung][1]) return "Its samples are not in the journal.";
    return rung === "guided" && row.rung === "self" ? "Not asked for: an own solution was accepted." : "None was drawn.";
  };

  class Browser {
    constructor(root, data) {
      this.root = root;
      this.source = data.live ? served(data) : embedded(data);
      this.starts = [0];
      this.next = null;
      this.views = []; // what shows each text again when the switches change
      this.tip = element("p", "browse-tip");
      this.tip.setAttribute("role", "status");
      this.tip.hidden = true;
      this.build(data);
    }

    build({ notes }) {
      this.form = element("form", "browse-tools");
      this.form.setAttribute("role", "search");
      this.form.addEventListener("submit", event => event.preventDefault());
      this.search = this.field("Search", "search", "id, problem, solution, response");
      this.rung = this.choice("Rung", ["self", "guided", "expert"]);
      this.verdict = this.choice("Has an attempt that is", ["correct", "wrong", "undecided"]);
      this.from = this.field("From row", "text", "id or number");
      this.typesetting = this.toggle("Typeset mathematics");
      this.shading = this.toggle("Shade tokens");
      this.status = element("p", "browse-status");
      this.status.setAttribute("role", "status");
      this.status.tabIndex = -1;
      this.list = element("div", "browse-rows");
      this.back = this.button("‹ Previous", () => this.turn(-1));
      this.forth = this.button("Next ›", () => this.turn(1));
      this.stop = this.button("Stop", () => this.halt());
      const again = [this.button("‹ Previous", () => this.turn(-1)), this.button("Next ›", () => this.turn(1))];
      this.pairs = [[this.back, this.forth], again];
      const foot = element("nav", "browse-pages", ...again);
      foot.setAttribute("aria-label", "Pages of rows, again");
      const head = element("nav", "browse-pages", this.back, this.forth, this.stop);
      head.setAttribute("aria-label", "Pages of rows");
      this.root.replaceChildren(...notes.map(noteOf),
        this.form, legend(), element("div", "browse-head", this.status, head), this.list, foot, this.tip);
      let typing;
      this.form.addEventListener("input", event => {
        clearTimeout(typing);
        if (event.target === this.typesetting || event.target === this.shading) this.views.forEach(view => view());
        else typing = setTimeout(() => this.begin(), event.target instanceof HTMLSelectElement ? 0 : 250);
      });
      this.explain();
    }

    field(label, type, hint) {
      const input = element("input");
      Object.assign(input, { type, placeholder: hint, spellcheck: false, autocomplete: "off", maxLength: 200 });
      this.form.append(element("label", "", label, input));
      return input;
    }

    choice(label, names) {
      const select = element("select", "", new Option("any", ""), ...names.map(name => new Option(name, name)));
      this.form.append(element("label", "", label, select));
      return select;
    }

    toggle(label) {
      const box = element("input");
      Object.assign(box, { type: "checkbox", checked: true });
      this.form.append(element("label", "switch", box, label));
      return box;
    }

    button(label, act) {
      const made = element("button", "", label);
      made.type = "button";
      made.addEventListener("click", act);
      return made;
    }

    get looks() {
      return { typesetting: this.typesetting.checked, shading: this.shading.checked };
    }

    turn(by) {
      if (by > 0) this.starts.push(this.next);
      else this.starts.pop();
      this.load().then(() => {
        this.status.focus({ preventScroll: true });
        this.status.parentElement.scrollIntoView();
      });
    }

    halt() {
      this.asking?.abort();
    }

    begin() {
      this.starts = [0];
      this.load(this.from.value.trim());
    }

    // Shows the page that begins at the last of `starts`, or where a row of that id or number is.
    async load(from = "") {
      this.halt();
      const asking = this.asking = new AbortController();
      const query = { text: this.search.value.trim(), rung: this.rung.value, verdict: this.verdict.value };
      this.say("Looking…");
      this.stop.hidden = false;
      this.pairs.flat().forEach(one => { one.disabled = true; });
      this.next = null;
      try {
        if (from) this.starts = [await this.source.from(from, asking.signal)];
        const progress = so => {
          this.next = so.next;
          const place = `${so.next.toLocaleString("en")} of ${this.source.total.toLocaleString("en")}`;
          this.say(`Looking: ${count(so.rows.length, "row")} found, up to row ${place}.`);
          return this.fill(so.rows, asking);
        };
        this.list.replaceChildren();
        this.views = [];
        const found = await this.source.find(query, this.starts.at(-1), asking.signal, progress);
        await this.fill(found.rows, asking);
        if (asking !== this.asking) return;
        this.next = found.next;
        this.say(this.sum(found));
      } catch (error) {
        if (asking !== this.asking) return;
        const stopped = error.name === "AbortError";
        this.say(stopped ? `Stopped${this.next === null ? "" : "; Next looks on from there"}.` : error.message, !stopped);
      }
      this.stop.hidden = true;
      this.pairs.forEach(([back, forth]) => {
        back.disabled = this.starts.length === 1;
        forth.disabled = this.next === null;
      });
    }

    say(words, wrong = false) {
      this.status.replaceChildren(...nodes(words));
      this.status.classList.toggle("wrong", wrong);
    }

    sum({ rows, total, before, next }) {
      const sampled = this.source.shown < this.source.total ? " sampled" : "";
      const all = total < this.source.shown ? ` that are like that, of ${this.source.shown.toLocaleString("en")}${sampled}` : sampled;
      if (total === null) {
        return next === null && this.starts.length === 1 ? `${count(rows.length, "row")} found.`
          : `Page ${this.starts.length}${next === null ? ", the last" : ""}.`;
      }
      if (!this.source.shown) return "There are no rows.";
      if (!total) return `None of the ${count(this.source.shown, "row")}${sampled} is like that.`;
      if (!rows.length) return "No row from there on is like that.";
      const span = `${(before + 1).toLocaleString("en")}–${(before + rows.length).toLocaleString("en")}`;
      return `Rows ${span} of ${total.toLocaleString("en")}${all}.`;
    }

    // Adds the rows that are not there yet, and lets the browser show them as they come.
    async fill(rows, asking) {
      let shown = performance.now();
      for (const row of rows.slice(this.list.children.length)) {
        if (asking !== this.asking) return;
        this.list.append(this.card(row));
        if (performance.now() - shown > 50) {
          await new Promise(done => setTimeout(done));
          shown = performance.now();
        }
      }
    }

    card(row) {
      const columns = ["expert", "self", "guided"].map(rung => this.column(row, rung));
      const made = element("article", "browse-row",
        element("h3", "", foreign("bdi", "", row.id)),
        element("p", "soft", element("span", `rung ${row.rung}`, row.rung),
          ` row ${(row.row + 1).toLocaleString("en")}`, row.source ? " of " : "", row.source ? foreign("bdi", "", row.source) : "",
          " · answer ", foreign("code", "", row.answer)),
        this.text({ text: row.problem }, "problem"),
        element("div", "browse-columns", ...columns),
        this.attempts(row, columns));
      made.setAttribute("aria-label", `Row ${row.row + 1}`);
      return made;
    }

    column(row, rung) {
      const made = element("section", `response ${rung}`);
      made.setAttribute("aria-label", WHOSE[rung]);
      this.respond(made, row, rung, row[rung]);
      return made;
    }

    // Fills a column with a response, or says why there is none.
    respond(made, row, rung, response) {
      const kept = response?.kept ? element("span", "kept", "kept") : null;
      const heading = element("h4", "", WHOSE[rung], " ", kept);
      if (!response) {
        made.replaceChildren(heading, element("p", "soft", whyNone(row, rung)));
        return;
      }
      const graded = response.outcome ? verdictOf(response) : [element("span", "soft", "given, not graded")];
      made.replaceChildren(heading, element("p", "judged", ...graded), this.text(response, "body"),
        element("p", "soft small", factsOf(response)));
    }

    text(response, className) {
      const made = element("div", `text ${className}`);
      Object.assign(made, { dir: "auto", tabIndex: 0 });
      let most = LONG;
      const view = () => {
        made.replaceChildren();
        const left = show(made, response, this.looks, most);
        if (left > 0) {
          made.append(" ", this.button(`Show ${count(left, "character")} more`, () => {
            most = Infinity;
            view();
          }));
        }
      };
      view();
      this.views.push(view);
      return made;
    }

    attempts(row, columns) {
      if (!row.attempts?.length) return null;
      const drawn = ["self", "guided"].filter(rung => row.counts[rung][1]).map(rung =>
        `${row.counts[rung][1]} ${rung} (${row.counts[rung][0]} correct)`);
      const made = element("details", "", element("summary", "", `Attempts: ${drawn.join(", ")}`));
      made.addEventListener("toggle", () => {
        if (made.open && made.children.length === 1) made.append(this.table(row, columns));
      });
      return made;
    }

    table(row, columns) {
      const heads = ["rung", "attempt", "verdict", "end", "tokens", this.source.attempt ? "" : null].filter(one => one !== null);
      const lines = row.attempts.map(one => {
        const cells = [one.rung, String(one.index + 1), element("span", "", ...verdictOf(one), one.kept ? " · kept" : ""),
          one.stop === "length" ? "cut off" : "by itself", one.tokens === null ? "–" : one.tokens.toLocaleString("en")];
        if (this.source.attempt) cells.push(this.button("Show", () => this.exchange(row, columns, one)));
        return element("tr", "", ...cells.map(cell => element("td", "", cell)));
      });
      const table = element("table", "attempts", element("thead", "", element("tr", "", ...heads.map(head => element("th", "", head)))),
        element("tbody", "", ...lines));
      return element("div", "scroll", table);
    }

    // Shows another attempt in the column of its rung.
    async exchange(row, columns, { rung, index }) {
      const column = columns[["expert", "self", "guided"].indexOf(rung)];
      try {
        this.respond(column, row, rung, await this.source.attempt({ row: row.row, rung, index }));
      } catch (error) {
        this.say(error.message, true);
      }
      column.querySelector(".text")?.focus();
    }

    // The tip says what a token's log-prob is: under the pointer, at a tap, and with the arrow keys within a text.
    explain() {
      const point = target => {
        const token = target instanceof Element ? target.closest(".token") : null;
        this.at?.classList.remove("pointed");
        this.at = token && this.root.contains(token) ? token : null;
        this.tip.hidden = !this.at;
        if (!this.at) return;
        this.at.classList.add("pointed");
        this.tip.textContent = told.get(this.at);
        const box = this.at.getBoundingClientRect();
        const left = Math.min(box.left, document.documentElement.clientWidth - this.tip.offsetWidth - 8);
        const above = box.top - this.tip.offsetHeight - 6;
        this.tip.style.left = `${Math.max(8, left)}px`;
        this.tip.style.top = `${above > 0 ? above : box.bottom + 6}px`;
      };
      this.root.addEventListener("pointerover", event => point(event.target));
      this.root.addEventListener("pointerleave", () => point(null));
      this.root.addEventListener("click", event => point(event.target));
      this.root.addEventListener("focusout", () => point(null));
      addEventListener("scroll", () => point(null), { passive: true });
      this.root.addEventListener("keydown", event => {
        if (event.key === "Escape") point(null);
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step || !event.target.classList.contains("text")) return;
        const tokens = Array.from(event.target.querySelectorAll(".token"));
        const token = tokens[tokens.indexOf(this.at) + step] ?? (this.at ? this.at : tokens[0]);
        if (!token) return;
        event.preventDefault();
        token.scrollIntoView({ block: "nearest" });
        point(token);
      });
    }
  }

  const legend = () => {
    const shares = levels.map(level => `${100 * level} %`);
    const words = [...shares.map(share => `${share} or more`), `less than ${shares.at(-1)}`];
    const steps = words.map((word, number) => element("li", "", element("span", `token p${number}`, word)));
    return element("div", "browse-legend small", "Probability of a token, of a formula’s tokens on average:",
      element("ul", "", ...steps), element("p", "", BASIS));
  };

  const root = document.querySelector(".browse");
  const data = document.getElementById("browse");
  const open = () => new Browser(root, JSON.parse(data.textContent)).begin();
  if (root && data) {
    // A long page opens the sooner for it if this is made when it comes near.
    const watch = new IntersectionObserver(seen => {
      if (!seen.some(one => one.isIntersecting)) return;
      watch.disconnect();
      open();
    }, { rootMargin: "800px" });
    watch.observe(root);
  }
})();
