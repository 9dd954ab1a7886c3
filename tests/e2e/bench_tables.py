"""The tables of mount-scripts/bench, and their place in docs/BENCHMARKS.md."""
import statistics

from bench_jobs import JOBS
from bench_systems import PEERS, title

BEGIN, END = "<!-- bench {}: made by mount-scripts/bench -->", "<!-- bench {}: end -->"

# What forelog is to reach: job, figure, against what (a system, a figure of its own, or nothing), how, and whether more is better.
TARGETS = [
    ("write", "p50", "floor", 1.3, False),
    ("stream", "rate", "floor", 0.8, True),
    ("stream", "rate", None, 1200, True),
    ("fsync1", "rate", "ext4", 1.1, True),
    ("fsync16", "rate", "ext4", 2, True),
    ("small", "rate", "floor", 0.6, True),
    ("small", "rate", "every peer", 10, True),
    ("small_fsync", "rate", "ext4", 2, True),
    ("sqlite", "rate", "ext4", 1, True),
    ("sqlite", "rate", "juicefs", 10, True),
    ("tree", "untar", "ext4", 1.5, False),
    ("tree", "untar", "every peer", 1 / 3, False),
    ("tree", "git status, first", "ext4", 1.5, False),
    ("tree", "git status, first", "every peer", 1 / 3, False),
    ("tree", "git status", "ext4", 1.5, False),
    ("tree", "git status", "every peer", 1 / 3, False),
    ("clone", "git clone", "ext4", 1.5, False),
    ("clone", "git clone", "every peer", 1 / 3, False),
    ("beside", "p99 beside", "p99 alone", 2, False),
    ("replay", "per GiB", None, 1, False),
    ("store", "flush", "cp, synced", 0.7, True),
    ("store_s3", "flush", "rclone copy", 0.9, True),
]


def number(x):
    """Three significant digits, without an exponent."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


class Results:
    """All values: of a job's figure, by system."""

    def __init__(self):
        self.values, self.units, self.failures = {}, {}, {}

    def add(self, job, system, figures):
        for figure, (unit, value) in figures.items():
            self.units[job, figure] = unit
            self.values.setdefault((job, figure), {}).setdefault(system, []).append(value)

    def fail(self, job, system, why):
        self.failures[job, system] = why

    def median(self, job, figure, system):
        v = self.values.get((job, figure), {}).get(system)
        return statistics.median(v) if v else None

    def cell(self, job, figure, system):
        v = self.values.get((job, figure), {}).get(system)
        if not v:
            return "fails" if (job, system) in self.failures else "-"
        text = number(statistics.median(v))
        return text if len(v) == 1 or min(v) == max(v) else f"{text} ({number(min(v))} to {number(max(v))})"


def ratio(ours, theirs):
    return ours / theirs if theirs else float("inf")


def judged(r, systems, target):
    """Rows of one target: one for each of our mounts and each of those it is held against."""
    job, figure, against, limit, more = target
    own = (job, against) in r.values
    for us in (s for s in systems if s.startswith("forelog")):
        ours = r.median(job, figure, us)
        if against == "every peer":
            others = [p for p in systems if p in PEERS]
        elif against == "floor":
            others = [us.replace("forelog", "floor")]
        else:
            others = [us] if own or against is None else [against]
        for other in others:
            # A figure of the same run in the same mount, another system's, or a bound of its own.
            theirs = 1 if against is None else r.median(job, against if own else figure, other)
            if ours is None or theirs is None:
                if (job, us) not in r.failures and (job, other) not in r.failures:
                    continue
                # Against one that cannot do it nothing can be said.
                name = "itself" if other == us else title(other)
                yield [JOBS[job][0], figure, title(us), "fails" if ours is None else number(ours), f"{name}{'' if theirs else ' fails'}", "-", "-",
                       "**not met**" if ours is None else "-"]
                continue
            x = ratio(ours, theirs)
            ok = x >= limit if more else x <= limit
            unit = r.units[job, figure]
            sign = ">=" if more else "<="
            if against is None:
                row = [f"{number(ours)} {unit}", "-", "-", f"{sign} {number(limit)} {unit}"]
            else:
                name = against if own else title(other)
                row = [f"{number(ours)} {unit}", f"{name}: {number(theirs)}", f"{x:.2f}", f"{sign} {limit:.2g}"]
            yield [JOBS[job][0], figure, title(us), *row, "met" if ok else "**not met**"]


def line(cells):
    return "| " + " | ".join(cells) + " |"


def grid(head, rows):
    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def targets_table(r, systems):
    rows = [row for t in TARGETS for row in judged(r, systems, t)]
    met, of = sum(row[-1] == "met" for row in rows), sum(row[-1] != "-" for row in rows)
    head = ["job", "figure", "mount", "median", "against", "ratio of medians", "target", ""]
    return [f"{met} of {of} targets met.", "", *grid(head, rows)]


def figures_table(r, systems):
    rows = [[JOBS[job][0], figure, r.units[job, figure], *(r.cell(job, figure, s) for s in systems)] for job, figure in r.values]
    out = grid(["job", "figure", "unit", *map(title, systems)], rows)
    if r.failures:
        out += ["", "What failed:", "", *(f"- {title(s)}, {JOBS[j][0]}: {why}" for (j, s), why in r.failures.items())]
    return out


def between(path, section):
    """A file's text before, in and behind a section. Errors: it has no such section."""
    begin, end = BEGIN.format(section), END.format(section)
    with open(path, encoding="utf-8") as f:
        text = f.read()
    at, to = text.find(begin), text.find(end)
    if at < 0 or to < at:
        raise ValueError(f"{path}: no lines {begin} and {end} to write between")
    return text[:at], begin, text[to:]


def put_section(path, section, lines):
    """Replaces what stands between the markers; the rest of the file is written by hand."""
    before, begin, behind = between(path, section)
    with open(path, "w", encoding="utf-8") as f:
        f.write(before + "\n".join([begin, "", *lines, ""]) + "\n" + behind)
