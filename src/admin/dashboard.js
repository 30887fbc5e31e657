"use strict";
(() => {
  const POINTS = 60;
  const MANY = 50;
  const OTHERS = "not healthy";
  const STATES = ["healthy", "unhealthy", "ejected", "draining", "disabled", "unknown"];
  const TONE = { reinstated: "good", enabled: "good", evicted: "bad", reload_failed: "bad", takeover: "odd", draining: "odd", disabled: "odd" };
  const byId = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  // Writing only what has changed keeps 500 rows cheap, and leaves selected text selected.
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  let token = sessionStorage.getItem("tidegate-token") || "";
  let status = null, seenAt = 0, lostAt = 0;
  let filter = "all", words = [];
  let focused = null;
  let lastEvent = 0;
  const rows = new Map(), pools = new Map(), listeners = new Map();

  // ---- numbers ----
  const bytes = (n) => {
    for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
      if (n < 999.5) return `${unit === "B" || n >= 99.95 ? Math.round(n) : n.toFixed(1)} ${unit}`;
      n /= 1024;
    }
    return `${n.toFixed(1)} PiB`;
  };
  const count = (n) => n >= 99.95 || Number.isInteger(n) ? Math.round(n).toLocaleString("en") : n.toFixed(1);
  const span = (s) => {
    s = Math.max(0, Math.floor(s));
    const d = Math.floor(s / 86400), h = Math.floor(s / 3600) % 24, m = Math.floor(s / 60) % 60;
    return d ? `${d}d ${h}h` : h ? `${h}h ${m}m` : m ? `${m}m ${s % 60}s` : `${s}s`;
  };
  const since = (time) => span((Date.now() - Date.parse(time)) / 1000);
  const clock = (time) => {
    const at = new Date(time), clock = at.toLocaleTimeString("en-GB");
    if (at.toDateString() === new Date().toDateString()) return clock;
    return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${clock}`;
  };

  // ---- charts ----
  const SVG = "http://www.w3.org/2000/svg";
  const chart = () => {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const name of ["ground", "area", "stroke"]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      svg.append(path);
    }
    svg.firstChild.setAttribute("d", `M0 19.5L${POINTS - 1} 19.5`);
    return svg;
  };
  const draw = (svg, values) => {
    const most = Math.max(1, ...values), left = POINTS - values.length;
    const line = values.map((v, i) => `${left + i} ${(19 - 17 * v / most).toFixed(1)}`).join("L");
    svg.children[1].setAttribute("d", values.length ? `M${left} 20L${line}L${POINTS - 1} 20Z` : "");
    svg.lastChild.setAttribute("d", values.length ? `M${line}` : "");
  };
  const push = (values, value) => { values.push(value); if (values.length > POINTS) values.shift(); };

  // ---- asking ----
  class Refused extends Error {
    constructor(code, message) { super(message); this.code = code; }
  }
  const headers = (more) => ({ ...(token ? { Authorization: `Bearer ${token}` } : {}), ...more });
  const ask = async (path, options = {}) => {
    const response = await fetch(path, { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(10000), ...options, headers: headers(options.headers) });
    const body = await response.json().catch(() => ({}));
    if (!response.ok) throw new Refused(response.status, body.error || `the instance answered ${response.status}`);
    return body;
  };
  const change = (path, body) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

  let noticeTimer;
  const notify = (text, bad) => {
    const notice = byId("notice");
    notice.textContent = text;
    notice.classList.toggle("bad", Boolean(bad));
    notice.hidden = false;
    clearTimeout(noticeTimer);
    noticeTimer = setTimeout(() => { notice.hidden = true; }, bad ? 10000 : 4000);
  };

  const openDialog = (dialog) => new Promise((done) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
  let asking = false;
  // While the instance refuses what this page has, it is asked nothing more.
  let barred = null, unbar = null;
  const bar = () => {
    byId("token-open").hidden = false;
    if (!barred) barred = new Promise((done) => { unbar = done; });
  };
  const askForToken = async (wrong) => {
    if (asking) return;
    asking = true;
    put(byId("token-error"), wrong && token ? "That token was refused." : "");
    byId("token-value").value = "";
    const yes = await openDialog(byId("token"));
    asking = false;
    if (!yes) return;
    token = byId("token-value").value.trim();
    sessionStorage.setItem("tidegate-token", token);
    if (unbar) unbar();
    else refresh();
    barred = unbar = null;
  };
  byId("token-open").addEventListener("click", () => askForToken(false));

  const ACTS = {
    drain: { key: "d", label: "Drain", head: (n) => `Drain ${n}?`, text: "It gets no new connections. Those that are open go on." },
    enable: { key: "e", label: "Enable", head: (n) => `Enable ${n}?`, text: "It is used again as soon as its checks allow." },
    failover: { key: "f", label: "Make active", head: (n) => `Make ${n} the active one?`, text: "New connections go there at once. What happens to open ones is what the pool's demotion says." },
  };
  const isPossible = (act, row) =>
    act === "drain" ? !["draining", "disabled"].includes(row.data.state)
      : act === "enable" ? ["draining", "disabled"].includes(row.data.state)
      : row.pool.active !== null && row.pool.active !== row.data.name && row.data.usable;
  const doAct = async (act, row) => {
    if (!isPossible(act, row)) return;
    const name = `${row.pool.name}/${row.data.name}`;
    put(byId("confirm-head"), ACTS[act].head(name));
    put(byId("confirm-text"), ACTS[act].text);
    put(byId("confirm-yes"), ACTS[act].label);
    if (!await openDialog(byId("confirm"))) return;
    const pool = `/api/v1/pools/${encodeURIComponent(row.pool.name)}`;
    try {
      if (act === "failover") await change(`${pool}/failover`, { backend: row.data.name });
      else await change(`${pool}/backends/${encodeURIComponent(row.data.name)}/${act}`, {});
      notify(`${ACTS[act].label}: ${name}: done`);
    } catch (error) {
      if (error.code === 401) { bar(); askForToken(true); }
      notify(`${name}: ${error.message}`, true);
    }
    refresh();
    row.element.focus();
  };

  // ---- what is shown: totals and listeners ----
  const totals = [["Open connections", count], ["New per second", count], ["In per second", bytes], ["Out per second", bytes]].map(([label, print]) => {
    const element = make("div", "total"), value = make("b", "", "–"), svg = chart();
    element.append(make("span", "quiet", label), value, svg);
    byId("totals").append(element);
    return { value, svg, print, values: [] };
  });
  const showTotals = (numbers, isKnown) => totals.forEach((total, i) => {
    if (i > 0 && !isKnown) return;
    put(total.value, total.print(numbers[i]));
    push(total.values, numbers[i]);
    draw(total.svg, total.values);
  });
  const showListeners = () => {
    const there = new Set();
    for (const data of status.listeners) {
      there.add(data.name);
      let shown = listeners.get(data.name);
      if (!shown) {
        shown = { element: make("div", "listener"), text: make("span", "quiet"), open: make("span") };
        shown.element.append(make("b", "", data.name), shown.text, make("br"), shown.open);
        listeners.set(data.name, shown);
        byId("listeners").append(shown.element);
      }
      put(shown.text, data.addresses.join(", "));
      put(shown.open, `${count(data.connections_active)} open, ${count(data.connections_total)} accepted`);
    }
    sweep(listeners, there);
  };
  const sweep = (map, there) => {
    for (const [key, shown] of map) if (!there.has(key)) { shown.element.remove(); map.delete(key); }
  };

  // ---- pools and backends ----
  const visible = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const row = rows.get(entry.target.dataset.key);
      if (row) { row.visible = entry.isIntersecting; if (row.visible) drawRow(row); }
    }
  }, { rootMargin: "200px" });
  const drawRow = (row) => { draw(row.connChart, row.conns); draw(row.byteChart, row.bytes); };

  const makePool = (data) => {
    const element = make("details", "pool"), summary = make("summary");
    const pool = {
      element, data, rotation: make("span"), troubled: make("span", "down"), strategy: make("span", "quiet"), active: make("span", "quiet"),
      flow: make("span", "quiet sums"), body: make("div"),
      // Where there are many, a line for each pool is what shows them all.
      wanted: status.pools.reduce((sum, p) => sum + p.backends.length, 0) <= MANY,
    };
    element.open = pool.wanted;
    // Only what somebody does by hand is remembered, not what a search opens.
    summary.addEventListener("click", () => { if (!isSearching()) pool.wanted = !element.open; });
    summary.append(make("h3", "", data.name), pool.rotation, pool.troubled, pool.strategy, pool.active, pool.flow);
    const head = make("div", "row head");
    head.setAttribute("aria-hidden", "true");
    for (const [name, text] of [["", "State"], ["", "Backend"], ["number", "Open"], ["", "Connections/s"], ["", "Bytes/s"], ["number weight", "Weight"], ["reason", "Why"], ["", ""]]) head.append(make("span", name, text));
    element.append(summary, head, pool.body);
    byId("pools").append(element);
    return pool;
  };
  const makeRow = (pool, key) => {
    const element = make("div", "row");
    element.dataset.key = key;
    element.tabIndex = -1;
    element.setAttribute("role", "group");
    const row = {
      element, key, pool: null, data: null, visible: false, conns: [], bytes: [], before: null,
      state: make("span", "state"), since: make("div", "since"), name: make("span", "name"), active: make("span", "tag active", "active"),
      used: make("span", "tag"), address: make("div", "address"), open: make("div", "number"), rate: make("span", "rate"), flow: make("span", "flow"), into: make("span"), out: make("span"),
      weight: make("div", "number weight"), reason: make("div", "reason"), connChart: chart(), byteChart: chart(), buttons: {},
    };
    const cell = (name, ...inside) => { const div = make("div", name); div.append(...inside); return div; };
    const acts = make("div", "acts");
    for (const act of Object.keys(ACTS)) {
      const button = make("button", "", ACTS[act].label);
      button.type = "button";
      button.tabIndex = -1;
      button.addEventListener("click", () => doAct(act, row));
      row.buttons[act] = button;
      acts.append(button);
    }
    element.append(cell("status", row.state, row.since), cell("identity", row.name, row.active, row.used, row.address), row.open,
      cell("chart", row.connChart, row.rate), cell("chart", row.byteChart, row.flow), row.weight, row.reason, acts);
    row.flow.append(row.into, row.out);
    element.addEventListener("focusin", () => focusRow(row));
    pool.body.append(element);
    visible.observe(element);
    return row;
  };
  const focusRow = (row) => {
    if (focused === row) return;
    if (focused) setTabs(focused, -1);
    focused = row;
    setTabs(row, 0);
  };
  const setTabs = (row, index) => {
    row.element.tabIndex = index;
    for (const button of Object.values(row.buttons)) button.tabIndex = index;
  };

  const fillRow = (row, pool, data, seconds) => {
    const before = row.data;
    row.pool = pool;
    row.data = data;
    // Of one look there is no rate; a counter that shrank has begun anew.
    const isKnown = before && seconds > 0;
    const per = (key) => isKnown ? Math.max(0, data[key] - before[key]) / seconds : 0;
    const rate = per("connections_total"), into = per("bytes_in"), out = per("bytes_out");
    if (isKnown) {
      push(row.conns, rate);
      push(row.bytes, into + out);
    }
    if (before && before.state !== data.state) {
      row.element.classList.remove("changed");
      void row.element.offsetWidth;
      row.element.classList.add("changed");
    }
    const kind = `row ${STATES.includes(data.state) ? data.state : "unknown"}`;
    if (!before || before.state !== data.state) {
      row.element.className = before ? `${kind} changed` : kind;
      row.state.className = `state ${data.state}`;
    }
    put(row.state, data.state);
    put(row.since, since(data.since));
    row.since.title = data.since;
    put(row.name, data.name);
    const isActive = pool.active === data.name;
    row.active.hidden = !isActive;
    put(row.used, data.in_rotation ? "in rotation" : pool.active !== null && data.usable ? "standby" : "not used");
    row.used.hidden = isActive && data.in_rotation;
    const where = [data.address === data.name ? "" : data.address, data.priority ? `priority ${data.priority}` : ""];
    put(row.address, where.filter(Boolean).join(" · "));
    put(row.open, count(data.connections_active));
    put(row.rate, isKnown ? count(rate) : "–");
    row.rate.title = `${count(data.connections_total)} so far`;
    put(row.into, isKnown ? `in ${bytes(into)}` : "–");
    put(row.out, isKnown ? `out ${bytes(out)}` : "");
    row.flow.title = `${bytes(data.bytes_in)} in, ${bytes(data.bytes_out)} out so far`;
    put(row.weight, String(data.weight));
    put(row.reason, data.reason);
    for (const act of Object.keys(ACTS)) {
      row.buttons[act].hidden = !isPossible(act, row);
    }
    row.element.setAttribute("aria-label", `${pool.name}/${data.name}, ${data.state}`);
    row.text = [pool.name, data.name, data.address, data.reason, data.state].join(" ").toLowerCase();
    if (row.visible) drawRow(row);
    return [data.connections_active, rate, into, out];
  };

  const show = (fresh, at) => {
    const seconds = seenAt ? (at - seenAt) / 1000 : 0;
    status = fresh;
    seenAt = at;
    put(byId("instance"), `${status.version} · up ${span(status.uptime_seconds)} · configuration ${status.config_hash}`);
    const therePools = new Set(), thereRows = new Set(), sums = [0, 0, 0, 0];
    for (const data of status.pools) {
      therePools.add(data.name);
      let pool = pools.get(data.name);
      if (!pool) pools.set(data.name, pool = makePool(data));
      pool.data = data;
      const used = data.backends.filter((b) => b.in_rotation).length;
      put(pool.rotation, used ? `${used} of ${data.backends.length} in rotation` : "nothing in rotation");
      pool.rotation.className = used ? "" : "down";
      const troubled = data.backends.filter(isTroubled).length;
      put(pool.troubled, troubled ? `${troubled} evicted` : "");
      put(pool.strategy, data.strategy);
      put(pool.active, data.active === null ? "" : `${data.active} is active`);
      const own = [0, 0, 0, 0];
      for (const backend of data.backends) {
        const key = JSON.stringify([data.name, backend.name]);
        thereRows.add(key);
        let row = rows.get(key);
        if (!row) rows.set(key, row = makeRow(pool, key));
        fillRow(row, data, backend, seconds).forEach((n, i) => { own[i] += n; });
      }
      put(pool.flow, `${count(own[0])} open` + (seconds > 0 ? ` · ${count(own[1])} new/s · in ${bytes(own[2])}/s · out ${bytes(own[3])}/s` : ""));
      own.forEach((n, i) => { sums[i] += n; });
    }
    sweep(pools, therePools);
    sweep(rows, thereRows);
    if (focused && !rows.has(focused.key)) focused = null;
    if (!focused && rows.size) focusRow(rows.values().next().value);
    showTotals(sums, seconds > 0);
    showListeners();
    showVerdict();
    showFilter();
    applyFilter();
  };

  // ---- the verdict: what somebody woken up needs first ----
  const isTroubled = (backend) => ["unhealthy", "ejected"].includes(backend.state);
  const showVerdict = () => {
    const down = status.pools.filter((p) => !p.backends.some((b) => b.in_rotation));
    const all = [...rows.values()];
    const isDown = (row) => !row.pool.backends.some((b) => b.in_rotation);
    // What hurts most stands first: a pool that serves nobody, then what happened last.
    const troubled = all.filter((r) => isTroubled(r.data)).sort((a, b) =>
      isDown(b) - isDown(a) || Date.parse(b.data.since) - Date.parse(a.data.since));
    const off = all.filter((r) => ["draining", "disabled"].includes(r.data.state));
    const verdict = byId("verdict");
    const many = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
    let text, tone;
    if (down.length) {
      text = `Nothing in rotation in ${many(down.length, "pool")}: ${down.map((p) => p.name).join(", ")}`;
      tone = "bad";
    } else if (troubled.length) {
      text = `${many(troubled.length, "backend")} of ${all.length} evicted; every pool still has one in rotation`;
      tone = "odd";
    } else {
      text = `All well: ${many(all.length, "backend")} in ${many(status.pools.length, "pool")}`;
      tone = "good";
    }
    if (off.length) text += `; ${off.length} taken out by an operator`;
    put(byId("verdict-text"), text);
    verdict.className = `verdict ${tone}`;
    const short = down.length ? `✕ ${many(down.length, "pool")} down · ` : troubled.length ? `▲ ${troubled.length} evicted · ` : "";
    document.title = `${short}tidegate`;
    const list = byId("troubles");
    const lines = troubled.slice(0, 6).map((r) => [r.key, `${r.pool.name}/${r.data.name} ${r.data.state} for ${since(r.data.since)}: ${r.data.reason}`]);
    if (troubled.length > 6) lines.push(["", `and ${troubled.length - 6} more`]);
    while (list.children.length > lines.length) list.lastChild.remove();
    while (list.children.length < lines.length) {
      const item = make("li"), button = make("button");
      button.type = "button";
      button.addEventListener("click", () => {
        if (button.dataset.key) goTo(rows.get(button.dataset.key));
        else { choose(OTHERS); byId("search").scrollIntoView({ block: "center" }); }
      });
      item.append(button);
      list.append(item);
    }
    lines.forEach(([key, line], i) => {
      const button = list.children[i].firstChild;
      button.dataset.key = key;
      put(button, line);
    });
  };
  const goTo = (row) => {
    if (!row) return;
    words = [];
    byId("search").value = "";
    choose("all");
    const pool = pools.get(row.pool.name);
    pool.element.open = pool.wanted = true;
    row.element.scrollIntoView({ block: "center" });
    row.element.focus();
  };

  // ---- search and filter ----
  const chips = new Map();
  const showFilter = () => {
    for (const name of ["all", OTHERS, ...STATES]) {
      const number = [...rows.values()].filter((r) => isChosen(name, r)).length;
      let chip = chips.get(name);
      if (!chip) {
        chip = make("button");
        chip.type = "button";
        chip.addEventListener("click", () => choose(name));
        chips.set(name, chip);
        byId("filter").append(chip);
      }
      put(chip, `${name} ${number}`);
      chip.hidden = number === 0 && name !== "all" && name !== filter;
      chip.setAttribute("aria-pressed", String(filter === name));
    }
  };
  const isChosen = (name, row) => name === "all" || (name === OTHERS ? row.data.state !== "healthy" : row.data.state === name);
  const isSearching = () => filter !== "all" || words.length > 0;
  const choose = (name) => {
    filter = name;
    showFilter();
    search();
  };
  // What was found is shown, whatever was folded; afterwards all is as it was.
  const search = () => {
    applyFilter();
    for (const pool of pools.values()) pool.element.open = isSearching() || pool.wanted;
  };
  const applyFilter = () => {
    let shown = 0;
    const filled = new Set();
    for (const row of rows.values()) {
      const fits = isChosen(filter, row) && words.every((w) => row.text.includes(w));
      row.element.hidden = !fits;
      row.element.style.display = fits ? "" : "none";
      if (fits) { shown += 1; filled.add(row.pool.name); }
    }
    for (const [name, pool] of pools) pool.element.hidden = !filled.has(name) && isSearching();
    put(byId("shown"), shown === rows.size ? "" : shown ? `${shown} of ${rows.size} shown` : "No backend is like that.");
  };
  byId("search").addEventListener("input", (event) => {
    words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    search();
  });

  // ---- keys ----
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const inField = event.target instanceof HTMLInputElement;
    if (event.key === "/" && !inField) { event.preventDefault(); byId("search").focus(); return; }
    if (event.key === "Escape" && event.target === byId("search")) {
      event.target.value = "";
      words = [];
      search();
      return;
    }
    if (inField && event.key !== "ArrowDown") return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const within = event.target.closest && event.target.closest(".row, #pools summary");
      if (!within && event.target !== byId("search") && event.target !== byId("pools")) return;
      const list = [...document.querySelectorAll("#pools summary, #pools .row:not(.head)")].filter((e) => e.checkVisibility());
      const at = within ? list.indexOf(within) : -1;
      const next = list[event.key === "ArrowDown" ? at + 1 : at - 1];
      if (next) { event.preventDefault(); next.focus(); }
      return;
    }
    const act = Object.keys(ACTS).find((name) => ACTS[name].key === event.key);
    if (act && focused && event.target.closest && event.target.closest(".row") === focused.element) {
      event.preventDefault();
      doAct(act, focused);
    }
  });

  // ---- events ----
  const story = (event) => {
    let text = event.cause === event.evidence ? `by the ${event.cause}` : `${event.cause}: ${event.evidence}`;
    if (event.kind === "recovery") text += ` (${event.action}: ${event.result})`;
    for (const p of event.problems || []) text += `; ${p.line}:${p.column}: ${p.path}: ${p.message}`;
    return text;
  };
  const subject = (event) => event.pool ? (event.backend ? `${event.pool}/${event.backend}` : event.pool) : "";
  const prepend = (list, item, most) => {
    if (list.firstChild && list.firstChild.className === "quiet") list.firstChild.remove();
    list.prepend(item);
    while (list.children.length > most) list.lastChild.remove();
  };
  const head = (event) => {
    const item = make("li"), time = make("time", "", clock(event.time));
    time.dateTime = event.time;
    time.title = event.time;
    item.append(time, make("span", `kind ${TONE[event.kind] || ""}`, event.kind), make("b", "", subject(event)));
    return item;
  };
  const hear = (event) => {
    lastEvent = event.id;
    const item = head(event);
    item.append(` ${story(event)}`);
    prepend(byId("events"), item, 200);
    if (event.kind === "takeover") {
      const report = head(event), list = make("dl"), ms = (n) => n === null || n === undefined ? "none yet" : `${count(n)} ms`;
      report.children[1].remove();
      report.append(make("div", "", `${event.from || "none"} → ${event.to}; ${story(event)}`));
      for (const [name, value] of [["detected in", ms(event.detection_ms)], ["taken over in", ms(event.takeover_ms)], ["retried", count(event.retried)], ["cut", count(event.cut)], ["lost", count(event.lost)]]) {
        const pair = make("div");
        pair.append(make("dt", "", name), make("dd", "", value));
        list.append(pair);
      }
      report.append(list);
      prepend(byId("takeovers"), report, 50);
    }
    soon();
  };
  const follow = async () => {
    for (;;) {
      await barred;
      try {
        const response = await fetch("/api/v1/events", { cache: "no-store", credentials: "omit", headers: headers({ Accept: "text/event-stream", "Last-Event-ID": String(lastEvent) }) });
        if (response.status === 401) bar();
        if (response.ok) {
          const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
          let rest = "";
          for (;;) {
            const { value, done } = await reader.read();
            if (done) break;
            rest += value;
            const frames = rest.split("\n\n");
            rest = frames.pop();
            for (const frame of frames) {
              const data = frame.split("\n").find((line) => line.startsWith("data: "));
              if (data) hear(JSON.parse(data.slice(6)));
            }
          }
        }
      } catch { /* The link's own sign says that the instance is gone. */ }
      await new Promise((done) => setTimeout(done, 1000));
    }
  };

  // ---- the clockwork ----
  let underWay = false, again = false, timer;
  const refresh = async () => {
    if (underWay) { again = true; return; }
    underWay = true;
    clearTimeout(timer);
    const link = byId("link");
    try {
      const fresh = await ask("/api/v1/status");
      show(fresh, performance.now());
      lostAt = 0;
      link.className = "link live";
      put(link, "live");
    } catch (error) {
      if (error.code === 401) {
        bar();
        link.className = "link";
        put(link, "token needed");
        put(byId("verdict-text"), "This instance asks for its token.");
        byId("verdict").className = "verdict odd";
        askForToken(true);
      } else {
        lostAt = lostAt || Date.now();
        link.className = "link lost";
        const silence = span((Date.now() - lostAt) / 1000);
        put(link, `no answer for ${silence}`);
        put(byId("verdict-text"), `The instance has not answered for ${silence}` + (status ? "; what is below is older than that" : ""));
        byId("troubles").replaceChildren();
        byId("verdict").className = "verdict bad";
        document.title = "✕ no answer · tidegate";
      }
    }
    underWay = false;
    // With a token that was refused nothing is asked until there is another one.
    if (barred) barred.then(refresh);
    else timer = setTimeout(refresh, again ? 50 : document.hidden ? 5000 : 1000);
    again = false;
  };
  let due = 0;
  const soon = () => {
    if (due) return;
    due = setTimeout(() => { due = 0; refresh(); }, 50);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  refresh();
  follow();
})();
