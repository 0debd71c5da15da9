"use strict";
(() => {
  const FIRST = 25, MORE = 200, FILTER_FROM = 26;
  const make = (tag, options = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), options);
    node.append(...children);
    return node;
  };
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const whenSeen = (node, draw) => {
    const seen = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); draw(); }
    }, { rootMargin: "600px" });
    seen.observe(node);
  };
  const collator = new Intl.Collator(undefined, { numeric: true });

  // Tables: sorted as a whole, drawn a part at a time.
  const drawTable = (box) => {
    const { columns, rows, names, coded } = read(box.dataset.table);
    const text = (row, k) => (coded.includes(k) && typeof row[k] === "number" ? names[row[k]] : row[k]);
    const isNumber = columns.map((column) => column.form !== "text");
    let order = rows, shown = FIRST, sorted = -1, down = false, wanted = "";

    const body = make("tbody"), head = make("tr");
    const count = make("span"), more = make("button", { type: "button" });
    const headers = columns.map((column, k) => {
      const button = make("button", { type: "button", textContent: column.name });
      button.addEventListener("click", () => {
        // Numbers begin with the highest, text with A.
        down = sorted === k ? !down : isNumber[k];
        sorted = k;
        arrange();
      });
      const cell = make("th", { scope: "col", className: isNumber[k] ? "num" : "" }, button);
      head.append(cell);
      return cell;
    });
    const compare = (a, b) => {
      const x = text(a, sorted), y = text(b, sorted);
      const missing = (v) => v === null || v === "";
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      const found = isNumber[sorted] ? x - y : collator.compare(String(x), String(y));
      return down ? -found : found;
    };
    const arrange = () => {
      order = wanted
        ? rows.filter((row) => row.some((_, k) => String(text(row, k) ?? "").toLowerCase().includes(wanted)))
        : [...rows];
      if (sorted >= 0) order.sort(compare);
      headers.forEach((cell, k) => {
        if (k === sorted) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
        else cell.removeAttribute("aria-sort");
      });
      shown = FIRST;
      body.replaceChildren();
      extend(0);
    };
    const extend = (from) => {
      body.append(...order.slice(from, shown).map((row) => make("tr", {}, ...columns.map((column, k) => {
        const value = text(row, k), cell = make("td");
        if (!isNumber[k]) {
          cell.className = value === "wrong" && column.name === "verdict" ? "text wrong" : "text";
          cell.textContent = value ?? "";
        } else {
          cell.className = `num ${column.form}`;
          cell.textContent = value === null || value === "" ? "–" : value.toLocaleString("en-US", {
            minimumFractionDigits: column.digits, maximumFractionDigits: column.digits });
          if (column.form === "percent" && value > 0) cell.style.backgroundSize = `${value * .04}rem 2px`;
        }
        return cell;
      }))));
      const left = order.length - Math.min(shown, order.length);
      more.hidden = left === 0;
      more.textContent = `Show ${Math.min(left, MORE).toLocaleString("en-US")} more`;
      count.textContent = `${Math.min(shown, order.length).toLocaleString("en-US")} of ${order.length.toLocaleString("en-US")} rows`;
    };
    more.addEventListener("click", () => { const from = shown; shown += MORE; extend(from); });

    const table = make("table", {}, make("thead", {}, head), body);
    const caption = box.querySelector("h3") ?? box.closest("section").querySelector("h2");
    table.setAttribute("aria-label", caption.textContent);
    const parts = [make("div", { className: "scroll" }, table)];
    if (rows.length >= FILTER_FROM) {
      const search = make("input", { type: "search", placeholder: "Filter" });
      search.setAttribute("aria-label", `Filter: ${caption.textContent}`);
      search.addEventListener("input", () => { wanted = search.value.trim().toLowerCase(); arrange(); });
      parts.unshift(make("div", { className: "controls" }, search));
      parts.push(make("div", { className: "more" }, count, more));
    }
    box.querySelector(".slot").replaceWith(...parts);
    arrange();
  };

  // The confusion matrix, on a canvas: 400 classes are 160,000 cells.
  const drawMatrix = (box) => {
    const { names, counts } = read(box.dataset.matrix), size = names.length;
    const rows = names.map(() => new Map()), totals = new Array(size).fill(0);
    for (const [i, j, n] of counts) { rows[i].set(j, n); totals[i] += n; }
    const share = (i, j) => (rows[i].get(j) ?? 0) / Math.max(totals[i], 1);
    const [select, only] = box.querySelectorAll("select, input");
    const canvas = box.querySelector("canvas"), readout = box.querySelector(".readout"), hint = readout.textContent;
    const numbers = names.map((_, k) => k);
    let order = numbers, place = null, geometry = null;

    // Chains of classes, each followed by the one left that it is confused with most.
    const alike = () => {
      const links = numbers.map(() => new Map());
      for (const [i, j, n] of counts) {
        if (i === j) continue;
        links[i].set(j, (links[i].get(j) ?? 0) + n);
        links[j].set(i, (links[j].get(i) ?? 0) + n);
      }
      const weight = links.map((link) => [...link.values()].reduce((a, b) => a + b, 0));
      const starts = [...numbers].sort((a, b) => weight[b] - weight[a]), left = new Set(numbers), found = [];
      for (const start of starts) {
        let next = left.has(start) ? start : null;
        while (next !== null) {
          left.delete(next);
          found.push(next);
          next = [...links[next]].filter(([k]) => left.has(k)).sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
        }
      }
      return found;
    };
    const orders = {
      number: () => numbers,
      name: () => [...numbers].sort((a, b) => collator.compare(names[a], names[b])),
      accuracy: () => [...numbers].sort((a, b) => share(a, a) - share(b, b)),
      videos: () => [...numbers].sort((a, b) => totals[b] - totals[a]),
      alike,
    };
    const shorten = (name) => (name.length > 22 ? `${name.slice(0, 21)}…` : name);

    const draw = () => {
      const style = getComputedStyle(document.documentElement), width = canvas.parentElement.clientWidth;
      const named = size <= 60, font = Math.max(9, Math.min(12, width / size / 1.6));
      const pen = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
      pen.font = `${font}px system-ui, sans-serif`;
      const longest = named ? Math.max(...names.map((name) => pen.measureText(shorten(name)).width)) : 0;
      const margin = named ? Math.min(longest + 8, width * .35) : 20, side = width - margin, cell = side / size;
      canvas.width = width * ratio; canvas.height = width * ratio; canvas.style.height = `${width}px`;
      pen.scale(ratio, ratio);
      const color = (name) => style.getPropertyValue(name).trim();
      const low = color("--heat-low").split(" ").map(Number), high = color("--heat-high").split(" ").map(Number);
      pen.fillStyle = `rgb(${low.join(" ")})`;
      pen.fillRect(margin, margin, side, side);
      const where = new Array(size);
      order.forEach((k, position) => { where[k] = position; });
      let most = 0;
      if (only.checked) for (const [i, j] of counts) if (i !== j) most = Math.max(most, share(i, j));
      const gap = cell > 6 ? 1 : 0;
      for (const [i, j] of counts) {
        if (only.checked && i === j) continue;
        // The root keeps rare mistakes visible beside the diagonal.
        const depth = Math.sqrt(share(i, j) / (only.checked ? most || 1 : 1));
        const mixed = low.map((value, c) => Math.round(value + (high[c] - value) * (.2 + .8 * depth)));
        pen.fillStyle = `rgb(${mixed.join(" ")})`;
        pen.fillRect(margin + where[j] * cell, margin + where[i] * cell, Math.max(cell - gap, 1), Math.max(cell - gap, 1));
        if (cell >= 22) {
          pen.fillStyle = depth > .4 ? color("--paper") : color("--ink");
          pen.font = `${Math.min(12, cell / 2.2)}px system-ui, sans-serif`;
          pen.textAlign = "center"; pen.textBaseline = "middle";
          pen.fillText(String(rows[i].get(j)), margin + (where[j] + .5) * cell, margin + (where[i] + .5) * cell);
        }
      }
      pen.fillStyle = color("--soft"); pen.font = `${font}px system-ui, sans-serif`; pen.textBaseline = "middle";
      if (named) order.forEach((k, position) => {
        const middle = margin + (position + .5) * cell;
        pen.textAlign = "right"; pen.fillText(shorten(names[k]), margin - 5, middle, margin - 6);
        pen.save(); pen.translate(middle, margin - 5); pen.rotate(-Math.PI / 2); pen.textAlign = "left";
        pen.fillText(shorten(names[k]), 0, 0, margin - 6); pen.restore();
      });
      else {
        pen.textAlign = "left"; pen.fillText("predicted", margin, 10);
        pen.save(); pen.translate(10, margin + side); pen.rotate(-Math.PI / 2); pen.fillText("true", 0, 0); pen.restore();
      }
      geometry = { margin, cell };
      if (place) {
        pen.strokeStyle = color("--second"); pen.lineWidth = 2;
        pen.strokeRect(margin + place[1] * cell - 1, margin + place[0] * cell - 1, Math.max(cell, 4) + 1, Math.max(cell, 4) + 1);
      }
    };
    const say = () => {
      if (!place) { readout.textContent = hint; return; }
      const [i, j] = place.map((position) => order[position]), n = rows[i].get(j) ?? 0;
      const percent = (100 * share(i, j)).toFixed(1), total = totals[i].toLocaleString("en-US");
      readout.textContent = `true ${names[i]}, predicted ${names[j]}: ${n.toLocaleString("en-US")} of ${total} videos (${percent} %)`;
    };
    const move = (next) => { place = next; say(); draw(); };
    const clamp = (value) => Math.min(Math.max(value, 0), size - 1);
    canvas.addEventListener("pointermove", (event) => {
      const { margin, cell } = geometry;
      const next = [event.offsetY, event.offsetX].map((offset) => Math.floor((offset - margin) / cell));
      if (next.some((position) => position < 0 || position >= size)) { if (place) move(null); return; }
      if (!place || next[0] !== place[0] || next[1] !== place[1]) move(next);
    });
    canvas.addEventListener("pointerleave", () => { if (place) move(null); });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(place ? [clamp(place[0] + step[0]), clamp(place[1] + step[1])] : [0, 0]);
    });
    select.addEventListener("change", () => { order = orders[select.value](); place = null; say(); draw(); });
    only.addEventListener("change", draw);
    for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", draw);
    let known = 0;
    new ResizeObserver(() => {
      const width = canvas.parentElement.clientWidth;
      if (width !== known) { known = width; draw(); }
    }).observe(canvas.parentElement);
  };

  for (const box of document.querySelectorAll("[data-table]")) {
    if (box.dataset.rows < FILTER_FROM) { drawTable(box); continue; }
    // Room for what will be drawn, so that nothing moves while the page is read.
    box.querySelector(".slot").style.height = `${(FIRST + 4) * 2}rem`;
    whenSeen(box, () => drawTable(box));
  }
  for (const box of document.querySelectorAll("[data-matrix]")) whenSeen(box, () => drawMatrix(box));
  for (const button of document.querySelectorAll(".clip:not([disabled])")) {
    const image = button.querySelector("img"), still = image.src;
    button.addEventListener("click", () => {
      const plays = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(plays));
      image.src = plays ? image.dataset.moving : still;
    });
  }
  // Print what has not been seen yet, too.
  addEventListener("beforeprint", () => {
    for (const box of document.querySelectorAll("[data-table]")) if (box.querySelector(".slot")) drawTable(box);
  });
})();
