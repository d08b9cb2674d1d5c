// Lays the layers of an image over each other. It takes the pictures from the page (#shots) and the numbers from
// #viewer-data, and keeps nothing: it must work from a file, and in a frame without storage or network.
"use strict";
(() => {
  const root = document.getElementById("viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const VOID = 255;
  const all = (selector, inside = root) => [...inside.querySelectorAll(selector)];
  const one = (selector, inside = root) => inside.querySelector(selector);
  const canvas = one("canvas");
  const pen = canvas.getContext("2d");
  const classOfColour = new Map(data.classes.map(({ rgb }, k) => [(rgb[0] << 16) | (rgb[1] << 8) | rgb[2], k]));
  const hasTruth = data.has_truth;

  const state = {
    listed: data.images.map((_, i) => i), // numbers of the images that pass the filters, sorted
    chosen: 0,
    layer: "predicted",
    opacity: 0.6,
    left: 0,
    right: data.runs.length > 1 ? 1 : 0,
    swipe: 0.5,
    on: data.classes.map(() => true),
    point: null, // [x, y] in pixels of the image
  };
  let shown = null; // the decoded layers of the chosen image

  // ---- decoding

  const decoded = new Map(); // image number -> promise of its layers

  function layersOf(number) {
    if (!decoded.has(number)) decoded.set(number, decode(number));
    return decoded.get(number);
  }

  async function decode(number) {
    const figure = one(`[data-shot="${number}"]`, document);
    const load = async (image) => {
      const copy = new Image();
      copy.src = image.src;
      await copy.decode();
      return copy;
    };
    const photograph = await load(one("[data-layer=photograph]", figure));
    const size = [photograph.naturalWidth, photograph.naturalHeight];
    const truth = one("[data-layer=truth]", figure);
    const maps = async (layer, read) =>
      Promise.all(all(`[data-layer=${layer}]`, figure).map(async (image) => read(pixels(await load(image), size, false))));
    return {
      width: size[0],
      height: size[1],
      rgba: pixels(photograph, size, true),
      truth: truth ? ids(pixels(await load(truth), size, false)) : null,
      predicted: await maps("predicted", ids),
      confidence: await maps("confidence", (rgba) => rgba.filter((_, at) => at % 4 === 0)),
    };
  }

  function pixels(image, [width, height], isSmooth) {
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [width, height];
    const brush = sheet.getContext("2d", { willReadFrequently: true });
    brush.imageSmoothingEnabled = isSmooth;
    brush.drawImage(image, 0, 0, width, height);
    return brush.getImageData(0, 0, width, height).data;
  }

  function ids(rgba) {
    const found = new Uint8Array(rgba.length / 4);
    for (let p = 0; p < found.length; p++) {
      const at = 4 * p;
      const colour = (rgba[at] << 16) | (rgba[at + 1] << 8) | rgba[at + 2];
      found[p] = rgba[at + 3] < 128 ? VOID : classOfColour.get(colour) ?? VOID;
    }
    return found;
  }

  // ---- drawing

  const runAt = (x) => (data.runs.length > 1 && x >= state.swipe * shown.width ? state.right : state.left);
  const UNSURE = [240, 228, 66];
  const SURE = [0, 60, 120];

  function draw() {
    if (!shown) return;
    const { width, height, rgba, truth } = shown;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const sheet = pen.createImageData(width, height);
    const out = sheet.data;
    const isFaint = state.layer === "errors";
    for (let y = 0, p = 0; y < height; y++) {
      for (let x = 0; x < width; x++, p++) {
        const at = 4 * p;
        const run = runAt(x);
        const colour = colourAt(p, run, truth);
        const grey = isFaint ? 110 + (0.3 * rgba[at] + 0.59 * rgba[at + 1] + 0.11 * rgba[at + 2]) * 0.45 : 0;
        for (let c = 0; c < 3; c++) {
          const below = isFaint ? grey : rgba[at + c];
          out[at + c] = colour ? below + (colour[c] - below) * state.opacity : below;
        }
        out[at + 3] = 255;
      }
    }
    pen.putImageData(sheet, 0, 0);
    canvas.style.imageRendering = width < 400 ? "pixelated" : "auto";
    mark(width, height);
  }

  function colourAt(p, run, truth) {
    const predicted = shown.predicted[run][p];
    if (state.layer === "truth") return truth && state.on[truth[p]] ? data.classes[truth[p]].rgb : null;
    if (state.layer === "predicted") return state.on[predicted] ? data.classes[predicted].rgb : null;
    if (state.layer === "confidence") {
      if (!state.on[predicted]) return null;
      const sure = shown.confidence[run][p] / 255;
      return UNSURE.map((low, c) => low + (SURE[c] - low) * sure);
    }
    const isWrong = truth && truth[p] !== VOID && truth[p] !== predicted;
    return isWrong && (state.on[truth[p]] || state.on[predicted]) ? data.wrong : null;
  }

  function mark(width, height) {
    const line = Math.max(1, width / 400);
    if (data.runs.length > 1) {
      pen.fillStyle = "#ffffff";
      pen.fillRect(state.swipe * width - line, 0, 2 * line, height);
      pen.fillStyle = "#000000";
      pen.fillRect(state.swipe * width - line / 2, 0, line, height);
    }
    if (state.point && document.activeElement === canvas) {
      const [x, y] = state.point;
      for (const [ink, reach] of [["#000000", 3 * line], ["#ffffff", 2 * line]]) {
        pen.fillStyle = ink;
        pen.fillRect(x + 0.5 - 5 * line - reach / 4, y + 0.5 - reach / 4, 10 * line + reach / 2, reach / 2);
        pen.fillRect(x + 0.5 - reach / 4, y + 0.5 - 5 * line - reach / 4, reach / 2, 10 * line + reach / 2);
      }
    }
  }

  // ---- what is told of a pixel and of an image

  const nameOf = (id) => (id === VOID ? "void" : data.classes[id].name);
  const two = (value) => (value === null ? "–" : value.toFixed(2));
  const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);

  function tell() {
    if (!shown || !state.point) return;
    const [x, y] = state.point;
    const p = y * shown.width + x;
    const runs = data.runs.length > 1 ? [...new Set([state.left, state.right])] : [0];
    const parts = runs.map((run) => {
      const predicted = shown.predicted[run][p];
      const isWrong = shown.truth && shown.truth[p] !== VOID && shown.truth[p] !== predicted;
      const sure = shown.confidence[run] ? `, confidence ${(shown.confidence[run][p] / 255).toFixed(2)}` : "";
      const who = data.runs.length > 1 ? `${data.runs[run]}: ` : "prediction: ";
      return `${who}${nameOf(predicted)}${isWrong ? " (wrong)" : ""}${sure}`;
    });
    one(".readout").textContent = [...(shown.truth ? [`truth: ${nameOf(shown.truth[p])}`] : []), ...parts].join(" · ");
  }

  function describe() {
    const image = data.images[state.chosen];
    const run = image.runs[state.left];
    const of = image.runs.map((each, k) => (data.runs.length > 1 ? `${data.runs[k]} ` : "IoU ") + two(each.iou)).join(", ");
    const scores = hasTruth ? `${of}${data.runs.length > 1 ? "" : `, confidence ${two(run.confidence)}`}` : `confidence ${two(run.confidence)}`;
    const place = [image.condition, image.site].filter(Boolean).join(", ");
    one(".what").textContent = `${place && `${place}: `}${scores}. ${image.key}`;
    canvas.setAttribute("aria-label", `${image.key}, ${scores}`);
    all(".classes button").forEach((button, k) => {
      button.setAttribute("aria-pressed", String(state.on[k]));
      const ious = data.runs.length > 1 ? [image.runs[state.left], image.runs[state.right]] : [run];
      one(".iou", button).textContent = ious.map((each) => (hasTruth ? two : percent)(each.classes[k])).join(" | ");
    });
    all(".strip button").forEach((button) => {
      if (Number(button.dataset.number) === state.chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  async function choose(number) {
    state.chosen = number;
    state.point = null;
    one(".readout").textContent = "Point at the image, or go there with the arrow keys.";
    describe();
    const layers = await layersOf(number);
    if (number !== state.chosen) return; // another one was chosen meanwhile
    shown = layers;
    draw();
    root.dataset.shown = String(number);
  }

  function go(steps) {
    const at = state.listed.indexOf(state.chosen);
    if (!state.listed.length) return;
    choose(state.listed[(at + steps + state.listed.length) % state.listed.length]);
  }

  // ---- the list

  const filter = (name) => one(`[data-filter="${name}"]`)?.value ?? ""; // what cannot be chosen is not there
  const least = (image, of) => image.runs.map(of).reduce((a, b) => (b === null || (a !== null && a <= b) ? a : b), null);

  async function list() {
    const k = filter("class") === "" ? null : Number(filter("class"));
    const iouOf = (image) => least(image, (run) => run.iou);
    const sureOf = (image) => least(image, (run) => run.confidence);
    const ofClass = (image) => least(image, (run) => run.classes[k]);
    const passes = (image) =>
      (!filter("condition") || image.condition === filter("condition")) &&
      (!filter("site") || image.site === filter("site")) &&
      (k === null || ofClass(image) !== null) &&
      (iouOf(image) === null || iouOf(image) <= Number(filter("iou")) + 1e-9) &&
      (sureOf(image) === null || sureOf(image) >= Number(filter("confidence")) - 1e-9);
    const listed = data.images.map((_, i) => i).filter((i) => passes(data.images[i]));
    const sort = filter("sort");
    const keys = { iou: iouOf, confidence: sureOf, class: k === null ? iouOf : ofClass }; // without a class: by IoU
    if (sort === "differ") {
      const shares = new Map();
      for (const i of listed) shares.set(i, await differing(i));
      listed.sort((a, b) => shares.get(b) - shares.get(a));
    } else if (sort) {
      const key = keys[sort.replace("-", "")];
      const sign = sort.startsWith("-") ? -1 : 1;
      const value = (i) => sign * (key(data.images[i]) ?? (sign > 0 ? Infinity : -Infinity));
      listed.sort((a, b) => value(a) - value(b));
    }
    state.listed = listed;
    one(".count").textContent = `${listed.length} of ${data.images.length} images`;
    one(".strip").replaceChildren(...listed.map(thumbnail));
    if (listed.length && !listed.includes(state.chosen)) await choose(listed[0]);
    else describe();
  }

  async function differing(number) {
    const { predicted } = await layersOf(number);
    const [left, right] = [predicted[state.left], predicted[state.right]];
    return left.reduce((sum, id, p) => sum + (id !== right[p]), 0) / left.length;
  }

  function thumbnail(number) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const image = document.createElement("img");
    const text = document.createElement("span");
    button.type = "button";
    button.dataset.number = String(number);
    image.src = one(`[data-shot="${number}"] [data-layer=photograph]`, document).src;
    image.alt = "";
    const about = data.images[number];
    text.textContent = [about.condition, hasTruth ? about.runs.map((run) => two(run.iou)).join(" | ") : two(about.runs[0].confidence)]
      .filter(Boolean)
      .join(" ");
    button.append(image, text);
    button.addEventListener("click", () => choose(number));
    item.append(button);
    return item;
  }

  // ---- setting up

  function option(value, text) {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    return made;
  }

  function fill(name, values) {
    one(`[data-filter="${name}"]`).append(...values.map(([value, text]) => option(value, text)));
  }

  function setUp() {
    const distinct = (name) => [...new Set(data.images.map((image) => image[name]))].filter(Boolean);
    fill("condition", distinct("condition").map((name) => [name, name]));
    fill("site", distinct("site").map((name) => [name, name]));
    fill("class", data.classes.map(({ name }, k) => [String(k), name]));
    const keep = { groups: distinct("condition").length > 1, sites: distinct("site").length > 1, runs: data.runs.length > 1 };
    all("[data-only]").forEach((element) => keep[element.dataset.only] || element.remove());
    all('[data-see="left"], [data-see="right"]').forEach((select) => {
      select.append(...data.runs.map((name, k) => option(String(k), name)));
      select.value = String(state[select.dataset.see]);
    });
    one(".classes").append(
      ...data.classes.map(({ name, rgb }, k) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        const [colour, text, iou] = ["i", "span", "span"].map((tag) => document.createElement(tag));
        button.type = "button";
        colour.style.background = `rgb(${rgb.join(",")})`;
        text.textContent = name;
        iou.className = "iou";
        button.append(colour, text, iou);
        button.addEventListener("click", () => {
          state.on[k] = !state.on[k];
          describe();
          draw();
        });
        item.append(button);
        return item;
      }),
    );
  }

  function listen() {
    all("[data-filter]").forEach((input) =>
      input.addEventListener("input", () => {
        const output = one("output", input.parentElement);
        if (output) output.textContent = Number(input.value).toFixed(2);
        list();
      }),
    );
    one(".filters").addEventListener("submit", (event) => event.preventDefault());
    all("[name=layer]").forEach((input) => input.addEventListener("change", () => setLayer(input.value)));
    all("[data-see]").forEach((input) =>
      input.addEventListener("input", () => {
        state[input.dataset.see] = Number(input.value);
        describe();
        draw();
        tell();
        if (input.tagName === "SELECT" && filter("sort") === "differ") list();
      }),
    );
    all("[data-go]").forEach((button) => button.addEventListener("click", () => go(Number(button.dataset.go))));
    all("[data-classes]").forEach((button) =>
      button.addEventListener("click", () => {
        state.on.fill(button.dataset.classes === "all");
        describe();
        draw();
      }),
    );
    canvas.addEventListener("pointermove", (event) => {
      if (!shown) return;
      const box = canvas.getBoundingClientRect();
      pointAt(((event.clientX - box.left) / box.width) * shown.width, ((event.clientY - box.top) / box.height) * shown.height);
      if (event.buttons && data.runs.length > 1) swipeTo(state.point[0] / shown.width);
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (data.runs.length > 1 && shown) swipeTo(event.offsetX / canvas.clientWidth);
    });
    root.addEventListener("keydown", onKey);
  }

  function setLayer(name) {
    state.layer = name;
    const input = one(`[name=layer][value="${name}"]`);
    if (input) input.checked = true;
    draw();
  }

  function swipeTo(share) {
    state.swipe = Math.min(1, Math.max(0, share));
    one('[data-see="swipe"]').value = String(state.swipe);
    draw();
  }

  function pointAt(x, y) {
    const inside = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value)));
    state.point = [inside(x, shown.width), inside(y, shown.height)];
    tell();
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.target === canvas && arrows[event.key] && shown) {
      const step = Math.max(1, Math.round(shown.width / 64));
      const [x, y] = state.point ?? [shown.width / 2, shown.height / 2];
      pointAt(x + step * arrows[event.key][0], y + step * arrows[event.key][1]);
      draw();
    } else if (event.key === "n" || event.key === "p") {
      go(event.key === "n" ? 1 : -1);
    } else if (all("[name=layer]")[Number(event.key) - 1]) {
      setLayer(all("[name=layer]")[Number(event.key) - 1].value);
    } else if (event.key === "+" || event.key === "-") {
      state.opacity = Math.min(1, Math.max(0, state.opacity + (event.key === "+" ? 0.1 : -0.1)));
      one('[data-see="opacity"]').value = String(state.opacity);
      draw();
    } else {
      return;
    }
    event.preventDefault();
  }

  setUp();
  listen();
  root.hidden = false;
  document.getElementById("shots").hidden = true;
  list()
    .then(() => choose(state.chosen))
    .catch((error) => {
      root.hidden = true;
      document.getElementById("shots").hidden = false; // as without a script
      throw error;
    });
})();
