// The values under a pointer, or at the epoch that the arrow keys choose.
"use strict";
document.documentElement.classList.add("js");
for (const figure of document.querySelectorAll("figure.errors")) {
  const values = JSON.parse(figure.querySelector("script").textContent);
  const tip = figure.querySelector(".tip");

  const swatch = (line) => {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("width", "22");
    svg.setAttribute("height", "8");
    const stroke = document.createElementNS(space, "line");
    for (const [name, value] of Object.entries({
      x1: 0, x2: 22, y1: 4, y2: 4, stroke: `var(--${line.hue})`,
      "stroke-width": 2, "stroke-dasharray": line.dash || "none",
    })) stroke.setAttribute(name, value);
    svg.append(stroke);
    return svg;
  };

  const row = (line, index) => {
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = line.label;
    const error = document.createElement("span");
    error.textContent = line.errors[index];
    const box = document.createElement("div");
    box.append(swatch(line), name, error);
    return box;
  };

  const fill = (index) => {
    const heading = document.createElement("b");
    heading.textContent = `Epoch ${values.epochs[index]}`;
    const there = values.lines.filter((line) => line.errors[index]);
    tip.replaceChildren(heading, ...there.map((line) => row(line, index)));
    tip.hidden = false;
  };

  for (const chart of figure.querySelectorAll("svg.chart")) {
    const cross = chart.querySelector(".cross");
    const left = Number(chart.dataset.left);
    const span = Number(chart.dataset.span);
    let current = values.epochs.length - 1;

    const show = (index) => {
      current = index;
      const x = left + (span * values.epochs[index]) / values.last;
      cross.setAttribute("x1", x);
      cross.setAttribute("x2", x);
      cross.classList.add("on");
      fill(index);
      const drawn = chart.getBoundingClientRect();
      const frame = figure.getBoundingClientRect();
      const scale = drawn.width / chart.viewBox.baseVal.width;
      if (chart.classList.contains("narrow")) {
        // There is no room beside the lines.
        tip.style.left = "0";
        tip.style.top = `${drawn.bottom - frame.top}px`;
        return;
      }
      const place = drawn.left - frame.left + x * scale;
      const fits = place + 14 + tip.offsetWidth <= frame.width;
      const free = fits ? place + 14 : place - 14 - tip.offsetWidth;
      tip.style.left = `${Math.max(0, Math.min(free, frame.width - tip.offsetWidth))}px`;
      tip.style.top = `${drawn.top - frame.top + Number(chart.dataset.top) * scale}px`;
    };
    const hide = () => {
      cross.classList.remove("on");
      tip.hidden = true;
    };
    const follow = (event) => {
      const drawn = chart.getBoundingClientRect();
      const x = ((event.clientX - drawn.left) * chart.viewBox.baseVal.width) / drawn.width;
      const epoch = ((x - left) / span) * values.last;
      const away = values.epochs.map((one) => Math.abs(one - epoch));
      show(away.indexOf(Math.min(...away)));
    };
    chart.addEventListener("pointermove", follow);
    chart.addEventListener("pointerdown", follow);
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("focus", () => show(current));
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (event.key === "Escape") hide();
      if (!(event.key in steps)) return;
      event.preventDefault();
      show(Math.max(0, Math.min(values.epochs.length - 1, current + steps[event.key])));
    });
  }
}
