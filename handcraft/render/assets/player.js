"use strict";
// Plays the page's clips on canvases. Each <figure class="player" data-clip="N"> becomes one; figures with the same
// data-sync share a clock. A clock counts frames of its longest clip, and shorter ones are stretched to it.
(() => {
  const DEFAULT_FPS = 25;
  const SPEEDS = [[0.25, "¼×"], [0.5, "½×"], [1, "1×"], [2, "2×"]];
  const ICONS = { play: "M4 2.5v11l9.5-5.5z", pause: "M3.5 2.5h3v11h-3zm6 0h3v11h-3z" };
  const data = JSON.parse(document.getElementById("handcraft-clips").textContent);
  const clocks = new WeakMap(); // figure or controls -> their clock
  const players = new WeakMap(); // canvas -> its player
  const playing = new Set();

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function icon(name) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const path = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", ICONS[name]);
    svg.append(path);
    return svg;
  }

  // A frame's parts as one list of x, y; NaN for what is missing.
  function flatten(frame, sizes) {
    return frame.flatMap((part, at) => (part ?? Array(2 * sizes[at]).fill(null)).map((value) => value ?? NaN));
  }

  // A row for each part: when in the clip it was detected, and in what share of the frames.
  function strips(clip, layout) {
    const rows = layout.names.flatMap((name, part) => {
      const seen = clip.frames.map((frame) => frame[part] !== null);
      const stops = [];
      for (let start = 0, end = 1; end <= seen.length; end += 1) {
        if (end < seen.length && seen[end] === seen[start]) continue;
        const [from, to] = [start, end].map((frame) => `${(100 * frame) / seen.length}%`);
        stops.push(`${seen[start] ? "currentColor" : "transparent"} ${from} ${to}`);
        start = end;
      }
      const words = name.replaceAll("_", " ");
      const share = `${Math.round((100 * seen.filter(Boolean).length) / seen.length)}%`;
      const bar = element("span", { className: `bar ${name}`, title: `${words} detected in ${share} of the frames` });
      bar.style.backgroundImage = `linear-gradient(90deg, ${stops.join(", ")})`;
      return [element("span", { textContent: words }), bar, element("span", { textContent: share })];
    });
    return element("div", { className: "strips" }, ...rows);
  }

  class Clock {
    constructor() {
      this.players = [];
      this.bars = [];
      this.time = 0; // in frames of the longest clip
      this.speed = 1;
      this.last = null;
    }
    get frames() { return Math.max(...this.players.map((player) => player.clip.frames.length)); }
    get fps() {
      return this.players.find((player) => player.clip.frames.length === this.frames).clip.fps ?? DEFAULT_FPS;
    }
    get frame() { return Math.min(Math.floor(this.time), this.frames - 1); }
    get running() { return playing.has(this); }

    seek(frame) {
      this.time = Math.max(0, Math.min(this.frames - 1, frame));
      this.show();
    }
    step(by) {
      this.pause();
      this.seek(this.frame + by);
    }
    play() {
      this.last = null;
      playing.add(this);
      if (playing.size === 1) requestAnimationFrame(tick);
      this.bars.forEach((bar) => bar.show());
    }
    pause() {
      playing.delete(this);
      this.bars.forEach((bar) => bar.show());
    }
    toggle() { this.running ? this.pause() : this.play(); }
    advance(now) {
      const before = this.frame;
      if (this.last !== null) this.time += ((now - this.last) / 1000) * this.fps * this.speed;
      this.last = now;
      this.time %= this.frames;
      if (this.frame !== before) this.show();
    }
    show() {
      this.players.forEach((player) => player.draw());
      this.bars.forEach((bar) => bar.show());
    }
  }

  function tick(now) {
    playing.forEach((clock) => clock.advance(now));
    if (playing.size) requestAnimationFrame(tick);
  }

  class Player {
    constructor(figure, clock) {
      this.figure = figure;
      this.clock = clock;
      this.clip = data.clips[Number(figure.dataset.clip)];
      this.layout = data.layouts[this.clip.layout];
      this.canvas = element("canvas", { tabIndex: 0 });
      this.canvas.setAttribute("role", "img");
      this.canvas.setAttribute("aria-label", `Sign clip ${this.clip.title}: space plays, arrow keys step`);
      this.canvas.addEventListener("click", () => clock.toggle());
      this.visible = false;
      figure.addEventListener("keydown", keys);
      const caption = element("figcaption", {}, element("b", { textContent: this.clip.title }));
      if (this.clip.note) caption.append(element("span", { textContent: this.clip.note }));
      const shown = "strips" in figure.dataset ? [this.canvas, strips(this.clip, this.layout)] : [this.canvas];
      figure.replaceChildren(...shown, ...(this.clip.title || this.clip.note ? [caption] : []));
      players.set(this.canvas, this);
      sizes.observe(this.canvas);
      sights.observe(this.canvas);
    }
    setBox(box) {
      this.box = box;
      this.canvas.style.setProperty("--ratio", (box[2] - box[0]) / (box[3] - box[1]));
    }
    show(visible) {
      this.visible = visible;
      this.draw();
    }
    get frame() {
      const own = this.clip.frames.length;
      const longest = this.clock.frames;
      return longest > 1 ? Math.round((this.clock.frame * (own - 1)) / (longest - 1)) : 0;
    }
    draw() {
      this.figure.dataset.frame = this.frame;
      if (!this.visible) {
        this.canvas.width = 0; // gives its memory back: a page may hold a thousand clips
        return;
      }
      const ratio = window.devicePixelRatio || 1;
      const width = (this.canvas.width = Math.round(this.canvas.clientWidth * ratio));
      const height = (this.canvas.height = Math.round(this.canvas.clientHeight * ratio));
      const [left, top, right, bottom] = this.box;
      const scale = Math.min(width / (right - left), height / (bottom - top));
      const [x0, y0] = [width / 2 - (scale * (left + right)) / 2, height / 2 - (scale * (top + bottom)) / 2];
      const pen = this.canvas.getContext("2d");
      const colours = getComputedStyle(this.figure);
      const points = flatten(this.clip.frames[this.frame], this.layout.parts);
      pen.lineCap = pen.lineJoin = "round";
      for (const line of this.layout.lines) {
        pen.strokeStyle = colours.getPropertyValue(`--${line.side}`);
        pen.lineWidth = Math.max(ratio, line.width * this.layout.steps * scale);
        pen.beginPath();
        let joined = false;
        for (const at of line.points) {
          const x = x0 + points[2 * at] * scale;
          const y = y0 + points[2 * at + 1] * scale;
          if (Number.isNaN(x)) joined = false;
          else if (joined) pen.lineTo(x + 0.01, y); // a canvas drops a line of no length, and that would be a dot
          else { pen.moveTo(x, y); joined = true; }
        }
        pen.stroke();
      }
    }
  }

  class Bar {
    constructor(clock) {
      this.clock = clock;
      this.button = element("button", { type: "button" });
      this.button.addEventListener("click", () => clock.toggle());
      this.slider = element("input", { type: "range", min: 0, max: clock.frames - 1, value: 0 });
      this.slider.setAttribute("aria-label", "Frame");
      this.slider.addEventListener("input", () => {
        clock.seek(Number(this.slider.value)); // before pause, which shows the clock's frame on the slider
        clock.pause();
      });
      this.count = element("output");
      const options = SPEEDS.map(([value, textContent]) => element("option", { value, textContent }));
      this.speed = element("select", { title: "Speed" }, ...options);
      this.speed.setAttribute("aria-label", "Speed");
      this.speed.value = 1;
      this.speed.addEventListener("change", () => { clock.speed = Number(this.speed.value); });
      this.node = element("div", { className: "controls" }, this.button, this.slider, this.count, this.speed);
      this.node.addEventListener("keydown", keys);
      clocks.set(this.node, clock);
    }
    show() {
      const name = this.clock.running ? "pause" : "play";
      if (this.button.dataset.icon !== name) {
        this.button.dataset.icon = name;
        this.button.replaceChildren(icon(name));
        this.button.setAttribute("aria-label", name === "play" ? "Play" : "Pause");
      }
      const text = `${this.clock.frame + 1} / ${this.clock.frames}`;
      this.slider.value = this.clock.frame;
      this.slider.setAttribute("aria-valuetext", `frame ${text}`);
      this.count.textContent = text;
      this.count.style.minWidth = `${2 * String(this.clock.frames).length + 3}ch`;
    }
  }

  // Keys of a figure or of its controls. The slider steps by itself, and a button or list keeps its own space bar.
  function keys(event) {
    const clock = clocks.get(event.currentTarget);
    const own = event.target.tagName;
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -clock.frames, End: clock.frames };
    if (event.key === " " && own !== "BUTTON" && own !== "SELECT") clock.toggle();
    else if (event.key in steps && own !== "INPUT" && own !== "SELECT") clock.step(steps[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => players.get(target).draw()));
  const sights = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) players.get(target).show(isIntersecting);
  }, { rootMargin: "50%" });

  // Turn figures into players of one clock, with one bar of controls if they lie in one .players, else one each.
  function mountGroup(figures) {
    figures.forEach((figure) => clocks.get(figure)?.pause());
    const clock = new Clock();
    clock.players = figures.map((figure) => {
      clocks.set(figure, clock);
      return new Player(figure, clock);
    });
    const boxes = clock.players.map((player) => player.clip.box);
    const box = [0, 1, 2, 3].map((side) => Math[side < 2 ? "min" : "max"](...boxes.map((other) => other[side])));
    clock.players.forEach((player) => player.setBox(box));
    const parent = figures[0].parentElement;
    if (parent.matches(".players") && figures.length > 1 && figures.every((figure) => figure.parentElement === parent)) {
      clock.bars = [new Bar(clock)];
      figures[figures.length - 1].after(clock.bars[0].node);
    } else {
      clock.bars = figures.map((figure) => {
        const bar = new Bar(clock);
        figure.append(bar.node);
        return bar;
      });
    }
    clock.seek(Math.floor(clock.frames / 2)); // the middle of a sign says more than its first frame
  }

  const groups = new Map();
  for (const figure of document.querySelectorAll("figure.player[data-clip]")) {
    const name = figure.dataset.sync ?? figure;
    groups.set(name, [...(groups.get(name) ?? []), figure]);
  }
  groups.forEach(mountGroup);
  function all(action) {
    document.querySelectorAll(".player canvas").forEach((canvas) => action(players.get(canvas)));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all((player) => player.draw()));
  window.addEventListener("beforeprint", () => all((player) => player.show(true)));
  window.handcraft = { clips: data.clips, mount: (figure) => mountGroup([figure]), clock: (figure) => clocks.get(figure) };
})();
