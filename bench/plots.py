"""The measured curves and comparisons as SVG, for docs/; the only place that needs matplotlib (extra `bench`)."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "nfssvc"  # the same figures give the same file
mpl.rcParams["svg.fonttype"] = "none"    # text stays text: small files, and a reader can search them
mpl.rcParams["font.size"] = 9

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

Point = dict[str, object]
TITLES = {"connections": "GETATTR over open connections", "exports": "GETATTR over exports", "files": "calls over files served",
          "directory": "a directory of so many entries"}
UNITS = {"connections": "connections", "exports": "exports", "files": "files", "directory": "entries"}
COLOURS = {"floor": "#999999", "ours": "#1f5fa8", "ours-async": "#6fa8dc", "unfs3": "#c0392b", "ganesha": "#d68910"}
STYLES = ["-", "--", ":", "-."]


def number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n")


def lines(axes: Axes, points: list[Point], metric: str) -> None:
    """One line a series and side; a side's colour, a series' style."""
    series = list(dict.fromkeys(str(p["series"]) for p in points))
    names = list(dict.fromkeys(str(p["side"]) for p in points))
    for name in names:
        for one, style in zip(series, STYLES * 3, strict=False):
            mine = [p for p in points if (p["side"], p["series"]) == (name, one)]
            axes.plot([number(p["n"]) for p in mine], [number(p[metric]) for p in mine], style, marker="o", markersize=3,
                      color=COLOURS[name] if len(names) > 1 else None, label=one if len(names) == 1 else f"{name}: {one}")
    axes.set_xscale("log")
    axes.grid(True, alpha=0.3)


def curves(points: list[Point], about: dict[str, object], folder: Path) -> None:
    """One file a curve, `curve-NAME.svg`: processor time and latency (p50) of a call, or of an entry."""
    for curve in dict.fromkeys(str(p["curve"]) for p in points):
        mine = [p for p in points if p["curve"] == curve and "cpu_us" in p]
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        each = "call or entry" if curve == "directory" else "call"
        for axes, metric, label in ((left, "cpu_us", f"server's processor µs a {each}"), (right, "p50_us", f"median µs a {each}, client's clock")):
            lines(axes, mine, metric)
            axes.set(xlabel=UNITS[curve], ylabel=label)
            axes.set_yscale("log" if curve == "directory" else "linear")
            if curve != "directory":
                axes.set_ylim(bottom=0)
        left.legend(fontsize=7)
        figure.suptitle(f"{TITLES[curve]}; {about['date']}, {about['cpus']} cores", fontsize=9)
        save(figure, folder / f"curve-{curve}.svg")


def bars(works: Iterable[str], figures: dict[str, dict[str, float]], label: str, title: str, path: Path) -> None:
    """Grouped horizontal bars, a group a work, a bar a side: figures[side][work]."""
    names = list(works)
    figure, axes = plt.subplots(figsize=(9, 0.4 + 0.16 * len(names) * (len(figures) + 1)), layout="constrained")
    for k, (side, by_work) in enumerate(figures.items()):
        there = [(i, by_work[w]) for i, w in enumerate(names) if w in by_work]
        axes.barh([i + (k + 0.5) / (len(figures) + 1) for i, _ in there], [v for _, v in there], height=1 / (len(figures) + 1),
                  color=COLOURS.get(side), label=side)
    axes.set_yticks([i + 0.4 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.grid(True, axis="x", alpha=0.3)
    axes.legend(fontsize=7)
    axes.set_title(title, fontsize=9)
    save(figure, path)
