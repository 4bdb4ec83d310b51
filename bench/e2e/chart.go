package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The chart's dimensions, in user units of SVG.
const (
	chartWidth  = 760
	chartLeft   = 190 // where the ratio 0 is
	chartRight  = 730
	chartTop    = 84
	rowHeight   = 26
	groupGap    = 14
	laneHeight  = 6
	ratioStep   = 0.25
	ratioAtMost = 1.5 // greater ratios are drawn at the edge
)

// colours of the variants, in the order of the plan: readable on white and on
// black, and distinguishable with red-green colour blindness.
var colours = []string{"#7f8c9b", "#e69f00", "#0b84d9", "#cc5fa5", "#12a182", "#d55e00"}

func (r results) chartTitle() string {
	return "Cycles per second as a ratio to " + r.plan.title(r.plan.against[0])
}

// chart returns the ratios to the first base as an SVG image: a row for each load
// and number of connections, in it a mark for each variant's median and a line over
// its interquartile range. It follows the reader's colour scheme.
func (r results) chart() ([]byte, error) {
	p := r.plan
	keys, _ := p.keys()
	base := p.against[0]
	others := without(p.variants, base)

	var body bytes.Buffer
	y := chartTop
	last := ""
	for _, k := range keys {
		if k.load != last && last != "" {
			y += groupGap
		}
		if k.load != last {
			fmt.Fprintf(&body, "<text class=\"strong\" x=\"10\" y=\"%d\">%s</text>\n", y+rowHeight/2+4, html.EscapeString(p.load(k.load).title))
		}
		last = k.load
		fmt.Fprintf(&body, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d</text>\n", chartLeft-14, y+rowHeight/2+4, k.conns)
		for i, v := range others {
			s := r.measurements.ratio(k, v.name, base, rate)
			lane := float64(y) + rowHeight/2 + (float64(i)-float64(len(others)-1)/2)*laneHeight
			fmt.Fprintf(&body, "<g fill=\"%[1]s\" stroke=\"%[1]s\"><title>%[2]s: %.2[3]f (%.2[4]f–%.2[5]f)</title>"+
				"<line x1=\"%.1[6]f\" x2=\"%.1[7]f\" y1=\"%.1[8]f\" y2=\"%.1[8]f\" stroke-width=\"2\" stroke-opacity=\"0.5\"/>"+
				"<circle cx=\"%.1[9]f\" cy=\"%.1[8]f\" r=\"3.5\" stroke=\"none\"/></g>\n",
				p.colour(v.name), html.EscapeString(v.title), s.Median, s.Lower, s.Upper,
				ratioX(s.Lower), ratioX(s.Upper), lane, ratioX(s.Median))
		}
		y += rowHeight
	}
	bottom := y + 6

	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" font-family="system-ui, sans-serif" font-size="13">
<style>
text { fill: #24292f } .strong { font-weight: 600 } .grid { stroke: #d0d7de } .base { stroke: #24292f }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .grid { stroke: #3d444d } .base { stroke: #e6edf3 } }
</style>
<text class="strong" x="10" y="22" font-size="15">%s</text>
`, chartWidth, bottom+34, html.EscapeString(r.chartTitle()))
	x := chartLeft
	for _, v := range others {
		fmt.Fprintf(&out, "<circle cx=\"%d\" cy=\"45\" r=\"4.5\" fill=\"%s\"/><text x=\"%d\" y=\"50\">%s</text>\n",
			x, p.colour(v.name), x+11, html.EscapeString(v.title))
		x += 32 + 7*len(v.title)
	}
	fmt.Fprintf(&out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">connections</text>\n", chartLeft-14, chartTop-8)
	for ratio := 0.0; ratio <= ratioAtMost; ratio += ratioStep {
		class := "grid"
		if ratio == 1 {
			class = "base"
		}
		fmt.Fprintf(&out, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1[2]f\" y1=\"%d\" y2=\"%d\"/><text x=\"%.1[2]f\" y=\"%[5]d\" text-anchor=\"middle\">%[6]g</text>\n",
			class, ratioX(ratio), chartTop-4, bottom, bottom+18, ratio)
	}
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes(), nil
}

// ratioX returns the horizontal position of a ratio.
func ratioX(ratio float64) float64 {
	return chartLeft + (chartRight-chartLeft)*math.Min(ratio, ratioAtMost)/ratioAtMost
}

// colour returns the colour of a variant.
func (p plan) colour(name string) string {
	for i, v := range p.variants {
		if v.name == name {
			return colours[i%len(colours)]
		}
	}
	return colours[0]
}
