"use strict";
document.documentElement.classList.add("js");
document.addEventListener("DOMContentLoaded", () => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const boards = all("table.board");

  // Sorting: a first click puts the better end on top, a second turns it round, a third restores the order as written.
  const places = new Map();
  boards.forEach((board) => [...board.tBodies].forEach((body, place) => places.set(body, place)));
  const valueOf = (body, column, text) => {
    const cell = body.rows[0].cells[column];
    if (text) return (cell.querySelector(".name") || cell).textContent.trim().toLowerCase();
    return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const sort = (board, head, direction) => {
    const column = head.cellIndex, text = head.querySelector("button").dataset.sort === "text";
    const sign = direction === "descending" ? -1 : 1;
    const pinned = (body) => (body.classList.contains("reference") ? 0 : 1);
    const order = (a, b) => {
      if (pinned(a) !== pinned(b)) return pinned(a) - pinned(b);
      if (direction !== "none") {
        const x = valueOf(a, column, text), y = valueOf(b, column, text);
        if (x === null || y === null) { if (x !== y) return x === null ? 1 : -1; }
        else if (x !== y) return text ? sign * x.localeCompare(y, "en", { numeric: true }) : sign * (x - y);
      }
      return places.get(a) - places.get(b);
    };
    all("thead th[aria-sort]", board).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", direction);
    board.append(...[...board.tBodies].sort(order));
  };
  all("thead button[data-sort]").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th"), first = button.dataset.sort === "high" ? "descending" : "ascending";
      const second = first === "descending" ? "ascending" : "descending";
      const next = { none: first, [first]: second, [second]: "none" }[head.getAttribute("aria-sort")];
      sort(head.closest("table"), head, next);
    });
  });

  // Filters: within a kind any, between kinds all.
  const tools = document.querySelector(".tools"), find = document.getElementById("find");
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = {};
    all(".chip[data-kind][aria-pressed=true]").forEach((chip) => {
      (chosen[chip.dataset.kind] ??= new Set()).add(chip.dataset.value);
    });
    let shown = 0, total = 0;
    boards.forEach((board) => {
      let here = 0;
      const summary = board.dataset.dataset === undefined;
      for (const body of board.tBodies) {
        const has = (kind) => {
          const value = kind === "dataset" ? board.dataset.dataset : body.dataset[kind];
          return !chosen[kind] || value === undefined || chosen[kind].has(value);
        };
        const passes = words.every((word) => body.dataset.words.includes(word)) && ["dataset", "backbone", "state"].every(has);
        body.hidden = !passes;
        here += passes;
      }
      const none = board.closest("section").querySelector("p.none");
      if (none) none.hidden = here > 0;
      if (!summary) { shown += here; total += board.tBodies.length; }
    });
    document.querySelector(".count").textContent = shown === total ? `${total} rows` : `${shown} of ${total} rows`;
  };
  if (tools) {
    tools.hidden = false;
    find.addEventListener("input", filter);
    filter();
  }
  all(".chip").forEach((chip) => {
    chip.addEventListener("click", () => {
      const pressed = chip.getAttribute("aria-pressed") !== "true";
      chip.setAttribute("aria-pressed", String(pressed));
      if (chip.dataset.group === undefined) return filter();
      boards.forEach((board) => {
        all("thead th[data-group]", board).filter((head) => head.dataset.group === chip.dataset.group).forEach((head) => {
          head.hidden = !pressed;
          if (!head.closest(".groups")) for (const body of board.tBodies) body.rows[0].cells[head.cellIndex].hidden = !pressed;
        });
      });
    });
  });

  // Rows open to their details.
  const open = (button, wanted) => {
    button.setAttribute("aria-expanded", String(wanted));
    button.closest("tbody").rows[1].classList.toggle("shown", wanted);
  };
  all("button.open").forEach((button) => {
    button.hidden = false;
    button.firstElementChild.textContent += button.nextElementSibling.textContent;
    button.addEventListener("click", () => open(button, button.getAttribute("aria-expanded") !== "true"));
  });

  // Arrow keys go from a row's button through its cells, so that intervals need no pointer.
  boards.forEach((board) => board.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td, th"), row = cell && cell.parentElement;
    if (!row || row.parentElement.tagName !== "TBODY" || row.classList.contains("more")) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], turn = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    let next = null;
    if (step) for (next = row.cells[cell.cellIndex + step]; next && next.hidden; next = row.cells[next.cellIndex + step]);
    if (turn) {
      const bodies = [...board.tBodies].filter((body) => !body.hidden);
      const body = bodies[bodies.indexOf(row.parentElement) + turn];
      next = body && body.rows[0].cells[cell.cellIndex];
    }
    if (!next) return;
    event.preventDefault();
    const target = next.querySelector("button.open") || next;
    if (target === next) next.tabIndex = -1;
    target.focus();
  }));

  // Tips: one element, above all that scrolls.
  const tip = document.createElement("div");
  tip.id = "tip"; tip.hidden = true; tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  const show = (event) => {
    const cell = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !cell;
    all("[aria-describedby=tip]").forEach((other) => other.removeAttribute("aria-describedby"));
    if (!cell) return;
    tip.textContent = cell.dataset.tip;
    cell.setAttribute("aria-describedby", "tip");
    const box = cell.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.max(6, Math.min(box.right - own.width, document.documentElement.clientWidth - own.width - 6));
    const below = box.bottom + 4 + own.height < window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + 4 : box.top - own.height - 4}px`;
  };
  ["mouseover", "focusin", "click"].forEach((name) => document.addEventListener(name, show));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);

  // Commands are copied.
  all("button.copy").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling;
      try { await navigator.clipboard.writeText(code.textContent); }
      catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  });

  // A link to a run opens it.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const closed = target.closest("details");
    if (closed) closed.open = true;
    const button = target.tagName === "TBODY" && target.querySelector("button.open");
    if (button) open(button, true);
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", reveal);
  reveal();
});
