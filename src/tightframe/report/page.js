"use strict";

// Draws the panels of the chosen view. The data is in the page, as JSON.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const figures = [...document.querySelectorAll("#figures .panel")];
  const courses = [...document.querySelectorAll(".course")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  const css = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function theme() {
    const names = ["card", "ink", "soft", "rule", "grid", "thread", "floor", "sans"];
    return Object.fromEntries(names.map((name) => [name, css(name)]));
  }

  function colourScale() {
    const colours = data.colours[dark.matches ? "dark" : "light"];
    return colours.map((colour, i) => [i / (colours.length - 1), colour]);
  }

  // One line for all runs: null lifts the pen between two of them.
  function threads(x) {
    const places = data.threads.flatMap((run) => [...run, null]);
    const along = (values) => places.map((i) => (i === null ? null : values[i]));
    return { x: along(x), y: along(data.loss) };
  }

  // Bars of 95 % intervals; a null is no bar.
  function bars(reach, colour) {
    return reach && {
      type: "data", symmetric: false, array: reach.above, arrayminus: reach.below,
      color: colour, thickness: 1, width: 0,
    };
  }

  function traces(metric, panel, fit, look) {
    const quiet = { hoverinfo: "skip", showlegend: false };
    const line = (points, colour, width) => ({
      ...quiet, ...points, mode: "lines", line: { color: colour, width },
    });
    const hover = data.hover.map((text, i) => {
      const value = panel.x[i] === null ? "" : panel.x[i].toPrecision(4);
      return `${text}<br>${metric} <b>${value.replace("-", "\u2212")}</b>`;
    });
    return [
      line(threads(panel.x), look.thread, 1),
      line({ x: fit.x ?? [], y: fit.y ?? [] }, look.ink, 1.75),
      {
        x: panel.x, y: data.loss, mode: "markers", showlegend: false,
        hoverinfo: "text", hovertext: hover,
        ...(panel.bars && { error_x: bars(panel.bars, look.soft) }),
        ...(data.lossBars && { error_y: bars(data.lossBars, look.soft) }),
        marker: {
          size: 10, color: data.size, cmin: data.sizeRange[0], cmax: data.sizeRange[1],
          colorscale: colourScale(), line: { color: look.card, width: 1 },
        },
      },
      // The point under the pointer, ringed in every panel.
      {
        ...quiet, x: [], y: [], mode: "markers",
        marker: { size: 17, symbol: "circle-open", color: look.ink, line: { width: 2 } },
      },
    ];
  }

  function note(text, look, place) {
    return {
      text, showarrow: false, xref: "paper", yref: "paper", borderpad: 2,
      font: { family: look.sans, color: look.ink }, ...place,
    };
  }

  function annotations(fit, look) {
    const side = fit.free_corner;
    const corner = { x: side === "left" ? 0.01 : 0.99, xanchor: side, yanchor: "top", align: side };
    return [
      note(fit.headline && `<b>${fit.headline}</b>`, look, {
        ...corner, y: 1, font: { family: look.sans, color: look.ink, size: 17 },
      }),
      note(fit.detail.replaceAll("\n", "<br>"), look, {
        ...corner, y: 1, yshift: fit.headline ? -25 : 0, font: { family: look.sans, color: look.soft, size: 11.5 },
      }),
      ...(data.floors ?? []).map(({ value, label }) => {
        const below = value < data.lossRange[0];
        return note(below ? `\u2193 ${label}` : label, look, {
          x: side === "left" ? 0.99 : 0.01, xanchor: side === "left" ? "right" : "left",
          yref: "y", y: Math.max(value, data.lossRange[0]), yanchor: "bottom",
          font: { family: look.sans, color: look.floor, size: 11.5 },
        });
      }),
    ];
  }

  function layout(shown, fit, look) {
    const axis = {
      gridcolor: look.grid, linecolor: look.rule, tickcolor: look.rule, zeroline: false,
      ticks: "outside", ticklen: 4, automargin: true, nticks: 6,
      tickfont: { color: look.soft, size: 12 }, exponentformat: "power", minexponent: 5,
    };
    const title = (text) => ({ text, standoff: 8, font: { color: look.ink, size: 13 } });
    return {
      font: { family: look.sans, color: look.ink },
      paper_bgcolor: look.card, plot_bgcolor: look.card,
      margin: { l: 52, r: 10, t: 6, b: 50 },
      dragmode: touch.matches ? false : "zoom", hovermode: "closest", hoverdistance: 24,
      hoverlabel: {
        align: "left", bgcolor: look.card, bordercolor: look.soft,
        font: { family: look.sans, color: look.ink, size: 12.5 },
      },
      xaxis: {
        ...axis, type: fit.log ? "log" : "linear",
        ...(!fit.log && shown.top && { autorangeoptions: { clipmax: shown.top } }),
        title: title(`${shown.metric}<br>(${shown.arrow})`),
        ...(fit.ticks && { tickvals: fit.ticks, ticktext: fit.ticks.map((tick) => `${tick}`) }),
      },
      yaxis: { ...axis, range: data.lossRange, title: title("validation loss, nats per token") },
      shapes: (data.floors ?? []).map(({ value }) => ({
        type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, layer: "below",
        line: { color: look.floor, width: 1.25, dash: "6px,4px" },
      })),
      annotations: annotations(fit, look),
    };
  }

  // The colour of a size (log10 of the parameters) on the scale of the legend.
  function colourOf(size) {
    const [low, high] = data.sizeRange;
    const colours = data.colours[dark.matches ? "dark" : "light"];
    const place = ((size - low) / (high - low)) * (colours.length - 1);
    const below = Math.min(Math.max(Math.floor(place), 0), colours.length - 2);
    const part = (colour, i) => parseInt(colour.slice(2 * i + 1, 2 * i + 3), 16);
    const mixed = [0, 1, 2].map((i) => {
      const [from, to] = [part(colours[below], i), part(colours[below + 1], i)];
      return Math.round(from + (place - below) * (to - from));
    });
    return `rgb(${mixed.join(", ")})`;
  }

  function drawCourse(figure, look) {
    const metric = figure.dataset.metric;
    const drawn = data.courses[figure.dataset.course][metric];
    const wanted = chosen("axes") === "log";
    const log = wanted && drawn.decades;
    const traces = drawn.lines.map(({ run, size, x, y, low, high }) => {
      const kept = x.map((_, i) => i).filter((i) => !log || x[i] > 0);
      const bounded = kept.some((i) => low[i] !== null);
      const reach = {
        above: kept.map((i) => (high[i] === null ? null : high[i] - y[i])),
        below: kept.map((i) => (low[i] === null ? null : y[i] - low[i])),
      };
      return {
        ...(bounded && { error_y: bars(reach, colourOf(size)) }),
        x: kept.map((i) => x[i]), y: kept.map((i) => y[i]), mode: "lines+markers",
        showlegend: false, hoverinfo: "text",
        hovertext: kept.map((i) => {
          const value = y[i].toPrecision(4).replace("-", "\u2212");
          return `<b>${run}</b><br>step ${x[i].toLocaleString("en")}<br>${metric} <b>${value}</b>`;
        }),
        line: { color: colourOf(size), width: 1.75 }, marker: { size: 5, color: colourOf(size) },
      };
    });
    const fit = { log, free_corner: "left", headline: "", detail: "" };
    const { shapes, annotations, ...frame } = layout({ metric, arrow: "" }, fit, look);
    const title = (text) => ({ text, standoff: 8, font: { color: look.ink, size: 12.5 } });
    const { range, ...upright } = frame.yaxis;
    frame.xaxis.title = title("step");
    frame.yaxis = {
      ...upright, title: title(`${metric}<br>(${drawn.arrow})`),
      ...(!(wanted && drawn.positive) && drawn.top && { autorangeoptions: { clipmax: drawn.top } }),
    };
    const named = (ticks) => ({ tickvals: ticks, ticktext: ticks.map((tick) => `${tick}`) });
    if (log) Object.assign(frame.xaxis, named(drawn.stepTicks));
    if (wanted && drawn.positive) Object.assign(frame.yaxis, { type: "log", ...named(drawn.valueTicks) });
    const plot = figure.querySelector(".plot");
    plot.setAttribute(
      "aria-label",
      `Lines of ${metric} against the step on a ${log ? "logarithmic" : "linear"} axis, one a run. ` +
        `The values are in tables/${figure.dataset.course === "steps" ? "runs" : "training"}.csv.`,
    );
    window.Plotly.react(plot, traces, frame, { displayModeBar: false, responsive: true });
  }

  function draw() {
    const view = chosen("view");
    const look = theme();
    document.body.dataset.view = view;
    const bar = document.querySelector(".legend .bar");
    const colours = colourScale().map((c) => c[1]);
    if (bar) bar.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    for (const figure of courses) {
      // A hidden one has no size to be drawn at.
      if (figure.closest("[data-views]").dataset.views === view) drawCourse(figure, look);
    }
    if (figures.length) drawPoints(view, look);
  }

  function drawPoints(view, look) {
    const scale = chosen("scale");
    figures.forEach((figure, i) => {
      const shown = data.views[view][i];
      const plot = figure.querySelector(".plot");
      const panel = data.panels[shown.metric];
      figure.querySelector(".family").textContent = shown.family;
      figure.querySelector(".title").textContent = shown.title;
      const fit = panel?.[scale] ?? {
        log: false, headline: "not shown", detail: shown.missing,
        free_corner: "left", x: null, y: null,
      };
      const points = panel ?? { x: data.loss.map(() => null) };
      const axis = fit.log ? "logarithmic" : "linear";
      plot.setAttribute(
        "aria-label",
        `Scatter plot of validation loss against ${shown.metric} on a ${axis} axis. ` +
          `${fit.headline}, ${fit.detail}. The values are in the table of runs.`,
      );
      window.Plotly.react(
        plot, traces(shown.metric, points, fit, look), layout(shown, fit, look),
        { displayModeBar: false, responsive: true },
      );
    });
  }

  function ring(place) {
    const view = data.views[chosen("view")];
    figures.forEach((figure, i) => {
      const x = place === null ? null : data.panels[view[i].metric]?.x[place];
      const at = x === null || x === undefined ? [[], []] : [[x], [data.loss[place]]];
      window.Plotly.restyle(figure.querySelector(".plot"), { x: [at[0]], y: [at[1]] }, [3]);
    });
  }

  draw();
  for (const input of document.querySelectorAll(".switches input")) {
    input.addEventListener("change", draw);
  }
  dark.addEventListener("change", draw);
  for (const figure of figures) {
    const plot = figure.querySelector(".plot");
    plot.on("plotly_hover", (event) => ring(event.points[0].pointNumber));
    plot.on("plotly_unhover", () => ring(null));
  }
})();
