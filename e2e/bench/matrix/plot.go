// Copyright 2026 The FSVA Authors.
// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// The plot's measures, in pixels.
const (
	plotLeft   = 280 // where the scale begins: right of the rows' titles
	plotWidth  = 640 // of the scale
	plotRight  = 40
	plotTop    = 60
	plotStep   = 11 // between the columns of a row
	plotGap    = 14 // between rows
	plotLegend = 18 // height of a line of the legend
)

// plotColours are the columns' colours, in their order. They differ in brightness too.
var plotColours = []string{"#7f7f7f", "#1f77b4", "#7fb8e0", "#d62728", "#ff9e6d", "#145214", "#58b158"}

// svg is the document; its children are in drawing order.
type svg struct {
	XMLName  xml.Name `xml:"svg"`
	NS       string   `xml:"xmlns,attr"`
	Width    int      `xml:"width,attr"`
	Height   int      `xml:"height,attr"`
	Font     string   `xml:"font-family,attr"`
	FontSize int      `xml:"font-size,attr"`
	Shapes   []any
}

type svgRect struct {
	XMLName xml.Name `xml:"rect"`
	Width   int      `xml:"width,attr"`
	Height  int      `xml:"height,attr"`
	Fill    string   `xml:"fill,attr"`
}

type svgLine struct {
	XMLName xml.Name `xml:"line"`
	X1      int      `xml:"x1,attr"`
	Y1      int      `xml:"y1,attr"`
	X2      int      `xml:"x2,attr"`
	Y2      int      `xml:"y2,attr"`
	Stroke  string   `xml:"stroke,attr"`
	Width   int      `xml:"stroke-width,attr"`
}

type svgCircle struct {
	XMLName xml.Name `xml:"circle"`
	X       int      `xml:"cx,attr"`
	Y       int      `xml:"cy,attr"`
	R       int      `xml:"r,attr"`
	Fill    string   `xml:"fill,attr"`
	Title   string   `xml:"title"`
}

type svgText struct {
	XMLName xml.Name `xml:"text"`
	X       int      `xml:"x,attr"`
	Y       int      `xml:"y,attr"`
	Anchor  string   `xml:"text-anchor,attr"`
	Text    string   `xml:",chardata"`
}

// scale maps a speed relative to the pick, on a logarithmic scale, to a place on the plot.
type scale struct{ min, max int } // powers of two

func (s scale) x(speed float64) int {
	at := (math.Log2(speed) - float64(s.min)) / float64(s.max-s.min)
	return plotLeft + int(math.Round(at*plotWidth))
}

// point is a cell on the plot: speeds relative to the pick's median.
type point struct {
	column             int
	median, least, top float64
}

func (r *Report) points(row *Row) []point {
	pick := r.cell(row.Name, ColumnPick)
	if !pick.valid() {
		return nil
	}
	base := Median(pick.samples)
	var points []point
	for i, col := range r.Columns {
		c := r.cell(row.Name, col.Name)
		if !c.valid() {
			continue
		}
		a, b := relative(row, slices.Min(c.samples), base), relative(row, slices.Max(c.samples), base)
		points = append(points, point{column: i, median: relative(row, Median(c.samples), base), least: min(a, b), top: max(a, b)})
	}
	return points
}

// SVG returns a plot of all cells: per row, a dot for each column's median and a line for its spread, by their speed
// relative to ColumnPick. Rows in which that was not measured are empty.
func (r *Report) SVG() ([]byte, error) {
	s := scale{min: -1, max: 1}
	for _, row := range r.Rows {
		for _, p := range r.points(row) {
			s.min = min(s.min, int(math.Floor(math.Log2(p.least))))
			s.max = max(s.max, int(math.Ceil(math.Log2(p.top))))
		}
	}
	rowHeight := plotStep*len(r.Columns) + plotGap
	bottom := plotTop + rowHeight*len(r.Rows)
	doc := svg{NS: "http://www.w3.org/2000/svg", Width: plotLeft + plotWidth + plotRight,
		Height: bottom + plotLegend*(len(r.Columns)+2), Font: "sans-serif", FontSize: 12}
	add := func(shapes ...any) { doc.Shapes = append(doc.Shapes, shapes...) }
	add(svgRect{Width: doc.Width, Height: doc.Height, Fill: "white"},
		svgText{X: plotLeft, Y: 20, Anchor: "start", Text: "Times as fast as " + ColumnPick +
			fmt.Sprintf(" (dot: median of %d; line: least to most)", r.Rounds)})
	for e := s.min; e <= s.max; e++ {
		x, stroke, label := s.x(math.Exp2(float64(e))), "#dddddd", strconv.Itoa(1<<max(e, 0))
		if e == 0 {
			stroke = "#000000"
		} else if e < 0 {
			label = "1/" + strconv.Itoa(1<<-e)
		}
		add(svgLine{X1: x, Y1: plotTop - 8, X2: x, Y2: bottom, Stroke: stroke, Width: 1},
			svgText{X: x, Y: plotTop - 14, Anchor: "middle", Text: label})
	}
	for i, row := range r.Rows {
		top := plotTop + rowHeight*i
		add(svgText{X: plotLeft - 12, Y: top + rowHeight/2, Anchor: "end", Text: row.Title})
		for _, p := range r.points(row) {
			y, colour := top+plotStep*p.column+plotStep, plotColours[p.column%len(plotColours)]
			add(svgLine{X1: s.x(p.least), Y1: y, X2: s.x(p.top), Y2: y, Stroke: colour, Width: 2},
				svgCircle{X: s.x(p.median), Y: y, R: 4, Fill: colour, Title: fmt.Sprintf("%s: %.2f", r.Columns[p.column].Name, p.median)})
		}
	}
	for i, col := range r.Columns {
		y := bottom + plotLegend*(i+1)
		add(svgCircle{X: plotLeft + 4, Y: y, R: 4, Fill: plotColours[i%len(plotColours)], Title: col.Name},
			svgText{X: plotLeft + 16, Y: y + 4, Anchor: "start", Text: col.Name + ": " + col.Title})
	}
	data, err := xml.MarshalIndent(doc, "", " ")
	return append(data, '\n'), err
}
