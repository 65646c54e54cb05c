"use strict";
// Points in a brain: drag or arrow keys turn, wheel or buttons zoom, the legend shows and hides.
(function () {
  const INK = "#1c2733", SOFT = "#8a97a3", WASH = "#f1f4f6", LEVELS = 12;
  const VIEWS = { start: [35, 25], above: [0, 90], left: [90, 0], behind: [0, 0] };
  const rad = Math.PI / 180;

  function mix(colour, share) { // towards white
    const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return "rgb(" + parts.map((p) => Math.round(p + share * (255 - p))).join(",") + ")";
  }

  function hull(points) { // Andrew's monotone chain
    const sorted = points.slice().sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const left = (a, b, p) => (b[0] - a[0]) * (p[1] - a[1]) > (b[1] - a[1]) * (p[0] - a[0]);
    const half = (list) => {
      const out = [];
      for (const p of list) {
        while (out.length > 1 && !left(...out.slice(-2), p)) out.pop();
        out.push(p);
      }
      return out.slice(0, -1);
    };
    return half(sorted).concat(half(sorted.reverse()));
  }

  function start(figure) {
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const canvas = figure.querySelector("canvas");
    const pen = canvas.getContext("2d");
    if (!pen) return; // the still picture stays
    const shades = data.classes.map((each) =>
      Array.from({ length: LEVELS }, (_, i) => mix(each.colour, 0.55 * i / (LEVELS - 1))));
    const shown = data.classes.map(() => true);
    let [turn, tilt] = VIEWS.start, zoom = 1, waiting = false, points = [], held = null;

    function collect() { // several classes at one place: discs in each other, the last the smallest
      const at = new Map();
      data.classes.forEach((each, which) => {
        for (let i = 0; shown[which] && i < each.xyz.length; i += 3) {
          const key = each.xyz.slice(i, i + 3).join();
          if (!at.has(key)) at.set(key, []);
          at.get(key).push({ x: each.xyz[i], y: each.xyz[i + 1], z: each.xyz[i + 2], which });
        }
      });
      points = [];
      for (const group of at.values()) {
        group.forEach((point, i) => { point.share = (group.length - i) / group.length; });
        points.push(...group);
      }
    }

    function project(x, y, z) { // mm -> [right, up, away from the viewer], about the centre
      const [a, b, c] = [x - data.centre[0], y - data.centre[1], z - data.centre[2]];
      const right = a * Math.cos(turn * rad) - b * Math.sin(turn * rad);
      const away = a * Math.sin(turn * rad) + b * Math.cos(turn * rad);
      return [right, c * Math.cos(tilt * rad) + away * Math.sin(tilt * rad),
        away * Math.cos(tilt * rad) - c * Math.sin(tilt * rad)];
    }

    function draw() {
      waiting = false;
      const sharp = window.devicePixelRatio || 1;
      const width = canvas.clientWidth, height = canvas.clientHeight;
      if (!width || !height) return;
      canvas.width = Math.round(width * sharp);
      canvas.height = Math.round(height * sharp);
      const scale = zoom * Math.min(width, height) / (2 * data.radius + 20);
      const place = (p) => [width / 2 + scale * p[0], height / 2 - scale * p[1], p[2]];
      pen.setTransform(sharp, 0, 0, sharp, 0, 0);
      drawOutline(place);
      drawAxes(place, false);
      drawPoints(place, scale);
      drawAxes(place, true);
    }

    function drawOutline(place) {
      const flat = [];
      for (let i = 0; i < data.outline.length; i += 3) {
        flat.push(place(project(data.outline[i], data.outline[i + 1], data.outline[i + 2])));
      }
      pen.beginPath();
      hull(flat).forEach((p, i) => (i ? pen.lineTo(p[0], p[1]) : pen.moveTo(p[0], p[1])));
      pen.closePath();
      pen.fillStyle = WASH;
      pen.fill();
      for (const [right, down, away] of flat) { // the near side is darker
        pen.fillStyle = away > 0 ? "#d3dae0" : "#aeb9c3";
        pen.fillRect(right - 0.8, down - 0.8, 1.6, 1.6);
      }
    }

    function line(from, to) {
      Object.assign(pen, { strokeStyle: SOFT, lineWidth: 1 });
      pen.beginPath();
      pen.moveTo(from[0], from[1]);
      pen.lineTo(to[0], to[1]);
      pen.stroke();
    }

    function drawAxes(place, front) { // a letter nearer than the centre stands over the points
      const [x, y, z] = data.centre, [dx, dy, dz] = data.reach, middle = place([0, 0, 0]);
      const ends = { L: [x - dx, y, z], R: [x + dx, y, z], P: [x, y - dy, z], A: [x, y + dy, z],
        I: [x, y, z - dz], S: [x, y, z + dz] };
      pen.font = "600 13px system-ui, sans-serif";
      [pen.textAlign, pen.textBaseline, pen.lineJoin] = ["center", "middle", "round"];
      for (const letter of Object.keys(ends)) {
        const end = place(project(...ends[letter]));
        const length = Math.hypot(end[0] - middle[0], end[1] - middle[1]);
        if (length < 14) continue; // looks along this axis
        if (!front) line(middle, end);
        if ((end[2] < 0) !== front) continue;
        const at = [0, 1].map((k) => middle[k] + (1 + 11 / length) * (end[k] - middle[k]));
        Object.assign(pen, { strokeStyle: "#fff", lineWidth: 4, fillStyle: INK });
        pen.strokeText(letter, at[0], at[1]);
        pen.fillText(letter, at[0], at[1]);
      }
    }

    function drawPoints(place, scale) {
      const seen = points.map((p) => ({ p, at: place(project(p.x, p.y, p.z)) }));
      seen.sort((one, other) => other.at[2] - one.at[2]); // stable: discs of one place keep order
      const radius = Math.max(1.5, data.size * scale);
      Object.assign(pen, { strokeStyle: "rgba(255,255,255,.75)", lineWidth: 0.8 });
      for (const { p, at } of seen) {
        const depth = Math.min(1, Math.max(0, 0.5 + at[2] / (2 * data.radius)));
        pen.fillStyle = shades[p.which][Math.round(depth * (LEVELS - 1))];
        pen.beginPath();
        pen.arc(at[0], at[1], radius * p.share, 0, 2 * Math.PI);
        pen.fill();
        if (p.share === 1 && radius > 2) pen.stroke();
      }
    }

    function later() {
      waiting = waiting || Boolean(window.requestAnimationFrame(draw));
    }
    function look(toTurn, toTilt, toZoom) {
      turn = toTurn % 360;
      tilt = Math.max(-90, Math.min(90, toTilt));
      zoom = Math.max(0.5, Math.min(8, toZoom));
      later();
    }
    const move = (byTurn, byTilt) => look(turn + byTurn, tilt + byTilt, zoom);
    const enlarge = (factor) => look(turn, tilt, zoom * factor);

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      move(0.45 * (event.clientX - held[0]), 0.45 * (event.clientY - held[1]));
      held = [event.clientX, event.clientY];
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { held = null; });
    }
    canvas.addEventListener("wheel", (event) => { // only after a click: the page must scroll
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      enlarge(Math.exp(-0.0015 * event.deltaY));
    }, { passive: false });
    const keys = {
      ArrowLeft: () => move(-6, 0), ArrowRight: () => move(6, 0), ArrowUp: () => move(0, -6),
      ArrowDown: () => move(0, 6), "+": () => enlarge(1.2), "=": () => enlarge(1.2),
      "-": () => enlarge(1 / 1.2), Home: () => look(...VIEWS.start, 1),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    figure.querySelectorAll("button[data-class]").forEach((button, which) => button.addEventListener("click", () => {
      shown[which] = !shown[which];
      button.setAttribute("aria-pressed", String(shown[which]));
      button.style.opacity = shown[which] ? "" : "0.45";
      collect();
      later();
    }));
    for (const button of figure.querySelectorAll("button")) {
      const { zoom: factor, view } = button.dataset;
      if (factor) button.addEventListener("click", () => enlarge(Number(factor)));
      if (view) button.addEventListener("click", () => look(...VIEWS[view], 1));
      button.disabled = false;
    }
    for (const part of figure.querySelectorAll("[data-live]")) part.hidden = false;
    for (const part of figure.querySelectorAll("[data-still]")) part.hidden = true;
    if (window.ResizeObserver) new ResizeObserver(later).observe(canvas);
    else window.addEventListener("resize", later);
    canvas.style.cursor = "grab";
    collect();
    draw();
  }

  document.querySelectorAll("figure[data-scatter3d]").forEach(start);
})();
