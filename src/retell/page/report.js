"use strict";
// Draws the charts of a page: `figures` are Plotly's, with the names of the style sheet's colours, so that they follow
// the theme of whoever reads it, and paper.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const root = document.documentElement;
  const coarse = matchMedia("(pointer: coarse)").matches;
  const narrow = 600, line = 18; // pixels: below the one, a legend has a line of the other's height for each name
  const sheet = 680, gap = 16; // pixels of a printed page between its margins, and between charts

  function colour(name) {
    const [plain, alpha] = name.slice(1).split("/");
    const found = getComputedStyle(root).getPropertyValue(`--${plain}`).trim();
    if (alpha === undefined) return found;
    const [r, g, b] = [1, 3, 5].map(at => parseInt(found.slice(at, at + 2), 16));
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  }

  // A copy, for Plotly writes into what it is given; with colours for their names.
  function coloured(value, key) {
    if (Array.isArray(value)) return value.map(one => coloured(one, key));
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, coloured(one, name)]));
    }
    return typeof value === "string" && /color$/.test(key) && value.startsWith("@") ? colour(value) : value;
  }

  function axis(given) {
    return {
      gridcolor: colour("@line"), linecolor: colour("@line"), zerolinecolor: colour("@line"), automargin: true, ...given,
      title: {...given.title, font: {size: 12.5, color: colour("@soft")}, standoff: 8},
    };
  }

  function layout(given) {
    const ink = colour("@ink");
    return {
      ...given,
      margin: {l: 8, r: 12, t: 8, b: 8},
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: getComputedStyle(document.body).fontFamily, size: 12.5, color: ink},
      hoverlabel: {bgcolor: colour("@raised"), bordercolor: colour("@line"), font: {color: ink}, namelength: -1},
      legend: {
        orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", itemsizing: "constant", traceorder: "normal",
      },
      modebar: {bgcolor: "rgba(0,0,0,0)", color: colour("@soft"), activecolor: ink},
      xaxis: axis(given.xaxis),
      yaxis: axis(given.yaxis),
      dragmode: coarse ? false : "zoom", // a finger that drags scrolls the page; the buttons zoom
    };
  }

  const config = {
    displaylogo: false,
    responsive: true,
    displayModeBar: coarse ? true : "hover",
    modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  };

  // `width` says how wide a plot will be; by itself it is as wide as its place.
  function draw(plot, width) {
    const {data, layout: given} = coloured(figures[Number(plot.dataset.figure)], "");
    const names = data.filter(one => one.showlegend !== false).length;
    const height = given.height + (names > 2 && (width ?? plot.clientWidth) < narrow ? line * names : 0);
    plot.style.height = `${height}px`;
    const sized = width === undefined ? {autosize: true} : {width, autosize: false};
    return Plotly.react(plot, data, {...layout(given), ...sized, height}, config);
  }

  // One after the other, so that the page can be read and scrolled meanwhile.
  async function open() {
    for (const plot of plots) {
      await draw(plot);
      await new Promise(done => { setTimeout(done); });
    }
    root.dataset.drawn = "";
  }

  open();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(plot => draw(plot)));
  addEventListener("beforeprint", () => {
    root.dataset.printing = "";
    for (const plot of plots) {
      const columns = Math.min(3, plot.closest(".charts").children.length);
      draw(plot, Math.floor((sheet - gap * (columns - 1)) / columns));
    }
  });
  addEventListener("afterprint", () => {
    delete root.dataset.printing;
    plots.forEach(plot => draw(plot));
  });
})();
