"""Line charts as inline SVG: time to the right, each script's part of it shaded in turn."""

import math
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 190, 60, 22, 8
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a")


def nice_ceiling(value):
    """The next of 1, 2, 5 times a power of ten."""
    power = 1e-6
    while True:
        for step in (1, 2, 5):
            if step * power >= value:
                return step * power
        power *= 10


def label(value):
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"


def scale(top, logarithmic):
    """The share of the height at which a value is drawn, and the values that get a grid line. A logarithmic one begins at 1,
    for latencies of milliseconds and of seconds have to be read in one picture."""
    if not logarithmic:
        return (lambda value: value / top), [0, top / 2, top]
    decades = max(1, math.ceil(math.log10(top)))
    return (lambda value: math.log10(max(1, value)) / decades), [10**power for power in range(decades + 1)]


def chart(title, unit, series, spans, end, logarithmic=False):
    """`series`: name to (second, value) pairs, a value of None breaks the line. `spans`: (name, begin, end) in seconds."""
    values = [value for points in series.values() for _, value in points if value is not None]
    height_of, grid = scale(nice_ceiling(max(values, default=1) or 1), logarithmic)
    end = max(end, 1)

    def x(second):
        return LEFT + second / end * (WIDTH - LEFT - 10)

    def y(value):
        return TOP + (1 - height_of(value)) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for number, (name, begin, stop) in enumerate(spans):
        if number % 2 == 0:
            parts.append(f'<rect x="{x(begin):.1f}" y="{TOP}" width="{x(stop) - x(begin):.1f}" '
                         f'height="{HEIGHT - TOP - BOTTOM}" class="span"/>')
        parts.append(f'<text x="{(x(begin) + x(stop)) / 2:.1f}" y="{HEIGHT - 6}" class="name">{escape(name)}</text>')
    for value in grid:
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" class="tick">{label(value)}</text>')
    for colour, points in zip(COLOURS, series.values()):
        line, pen = [], "M"
        for second, value in points:
            if value is None:
                pen = "M"
                continue
            line.append(f"{pen}{x(second):.1f},{y(value):.1f}")
            pen = "L"
        parts.append(f'<path d="{" ".join(line)}" stroke="{colour}" class="line"/>')
    parts.append("</svg>")
    legend = " ".join(f'<span style="color:{colour}">&#9632; {escape(name)}</span>' for colour, name in zip(COLOURS, series))
    return f"<h2>{escape(title)} <small>{escape(unit)}</small></h2><p>{legend}</p>{''.join(parts)}"
