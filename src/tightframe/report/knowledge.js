"use strict";

// Draws what arms remember, and lists what they said. The data is in the page, as JSON; its words
// are strangers': they reach the page as text nodes, and plotly escaped.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { axis, config, css, dark, layout, look, number } = plots;
  const at = (id) => document.getElementById(id);
  const plain = (text) =>
    `${text}`.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const whole = (value) => value.toLocaleString("en");
  // A title of an axis in lines that fit under a small panel.
  const folded = (text) => text.replace(/(.{24,36}?) /g, "$1<br>");
  const unique = (values) => [...new Set(values)];
  const upwards = (values) => unique(values).sort((a, b) => a - b);
  const inOrder = (names, known) => {
    const there = unique(names);
    return [...known.filter((name) => there.includes(name)),
      ...there.filter((name) => !known.includes(name)).sort()];
  };
  const [formWords, scoreWords] = [new Map(data.forms), new Map(data.scoreWords)];
  const FORMS = inOrder(data.scores.map((row) => row.form), [...formWords.keys()]);
  const SYMBOLS = ["x", "square", "circle", "diamond", "triangle-up", "cross"];
  const PAGE = 50; // lines of answers shown at first, and more each time

  const colour = (arm) => css(`arm-${arm.place % 6}`);
  const symbol = (arm) => `${SYMBOLS[arm.place % 6]}${arm.reordered ? "-open" : ""}`;
  const dash = (arm) => (arm.reordered ? "6px,4px" : "solid");

  // The choices of a select, keeping what was chosen where it is still there.
  function fill(select, choices, preferred) {
    const before = select.value || `${preferred ?? ""}`;
    select.replaceChildren(...choices.map(([value, words]) => new Option(words, value)));
    const values = choices.map(([value]) => `${value}`);
    select.value = values.includes(before) ? before : values[0] ?? "";
    select.closest("label").hidden = choices.length < 2;
  }

  const percent = (rows) => rows.every((row) => row.score !== "output_words");

  // From 0 to a little above the highest end of an interval; percents end at 100.
  function upright(rows) {
    const ends = rows.flatMap((row) => [row.value, row.high]).filter((value) => value !== null);
    const top = Math.max(...ends, 1);
    return [0, percent(rows) ? Math.min(top * 1.12, 103) : top * 1.12];
  }

  function hover(row, arm, where) {
    const interval = row.low === null ? "" : `<br>95 %: ${number(row.low)} to ${number(row.high)}`;
    return `<b>${plain(arm.name)}</b>, ${where}<br><b>${number(row.value)}</b>${percent([row]) ? " %" : " words"}${interval}` +
      `<br>n = ${whole(row.n)}`;
  }

  const ends = (rows, own) => ({
    type: "data", symmetric: false, thickness: 1.25, width: 3,
    ...own,
    array: rows.map((row) => (row.high === null ? 0 : row.high - row.value)),
    arrayminus: rows.map((row) => (row.low === null ? 0 : row.value - row.low)),
  });

  // Lines of the arms over a logarithmic axis, each named at its right end.
  function drawLines(plot, rows, key, words, yTitle) {
    const own = look();
    const arms = data.arms.filter((arm) => rows.some((row) => row.arm === arm.name));
    const ticks = upwards(rows.map((row) => row[key]));
    // Intervals of arms stand beside each other, not over each other.
    const beside = (i) => (ticks.at(-1) / ticks[0] * 1.6) ** (0.013 * (i - (arms.length - 1) / 2));
    const range = upright(rows);
    const traces = arms.map((arm, i) => {
      const line = rows.filter((row) => row.arm === arm.name && row.value !== null)
        .sort((a, b) => a[key] - b[key]);
      return {
        x: line.map((row) => row[key] * beside(i)), y: line.map((row) => row.value),
        mode: "lines+markers", hoverinfo: "text",
        hovertext: line.map((row) => hover(row, arm, `${whole(row[key])} ${words}`)),
        line: { color: colour(arm), width: 1.75, dash: dash(arm) },
        marker: { size: 8, color: colour(arm), symbol: symbol(arm) },
        error_y: ends(line, { color: colour(arm) }),
      };
    });
    const gap = (range[1] - range[0]) * 0.058;
    // Names stand right of all intervals of their end.
    const named = arms.map((arm, i) => ({ arm, trace: traces[i] }))
      .map((one, i) => ({ ...one, end: one.trace.x.at(-1) / beside(i) * beside(arms.length - 1) }))
      .filter(({ trace }) => trace.y.length)
      .map(({ arm, trace, end }) => ({ arm, x: end, y: trace.y.at(-1), place: trace.y.at(-1) }))
      .sort((a, b) => a.y - b.y);
    for (let i = 1; i < named.length; i += 1) {
      named[i].place = Math.max(named[i].place, named[i - 1].place + gap);
    }
    const over = named.length ? named.at(-1).place - range[1] + gap / 2 : 0;
    if (over > 0) for (const one of named) one.place = Math.max(one.place - over, gap / 2);
    const [first, last] = [ticks[0] / 1.3, ticks.at(-1) * 1.3].map(Math.log10);
    const span = Math.max(last - first, 0.25);
    window.Plotly.react(plot, traces, layout(own, {
      xaxis: {
        ...axis(own, `${words} (logarithmic)`), type: "log", range: [first, first + 1.22 * span],
        tickvals: ticks, ticktext: ticks.map(whole),
      },
      yaxis: { ...axis(own, yTitle), range },
      annotations: named.map(({ arm, x, place }) => ({
        x: Math.log10(x), y: place, xanchor: "left", xshift: 10, showarrow: false,
        text: plain(arm.name), font: { color: colour(arm), size: 12 },
      })),
    }), config);
  }

  const SHORT = { left_context_reordered: "clue first" };  // names too long for a tick

  // Bars of the arms beside each other in every group.
  function drawBars(plot, rows, key, groups, yTitle, beside = () => "") {
    const own = look();
    const arms = data.arms.filter((arm) => rows.some((row) => row.arm === arm.name));
    const counts = Object.fromEntries(groups.map((group) =>
      [group, unique(rows.filter((row) => row[key] === group).map((row) => row.n))]));
    const ticks = groups.map((group) => (SHORT[group] ?? plain(group).replace(/_/g, " ")) + beside(group) +
      (counts[group].length === 1 ? `<br>n = ${whole(counts[group][0])}` : ""));
    const traces = arms.map((arm) => {
      const bars = rows.filter((row) => row.arm === arm.name && row.value !== null && groups.includes(row[key]));
      return {
        type: "bar", x: bars.map((row) => groups.indexOf(row[key])), y: bars.map((row) => row.value),
        marker: {
          color: colour(arm),
          ...(arm.reordered && { pattern: { shape: "/", bgcolor: own.card, fgcolor: colour(arm) } }),
        },
        hoverinfo: "text", textposition: "none",
        hovertext: bars.map((row) => hover(row, arm, plain(row[key]))),
        error_y: ends(bars, { color: own.ink, thickness: 1 }),
      };
    });
    window.Plotly.react(plot, traces, layout(own, {
      barmode: "group", bargap: 0.28, bargroupgap: 0.08, dragmode: false,
      xaxis: {
        ...axis(own, ""), tickvals: groups.map((_, i) => i), ticktext: ticks,
        range: [-0.5, groups.length - 0.5], fixedrange: true, showgrid: false,
      },
      yaxis: { ...axis(own, yTitle), range: upright(rows) },
    }), config);
  }

  const chosen = () => ({
    form: at("form").value, score: at("score").value,
    n_facts: Number(at("n-facts").value), exposures: Number(at("exposures").value),
  });
  const like = (wanted, ...keys) => (row) => keys.every((key) => row[key] === wanted[key]);

  // Where most arms were run, at most facts: there is most to compare.
  function busiest(rows) {
    const arms = (n) => unique(rows.filter((row) => row.n_facts === n).map((row) => row.arm)).length;
    return upwards(rows.map((row) => row.n_facts)).reduce((best, n) => (arms(n) >= arms(best) ? n : best));
  }

  function choose() {
    fill(at("form"), FORMS.map((form) => [form, form]), data.commonest.form);
    const ofForm = data.scores.filter((row) => row.form === at("form").value);
    const scores = inOrder(ofForm.map((row) => row.score), [...scoreWords.keys()]);
    fill(at("score"), scores.map((score) => [score, score]), data.commonest.score);
    const facts = upwards(ofForm.map((row) => row.n_facts));
    fill(at("n-facts"), facts.map((n) => [n, whole(n)]), busiest(ofForm));
    const there = ofForm.filter((row) => row.n_facts === Number(at("n-facts").value));
    const exposures = upwards(there.map((row) => row.exposures));
    fill(at("exposures"), exposures.map((n) => [n, whole(n)]), exposures.at(-1));
    const own = chosen();
    at("form-note").textContent =
      `${formWords.get(own.form) ?? ""} Score: ${scoreWords.get(own.score) ?? own.score}.`.trim();
    for (const words of document.querySelectorAll(".of-facts")) {
      words.textContent = `${whole(own.n_facts)} facts, ${whole(own.exposures)} exposures`;
    }
    return own;
  }

  function drawScores() {
    const own = choose();
    const yTitle = own.score === "output_words" ? "output, words" : `${own.score}, percent`;
    const everything = data.scores.filter((row) => row.subset === "all" && row.score === own.score);
    const ofForm = everything.filter(like(own, "form"));
    drawLines(at("by-facts"), ofForm.filter(like(own, "exposures")), "n_facts", "facts", yTitle);
    const several = ofForm.filter(like(own, "n_facts"));
    const figure = document.querySelector("[data-needs=exposures]");
    figure.hidden = unique(several.map((row) => row.exposures)).length < 2;
    if (!figure.hidden) drawLines(at("by-exposures"), several, "exposures", "exposures of each fact", yTitle);
    // Of all forms: where a form has no such score it has the rank.
    const here = data.scores.filter((row) => row.subset === "all" && like(own, "n_facts", "exposures")(row));
    const has = new Set(here.filter(like(own, "score")).map((row) => row.form));
    const byForm = here.filter((row) =>
      row.score === own.score || (!has.has(row.form) && row.score === "correct"));
    const forms = inOrder(byForm.map((row) => row.form), FORMS);
    drawBars(at("by-form"), byForm, "form", forms, yTitle, (form) =>
      (own.score === "correct" || has.has(form) ? "" : "<br>(ranks first)"));
    const parts = data.scores.filter(like(own, "form", "score", "n_facts", "exposures"));
    const positions = inOrder(parts.map((row) => row.subset), data.positions);
    drawBars(at("by-position"), parts, "subset", positions, yTitle);
    if (at("by-type")) {
      const types = data.types.filter(like(own, "form", "score", "n_facts", "exposures"));
      drawBars(at("by-type"), types, "subset", unique(types.map((row) => row.subset)), yTitle);
    }
  }

  // Geometry.

  function decades(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const steps = Array.from({ length: 40 }, (_, i) => 10 ** (i - 20));
    const kept = steps.filter((step) => step >= low / 1.5 && step <= high * 1.5);
    return kept.length > 5 ? kept.filter((_, i) => i % Math.ceil(kept.length / 5) === 0) : kept;
  }

  function drawRecall() {
    if (!at("recall-facts")) return;
    const facts = upwards(data.recall.map((row) => row.n_facts));
    fill(at("recall-facts"), facts.map((n) => [n, whole(n)]), facts.at(-1));
    const own = look();
    for (const figure of document.querySelectorAll("[data-feature]")) {
      const feature = figure.dataset.feature;
      const rows = data.recall.filter((row) =>
        row.feature === feature && row.n_facts === Number(at("recall-facts").value));
      const medians = rows.map((row) => row.median);
      const log = Math.min(...medians) > 0 && Math.max(...medians) / Math.min(...medians) > 30;
      const traces = data.arms.map((arm) => {
        const line = rows.filter((row) => row.arm === arm.name);
        return {
          x: line.map((row) => row.median), y: line.map((row) => row.value),
          mode: "lines+markers", hoverinfo: "text",
          hovertext: line.map((row) =>
            hover(row, arm, `${plain(feature)} about ${number(row.median)}`)),
          line: { color: colour(arm), width: 1.5, dash: dash(arm) },
          marker: { size: 7, color: colour(arm), symbol: symbol(arm) },
          error_y: ends(line, { color: colour(arm), width: 2, thickness: 1 }),
        };
      });
      window.Plotly.react(figure.querySelector(".plot"), traces, layout(own, {
        xaxis: {
          ...axis(own, folded(plain(data.features[feature])) + (log ? " (log)" : "")),
          ...(log && { type: "log", tickvals: decades(medians), ticktext: decades(medians).map(number) }),
        },
        yaxis: { ...axis(own, "recalled, percent"), range: [-3, 103] },
      }), config);
    }
  }

  // What they said.

  const [FACTS, , FORM, , ID, TYPE, POSITION, GOLD, PROMPT, SAID] = Array.from({ length: 10 }, (_, i) => i);
  const lines = data.answers.lines;
  const armsOfLines = data.arms.map((arm, i) => ({ ...arm, i }))
    .filter(({ i }) => lines.some((line) => line[SAID][i]));
  let shown = PAGE;

  function element(name, text, ...classes) {
    const made = document.createElement(name);
    made.textContent = text;
    made.classList.add(...classes);
    return made;
  }

  function cell(said) {
    if (!said) return element("td", "\u2014", "words");
    const [text, right, seeds] = said;
    const made = document.createElement("td");
    made.classList.add("words");
    const all = right === seeds;
    const mark = seeds > 1 ? `${right} of ${seeds} right` : all ? "right" : "wrong";
    made.append(element("span", text || "(nothing)"), " ",
      element("b", `${all ? "\u2713" : right ? "\u223c" : "\u2717"} ${mark}`, all ? "right" : right ? "partly" : "wrong"));
    return made;
  }

  function kept(line) {
    const arm = at("answer-arm").value;
    const said = (arm === "" ? armsOfLines.map(({ i }) => line[SAID][i]) : [line[SAID][arm]])
      .filter(Boolean);
    if (line[FORM] !== at("answer-form").value || line[FACTS] !== Number(at("answer-facts").value)) {
      return false;
    }
    const rights = said.map(([, right, seeds]) => right === seeds);
    if (!rights.length) return false;
    switch (at("answer-right").value) {
      case "right": return rights.every(Boolean);
      case "wrong": return said.every(([, right]) => right === 0);
      case "differ": return unique(rights).length === 2;
      default: return true;
    }
  }

  function listAnswers() {
    const found = lines.filter(kept);
    const arm = at("answer-arm").value;
    const columns = armsOfLines.filter(({ i }) =>
      `${i}` === arm || (arm === "" && found.some((line) => line[SAID][i])));
    const head = document.createElement("tr");
    const asked = lines.some((line) => line[PROMPT]);
    for (const words of ["fact", "type", ...(asked ? ["prompt"] : []), "answer", ...columns.map(({ name }) => name)]) {
      const th = element("th", words, "plain", "text");
      th.scope = "col";
      head.append(th);
    }
    at("answer-table").tHead.replaceChildren(head);
    at("answer-table").tBodies[0].replaceChildren(...found.slice(0, shown).map((line) => {
      const row = document.createElement("tr");
      const id = element("th", line[ID]);
      id.scope = "row";
      id.title = line[ID];
      row.append(id, element("td", `${line[TYPE]}, ${line[POSITION]}`, "text"),
        ...(asked ? [element("td", line[PROMPT], "words")] : []),
        element("td", line[GOLD], "words"), ...columns.map(({ i }) => cell(line[SAID][i])));
      return row;
    }));
    at("answer-more").hidden = found.length <= shown;
    at("answer-count").textContent =
      `${whole(found.length)} questions, ${whole(Math.min(shown, found.length))} shown`;
  }

  function prepareAnswers() {
    if (!lines.length) return;
    const forms = inOrder(lines.map((line) => line[FORM]), FORMS);
    fill(at("answer-form"), forms.map((form) => [form, form]), data.commonest.form);
    const facts = upwards(lines.map((line) => line[FACTS]));
    fill(at("answer-facts"), facts.map((n) => [n, whole(n)]), busiest(data.scores));
    fill(at("answer-arm"), [["", "all"], ...armsOfLines.map(({ i, name }) => [i, name])]);
    fill(at("answer-right"), [
      ["", "all questions"], ["right", "right"], ["wrong", "wrong"], ["differ", "arms disagree"],
    ]);
    for (const id of ["answer-form", "answer-facts", "answer-arm", "answer-right"]) {
      at(id).addEventListener("change", () => {
        shown = PAGE;
        listAnswers();
      });
    }
    at("answer-more").addEventListener("click", () => {
      shown += PAGE;
      listAnswers();
    });
    listAnswers();
  }

  drawScores();
  drawRecall();
  prepareAnswers();
  for (const id of ["form", "score", "n-facts", "exposures"]) {
    at(id).addEventListener("change", drawScores);
  }
  at("recall-facts")?.addEventListener("change", drawRecall);
  dark.addEventListener("change", () => {
    drawScores();
    drawRecall();
  });
})();
