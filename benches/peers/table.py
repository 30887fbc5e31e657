"""Figures → the table for docs/performance.md, and the bars they are held against."""
from statistics import median

OURS = "tidegate"
# scenario, metric, what it is, whether less is better, (bar, against which peers) ...
ROWS = [
    ("short", "cpu_us", "short connection, CPU µs, saturated", True, [(1.00, "all")]),
    ("short", "a_second", "short connections a second, saturated", False, []),
    ("short", "rate_cpu_us", "short connection, CPU µs at 2,000/s", True, [(1.00, "all")]),
    ("short", "rate_p50_us", "short connection, p50 µs at 2,000/s", True, []),
    ("short", "rate_p99_us", "short connection, p99 µs at 2,000/s", True, []),
    ("message", "cpu_us", "64 B message, CPU µs per round trip, saturated", True, [(1.00, "all")]),
    ("message", "a_second", "64 B round trips a second, saturated", False, []),
    ("message", "rate_cpu_us", "64 B message, CPU µs at 10,000/s", True, [(1.00, "all")]),
    ("message", "rate_p50_us", "64 B message, p50 µs at 10,000/s", True, []),
    ("message", "rate_p99_us", "64 B message, p99 µs at 10,000/s", True, []),
    ("bulk", "c16_cpu_s_gib", "bulk, CPU s/GiB, 16 connections", True, [(0.75, "all"), (0.40, "shipped")]),
    ("bulk", "c16_gbit_s", "bulk, Gbit/s, 16 connections", False, []),
    ("bulk", "c1_cpu_s_gib", "bulk, CPU s/GiB, 1 connection", True, []),
    ("bulk", "c1_gbit_s", "bulk, Gbit/s, 1 connection", False, []),
    ("idle", "resident_b", "idle connection, resident bytes", True, []),
    ("syscalls", "short_alone", "system calls per short connection, alone", True, []),
    ("syscalls", "short_busy", "system calls per short connection, busy", True, []),
    ("syscalls", "message_alone", "system calls per round trip, alone", True, []),
    ("syscalls", "message_busy", "system calls per round trip, busy", True, []),
]
MOST_RESIDENT = 1700


def number(x):
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.1f}" if abs(x) >= 10 else f"{x:.2f}"


def cell(values):
    """Median, and the minimum in brackets."""
    if not values:
        return "–"
    return number(median(values)) if len(values) == 1 else f"{number(median(values))} ({number(min(values))})"


def against(ours, theirs, less):
    """(label, median ratio over the rounds, ratio of the best rounds) against the better of `theirs`."""
    theirs = {label: values for label, values in theirs.items() if values}
    if not ours or not theirs:
        return None
    label = sorted(theirs, key=lambda l: median(theirs[l]), reverse=not less)[0]
    pairs = [a / b for a, b in zip(ours, theirs[label]) if b]
    best = min if less else max
    return label, median(pairs), best(ours) / best(theirs[label])


def print_table(title, figures, peers):
    """Prints the table and the bars; True when every bar that could be judged is held."""
    labels = [OURS] + [p.label for p in peers if any(found.get(p.label) for found in figures.values())]
    shipped = {p.label for p in peers if p.shipped}
    lines, bars = [["", *labels, "to the better peer", "minima"]], []
    for scenario, metric, what, less, limits in ROWS:
        values = {l: [f[metric] for f in figures.get(scenario, {}).get(l, []) if metric in f] for l in labels}
        if not any(values.values()):
            continue
        ours, theirs = values[OURS], {l: v for l, v in values.items() if l != OURS}
        ratio = against(ours, theirs, less)
        lines.append([what, *(cell(values[l]) for l in labels),
                      f"{ratio[1]:.2f} ({ratio[0]})" if ratio else "–", f"{ratio[2]:.2f}" if ratio else "–"])
        for limit, whom in limits:
            theirs = {l: v for l, v in theirs.items() if whom == "all" or l in shipped}
            if ratio := against(ours, theirs, less):
                bars.append([f"{what}: ≤ {limit:.2f} × {ratio[0]}", "PASS" if ratio[1] <= limit else "FAIL",
                             f"{ratio[1]:.2f} (of minima {ratio[2]:.2f})"])
        if metric == "resident_b" and ours:
            bars.append([f"{what}: ≤ {MOST_RESIDENT:,}", "PASS" if median(ours) <= MOST_RESIDENT else "FAIL",
                         number(median(ours))])
    print(f"\n{title}. Median (minimum).\n")
    print_markdown(lines)
    print_system_calls(figures.get("syscalls", {}))
    print_remarks(figures)
    return print_bars(None, bars)


def print_bars(title, bars):
    """Prints PASS or FAIL of each; True when none failed."""
    if title:
        print(f"\n{title}.")
    if bars:
        print()
        print_markdown([["bar", "", "measured"], *bars])
    return all(verdict != "FAIL" for _, verdict, _ in bars)


def print_markdown(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(x.ljust(w) for x, w in zip(line, widths)) + " |" for line in lines]
    rows.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print("\n".join(rows))


def print_system_calls(rounds):
    """Which calls make up the busy counts."""
    for what in ("short_busy", "message_busy"):
        for label, found in rounds.items():
            calls = sorted(((n, k.split(".")[1]) for k, n in (found[0] if found else {}).items()
                            if k.startswith(what + ".") and n >= 0.05), reverse=True)
            if calls:
                print(f"\n{what}, {label}: " + ", ".join(f"{name} {n:.2f}" for n, name in calls), end="")
    if rounds:
        print()


def print_remarks(figures):
    """What makes a figure doubtful: errors, noise."""
    everything = [(s, l, f) for s, labels in figures.items() for l, rounds in labels.items() for f in rounds]
    for scenario, label, f in everything:
        for word in ("errors", "lost"):
            if f.get(word):
                print(f"\nremark: {scenario}, {label}: {f[word]} {word} in a round", end="")
    noisiest = max((f.get("noise", 0) for _, _, f in everything), default=0)
    print(f"\nOthers took at most {noisiest * 100:.1f} % of the machine in a window that was kept.")
