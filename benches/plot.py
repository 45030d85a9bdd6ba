"""Draws throughput against object size as an SVG: both axes logarithmic, one line per client."""

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 880, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 48, 56
# Told apart also by who cannot tell red from green, and on a dark page.
COLOURS = ["#0072b2", "#56b4e9", "#d55e00", "#cc79a7", "#e69f00", "#009e73", "#7f7f7f"]
FONT = 'font-family="system-ui, sans-serif" fill="#808080"'
TEXT, SMALL = f'{FONT} font-size="12"', f'{FONT} font-size="11"'


def size_name(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:g} {unit}"
        count /= 1024
    return None


def draw(title, note, lines):
    """`lines`: name → [(bytes of an object, MiB/s)]."""
    sizes = sorted({size for points in lines.values() for size, _ in points})
    rates = [rate for points in lines.values() for _, rate in points]
    low, high = (10.0 ** f(math.log10(v)) for f, v in ((math.floor, min(rates)), (math.ceil, max(rates))))
    span_x = max(math.log2(sizes[-1] / sizes[0]), 1)
    span_y = max(math.log10(high / low), 1)

    def x(size):
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log2(size / sizes[0]) / span_x

    def y(rate):
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log10(rate / low) / span_y

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="20" {TEXT} font-weight="bold">{escape(title)}</text>',
        f'<text x="{LEFT}" y="37" {SMALL}>{escape(note)}</text>',
    ]
    rate = low
    while rate <= high * 1.001:
        out.append(f'<path d="M{LEFT} {y(rate):.1f}H{WIDTH - RIGHT}" stroke="#808080" stroke-opacity=".3"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y(rate) + 4:.1f}" text-anchor="end" {TEXT}>{rate:g}</text>')
        rate *= 10
    for size in sizes:
        out.append(
            f'<text x="{x(size):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle" {TEXT}>{size_name(size)}</text>'
        )
    out.append(f'<text x="{LEFT - 60}" y="{TOP - 6}" {SMALL}>MiB/s</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" {TEXT}>size of an object</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        width = 3 if number < 2 else 1.5
        path = " ".join(f"{x(size):.1f},{y(rate):.1f}" for size, rate in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        out.extend(f'<circle cx="{x(s):.1f}" cy="{y(r):.1f}" r="{width}" fill="{colour}"/>' for s, r in points)
        at = TOP + 14 + 22 * number
        left = WIDTH - RIGHT + 18
        out.append(f'<path d="M{left} {at - 4}h22" stroke="{colour}" stroke-width="{width}"/>')
        out.append(f'<text x="{left + 30}" y="{at}" {TEXT}>{escape(name)}</text>')
    return "\n".join([*out, "</svg>", ""])
