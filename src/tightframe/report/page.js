"use strict";

// Draws the figures of a page and answers its switches. Figures are plotly's JSON, made by
// `plots.py`; all data is in the page. Words of strangers reach the page as text nodes, and plotly
// escaped.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const at = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const whole = (value) => value.toLocaleString("en");
  const unique = (values) => [...new Set(values)];
  const number = (value) => `${Number(value.toPrecision(4))}`.replace("-", "\u2212");

  // Switches.

  const radio = (name) => document.querySelector(`input[name="${name}"]:checked`);
  const chosen = (name) => radio(name)?.value ?? at(name).value;
  const label = (name) => at(name).selectedOptions[0]?.text ?? "";
  // "scatter {scale}" with what is chosen of each switch in braces.
  const filled = (text, value = chosen) => text.replace(/\{([\w-]+)\}/g, (_, name) => value(name));

  // Selects that depend on each other: each offers what goes with the choices before it.
  function offer() {
    let rows = data.choices.rows; // the preferred first
    data.choices.names.forEach((name, i) => {
      const select = at(name);
      const before = select.value;
      const there = unique(rows.map((row) => row[i]));
      const offered = data.choices.orders[i].filter((value) => there.includes(value));
      select.replaceChildren(...offered.map((value) =>
        new Option(typeof value === "number" ? whole(value) : value, value)));
      select.value = offered.some((value) => `${value}` === before) ? before : rows[0][i];
      select.closest("label").hidden = offered.length < 2;
      rows = rows.filter((row) => `${row[i]}` === select.value);
    });
  }

  // Figures.

  // A figure with the colours of the scheme, shared arrays, matrices and labels put in.
  function resolved(part) {
    if (Array.isArray(part)) return part.map(resolved);
    if (part === null || typeof part !== "object") return part;
    if ("light" in part) return dark.matches ? part.dark : part.light;
    if ("shared" in part) return data.shared[filled(part.shared)];
    if ("bytes" in part) return matrix(part.bytes, part.columns);
    const made = Object.fromEntries(Object.entries(part).map(([name, own]) => [name, resolved(own)]));
    if (made.type === "heatmap") {
      const { down, across } = made.hovertext;
      made.hovertext = made.z.map((row, i) =>
        row.map((value, j) => `${down[i]}<br>${across[j]}<br><b>${number(value)}</b>`));
    }
    return made;
  }

  function matrix(text, columns) {
    const bytes = Int8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Array.from({ length: bytes.length / columns }, (_, row) =>
      Array.from(bytes.subarray(row * columns, (row + 1) * columns), (value) => value / 127));
  }

  const figureOf = ({ dataset }) =>
    "scatter" in dataset ? scatter(filled(dataset.scatter)) : data.figures[filled(dataset.figure)];

  // Plots of a page with many are drawn when they come near the window, or to paper.
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.near = isIntersecting;
      if (isIntersecting && target.stale) draw(target);
    }
  }, { rootMargin: "50%" });

  function draw(plot) {
    plot.stale = "lazy" in plot.dataset && !plot.near;
    if (plot.stale) return;
    const made = figureOf(plot);
    plot.closest("figure").hidden = !made;
    if (!made || !plot.offsetParent) return; // a hidden one has no size to be drawn at
    const layout = resolved(made.layout);
    layout.template = { layout: resolved(data.template) };
    layout.font = { family: getComputedStyle(document.body).fontFamily };
    layout.dragmode ??= touch.matches ? false : "zoom";
    if (made.about) plot.setAttribute("aria-label", made.about);
    window.Plotly.react(plot, resolved(made.data), layout, { displayModeBar: false, responsive: true });
    if ("linked" in plot.dataset && !plot.dataset.linked) link(plot);
  }

  // A point under the pointer is ringed in all linked panels: it is one checkpoint.
  function link(plot) {
    plot.dataset.linked = "yes";
    plot.on("plotly_hover", (event) => ring(event.points[0].pointNumber));
    plot.on("plotly_unhover", () => ring(selected));
    if (data.models) plot.on("plotly_click", (event) => select(event.points[0].pointNumber));
  }

  function ring(place) {
    for (const plot of all('.plot[data-linked="yes"]')) {
      const [x, y] = [plot.data[2].x[place], plot.data[2].y[place]];
      const there = typeof x === "number";
      window.Plotly.restyle(plot, { x: [there ? [x] : []], y: [there ? [y] : []] }, [3]);
    }
  }

  function drawAll() {
    if (data.choices?.rows.length) offer();
    if (radio("view")) document.body.dataset.view = chosen("view");
    for (const note of all("[data-when]")) {
      const [name, value] = note.dataset.when.split("=");
      note.hidden = chosen(name) !== value;
    }
    for (const note of all("[data-words]")) {
      const text = filled(note.dataset.words, label);
      note.textContent = data.words[text] ?? text;
    }
    for (const title of all("[data-label]")) title.textContent = label(title.dataset.label);
    if (data.models) explainColours();
    all(".plot").forEach(draw);
    ring(selected);
  }

  // Models as points: any measure against any outcome, coloured, of all models or of a subset.

  const FEW = 8; // clusters: through the points of fewer there is no line
  const SYMBOLS = ["circle", "square", "diamond", "x", "triangle-up", "cross"];
  const MARKS = ["\u25cf", "\u25a0", "\u25c6", "\u2715", "\u25b2", "\u271a"];
  let selected = null; // the model whose settings are shown
  const css = (name) => getComputedStyle(document.body).getPropertyValue(name);
  const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function scatter(measure) {
    const { measures, outcomes, colours, subsets, clusters, names, hover, settings } = data.models;
    const { name, title, values, unlined } = measures[measure];
    const outcome = outcomes[chosen("outcome")];
    const shades = colours[chosen("colour")];
    const subset = subsets[chosen("subset")];
    const inside = (i) => subset.of === null || colours[subset.of].values[i] === subset.value;
    const places = values.flatMap((value, i) =>
      value !== null && outcome.values[i] !== null && inside(i) ? [i] : []);
    const log = chosen("scale") === "log" && places.every((i) => values[i] > 0);
    const kept = new Set(places);
    const shown = (all) => all.map((value, i) => (kept.has(i) ? value : null));
    const made = structuredClone(data.figures.scatter);
    const [, line, points] = made.data;
    const { xaxis, yaxis, annotations } = made.layout;
    Object.assign(points, { x: shown(values), y: shown(outcome.values), customdata: hover });
    points.hovertemplate = `%{customdata}<br>${escaped(name)} <b>%{x:.4g}</b><br>`
      + `${outcome.title} <b>%{y:.4g}</b><extra></extra>`;
    if (shades?.kinds) {
      points.marker.color = shades.values.map((code) => css(`--arm-${code}`) || css("--soft"));
      points.marker.symbol = shades.values.map((code) => SYMBOLS[code] ?? "circle-open");
    } else if (shades) points.marker.color = shades.values;
    xaxis.title.text = title;
    xaxis.type = log ? "log" : "linear";
    yaxis.title.text = outcome.title;
    const independent = new Set(places.map((i) => clusters[i])).size;
    const x = places.map((i) => (log ? Math.log(values[i]) : values[i]));
    const fit = leastSquares(x, places.map((i) => outcome.values[i]));
    const drawn = independent >= FEW && !unlined && Number.isFinite(fit.r);
    if (drawn) {
      const ends = [Math.min(...x), Math.max(...x)];
      Object.assign(line, { x: log ? ends.map(Math.exp) : ends, y: ends.map(fit.at) });
    }
    const r = Number.isFinite(fit.r) ? `r = ${fit.r.toFixed(2).replace("-", "\u2212")}` : "no r";
    const count = `${whole(places.length)} points of ${whole(independent)} clusters`;
    const side = fit.r > 0 ? "left" : "right";
    for (const note of annotations) {
      Object.assign(note, { x: side === "left" ? 0.01 : 0.99, xanchor: side, align: side });
    }
    annotations[0].text = drawn ? `<b>R\u00b2 = ${(fit.r ** 2).toFixed(2)}</b>` : "";
    annotations[1].text = drawn ? `${r}; ${count}` : `${count}<br>${unlined || "too few for a line"}`;
    if (!drawn) annotations[1].yshift = 0;
    made.about = `Scatter plot of ${outcome.name} against ${name} on a ${log ? "logarithmic" : "linear"}`
      + ` axis. ${drawn ? r : unlined || "Too few for a line"}; ${count}.`;
    made.csv = () => [["model", names], ...settings,
      ...[...outcomes, ...measures].map((one) => [one.name, one.values])].map(
      ([heading, all]) => [heading, places.map((i) => all[i])]);
    return made;
  }

  function leastSquares(x, y) {
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const [mx, my] = [mean(x), mean(y)];
    const product = (a, ma, b, mb) => a.reduce((sum, _, i) => sum + (a[i] - ma) * (b[i] - mb), 0);
    const [xx, xy, yy] = [product(x, mx, x, mx), product(x, mx, y, my), product(y, my, y, my)];
    return { r: xy / Math.sqrt(xx * yy), at: (value) => my + (xy / xx) * (value - mx) };
  }

  function explainColours() {
    const shades = data.models.colours[chosen("colour")];
    const made = shades ? [element("p", shades.name)] : [];
    if (shades?.kinds) {
      const list = element("ul", "", "keys");
      list.append(...shades.kinds.map((kind, code) => {
        const item = element("li", "");
        const mark = element("span", MARKS[code]);
        mark.style.color = `var(--arm-${code})`;
        item.append(mark, kind);
        return item;
      }));
      made.push(list);
    } else if (shades) {
      const list = element("ol", "");
      list.append(...shades.ends.map((words, i) => {
        const item = element("li", words);
        item.style.left = `${100 * i}%`;
        return item;
      }));
      made.push(element("div", "", "bar"), list);
    }
    at("legend").replaceChildren(...made);
  }

  function select(place) {
    selected = place;
    at("model").value = place ?? "";
    at("settings").replaceChildren(...(place === null ? [] : data.models.settings).map(([fact, words]) => {
      const line = document.createElement("div");
      line.append(element("dt", fact), element("dd", words[place] || "\u2014"));
      return line;
    }));
    ring(place);
  }

  // The data behind a figure or a table as CSV; a cell that a spreadsheet would compute is text.

  function download(button) {
    const { name, table } = button.dataset;
    let lines;
    if (table) {
      lines = [...document.querySelector(table).rows].map((row) =>
        [...row.cells].map((cell) => cell.dataset.sort ?? cell.textContent.trim()));
    } else {
      const { csv } = figureOf(button.closest("figure").querySelector(".plot"));
      const columns = typeof csv === "function" ? csv() : resolved(csv);
      lines = [columns.map(([heading]) => heading),
        ...columns[0][1].map((_, i) => columns.map(([, values]) => values[i] ?? ""))];
    }
    const written = (value) => {
      const text = `${value}`;
      const safe = /^'*[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
      return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
    };
    const text = lines.map((line) => `${line.map(written).join(",")}\n`).join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // Tables: sorted by the column whose heading is chosen; unknown values stay at the end.

  function sort(button) {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[heading.cellIndex].dataset.sort;
    const numbers = heading.dataset.kind === "number";
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === "" || right === "") return (left === "") - (right === "");
      const order = numbers ? left - right : left.localeCompare(right, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  }

  // Answers: the questions that the switches choose, some at first and more on request.

  const PAGE = 50;
  let shown = PAGE;
  const lines = (data.answers?.lines ?? []).map(
    ([facts, , form, , fact, type, position, gold, prompt, answers]) =>
      ({ facts, form, fact, type, position, gold, prompt, answers }));

  function element(name, text, ...classes) {
    const made = document.createElement(name);
    made.textContent = text;
    made.classList.add(...classes);
    return made;
  }

  // A cell with what an arm answered and how many of its seeds were right.
  function cell(answer) {
    if (!answer) return element("td", "\u2014", "words");
    const [text, right, seeds] = answer;
    const kind = right === seeds ? "right" : right ? "partly" : "wrong";
    const mark = { right: "\u2713", partly: "\u223c", wrong: "\u2717" }[kind];
    const words = seeds > 1 ? `${right} of ${seeds} right` : kind;
    const made = element("td", "", "words");
    made.append(element("span", text || "(nothing)"), " ", element("b", `${mark} ${words}`, kind));
    return made;
  }

  function listAnswers() {
    const { arms } = data.answers;
    const prompts = lines.some((line) => line.prompt);
    const only = chosen("answer-arm");
    const kept = lines.filter((line) => {
      const own = (only === "" ? line.answers : [line.answers[only]]).filter(Boolean);
      if (line.form !== chosen("answer-form") || `${line.facts}` !== chosen("answer-facts")) return false;
      const rights = own.map(([, right, seeds]) => right === seeds);
      return own.length > 0 && {
        all: true,
        right: rights.every(Boolean),
        wrong: own.every(([, right]) => right === 0),
        differ: unique(rights).length === 2,
      }[chosen("answer-right")];
    });
    const columns = arms.map((name, i) => ({ name, i })).filter(({ i }) =>
      (only === "" ? kept.some((line) => line.answers[i]) : `${i}` === only));
    const head = document.createElement("tr");
    const names = ["fact", "type", ...(prompts ? ["prompt"] : []), "answer", ...columns.map(({ name }) => name)];
    for (const name of names) {
      const made = element("th", name, "plain", "text");
      made.scope = "col";
      head.append(made);
    }
    const table = at("answer-table");
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...kept.slice(0, shown).map((line) => {
      const row = document.createElement("tr");
      const id = element("th", line.fact);
      id.scope = "row";
      id.title = line.fact;
      row.append(id, element("td", `${line.type}, ${line.position}`, "text"),
        ...(prompts ? [element("td", line.prompt, "words")] : []),
        element("td", line.gold, "words"), ...columns.map(({ i }) => cell(line.answers[i])));
      return row;
    }));
    at("answer-more").hidden = kept.length <= shown;
    at("answer-count").textContent =
      `${whole(kept.length)} questions, ${whole(Math.min(shown, kept.length))} shown`;
  }

  const listFrom = (n) => () => {
    shown = n();
    listAnswers();
  };

  drawAll();
  all(".plot[data-lazy]").forEach((plot) => watcher.observe(plot));
  window.addEventListener("beforeprint", () => {
    for (const plot of all(".plot[data-lazy]")) {
      plot.near = true;
      if (plot.stale) draw(plot);
    }
  });
  for (const input of all(".switches :is(input, select):not([id^=answer])")) {
    input.addEventListener("change", drawAll);
  }
  for (const button of all("th button")) button.addEventListener("click", () => sort(button));
  dark.addEventListener("change", drawAll);
  for (const button of all(".download")) button.addEventListener("click", () => download(button));
  at("model")?.addEventListener("change", ({ target }) =>
    select(target.value === "" ? null : Number(target.value)));
  if (at("answer-table")) {
    listAnswers();
    for (const select of all("select[id^=answer]")) {
      select.addEventListener("change", listFrom(() => PAGE));
    }
    at("answer-more").addEventListener("click", listFrom(() => shown + PAGE));
  }
})();
