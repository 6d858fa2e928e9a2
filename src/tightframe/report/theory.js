"use strict";

// Draws what a text predicts: courses of models, heat maps, spectra. Words are escaped in the data.
(() => {
  const theories = JSON.parse(document.getElementById("theories").textContent);
  const { axis, config, css, dark, layout, look, number } = plots;
  const LOOKS = {
    measured: { dash: "solid", width: 1.75, opacity: 1, symbol: "circle" },
    second: { dash: "6px,4px", width: 1.5, opacity: 1, symbol: "square-open" },
    third: { dash: "8px,3px,2px,3px", width: 1.5, opacity: 1, symbol: "diamond-open" },
    predicted: { dash: "2px,3px", width: 2.25, opacity: 1, symbol: "cross" },
    baseline: { dash: "6px,4px", width: 1, opacity: 0.55, symbol: "x" },
  };

  const colour = (place) => css(`model-${place % 4}`);

  function drawCourse(plot, course) {
    const own = look();
    // Steps are on a logarithmic axis; 0 (before training, or a model from elsewhere) stands left of it.
    const steps = course.lines.flatMap((line) => line.x);
    const positive = steps.filter((step) => step > 0);
    const first = positive.length ? Math.min(...positive) : 1;
    const zero = first / 4;
    const decades = positive.length
      ? Array.from({ length: 12 }, (_, i) => 10 ** i).filter((d) => d >= first && d <= Math.max(...steps))
      : [];
    const ticks = [...(steps.includes(0) ? [zero] : []), ...(decades.length ? decades : positive.slice(0, 1))];
    const traces = course.lines.map((line) => {
      const kept = line.x.map((_, i) => i);
      const style = LOOKS[line.look];
      return {
        x: kept.map((i) => line.x[i] || zero), y: line.y,
        // A single checkpoint has no line: its points differ by their shapes.
        mode: line.look === "measured" || kept.length === 1 ? "lines+markers" : "lines",
        showlegend: false,
        opacity: style.opacity, hoverinfo: "text",
        hovertext: kept.map((i) =>
          `<b>${line.model}</b>, ${line.label}${line.look === "predicted" ? ", predicted" : ""}` +
          `<br>step ${line.x[i].toLocaleString("en")}: <b>${number(line.y[i])}</b>`),
        line: { color: colour(line.place), width: style.width, dash: style.dash },
        marker: {
          size: kept.length === 1 ? 9 : 5, color: colour(line.place),
          symbol: kept.length === 1 ? style.symbol : "circle",
        },
      };
    });
    window.Plotly.react(
      plot,
      traces,
      layout(own, {
        xaxis: {
          ...axis(own, "step"), type: "log", tickvals: ticks,
          ticktext: ticks.map((tick) => (tick === zero ? "0" : tick.toLocaleString("en"))),
        },
        yaxis: {
          ...axis(own, course.axis),
          ...(course.ticks.length && {
            type: "log", tickvals: course.ticks, ticktext: course.ticks.map((tick) => `${Number(tick.toPrecision(4))}`),
          }),
        },
      }),
      config,
    );
  }

  function matrix(text, columns) {
    const bytes = Int8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Array.from({ length: bytes.length / columns }, (_, row) =>
      Array.from(bytes.subarray(row * columns, (row + 1) * columns), (value) => value / 127));
  }

  function drawMap(plot, maps, column, kind) {
    const own = look();
    const down = kind === "contexts" ? maps.contexts : maps.words;
    const across = kind === "words" ? maps.words : maps.contexts;
    const z = matrix(column[kind], across.length);
    const ends = dark.matches ? ["#4d9de0", "#14161b", "#ff7a45"] : ["#2166ac", "#f7f7f7", "#b2182b"];
    window.Plotly.react(
      plot,
      [{
        type: "heatmap", z, zmin: -1, zmax: 1, showscale: false, xgap: 0, ygap: 0,
        colorscale: [[0, ends[0]], [0.5, ends[1]], [1, ends[2]]],
        hoverinfo: "text",
        hovertext: z.map((row, i) =>
          row.map((value, j) => `${down[i]}<br>${across[j]}<br><b>${number(value)}</b>`)),
      }],
      layout(own, {
        margin: { l: 4, r: 4, t: 4, b: 4 }, dragmode: false,
        xaxis: { visible: false, fixedrange: true },
        yaxis: {
          visible: false, fixedrange: true, autorange: "reversed",
          ...(kind !== "logits" && { scaleanchor: "x", constrain: "domain" }),
        },
      }),
      config,
    );
  }

  function drawSpectrum(plot, spectra) {
    const own = look();
    window.Plotly.react(
      plot,
      spectra.map((one, place) => ({
        x: one.y.map((_, i) => i + 1), y: one.y.map((value) => value / one.y[0]),
        name: one.label, mode: "lines+markers", hoverinfo: "text",
        hovertext: one.y.map((value, i) => `${one.label}<br>number ${i + 1}: <b>${number(value)}</b>`),
        line: { color: colour(place), width: 1.5, dash: place ? "6px,4px" : "solid" },
        marker: { size: 4, color: colour(place) },
      })),
      layout(own, {
        showlegend: true, legend: { x: 1, xanchor: "right", y: 1, bgcolor: "rgba(0,0,0,0)" },
        xaxis: axis(own, "number"),
        yaxis: { ...axis(own, "singular value over the largest"), rangemode: "tozero" },
      }),
      config,
    );
  }

  function drawAll() {
    for (const section of document.querySelectorAll("[data-theory]")) {
      const theory = theories[section.dataset.theory];
      section.querySelectorAll(".theory-course").forEach((figure) =>
        drawCourse(figure.querySelector(".plot"), theory.courses[figure.dataset.place]));
      section.querySelectorAll(".map").forEach((figure) => drawMap(
        figure.querySelector(".plot"), theory.maps,
        theory.maps.columns[figure.dataset.column], figure.dataset.kind,
      ));
      section.querySelectorAll(".theory-spectrum").forEach((plot) =>
        drawSpectrum(plot, theory.spectra));
    }
  }

  drawAll();
  dark.addEventListener("change", drawAll);
})();
